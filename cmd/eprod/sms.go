package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/eprod/eprod/internal/notify"
	"github.com/eprod/eprod/internal/participant"
)

// NotifyConfig bounds the sending of messages and names the gateways.
type NotifyConfig struct {
	notify.Config `koanf:",squash"`
	Aliyun        AliyunSettings  `koanf:"aliyun"`
	Tencent       TencentSettings `koanf:"tencent"`
	Twilio        TwilioSettings  `koanf:"twilio"`
	Email         EmailSettings   `koanf:"email"`
}

// AliyunSettings are those of the sender, with its secrets.
type AliyunSettings struct {
	notify.AliyunConfig `koanf:",squash"`
	AccessKeySecret     Secret `koanf:"accessKeySecret"`
	CallbackToken       Secret `koanf:"callbackToken"`
}

// TencentSettings are those of the sender, with its secrets.
type TencentSettings struct {
	notify.TencentConfig `koanf:",squash"`
	SecretKey            Secret `koanf:"secretKey"`
	CallbackToken        Secret `koanf:"callbackToken"`
}

// TwilioSettings are those of the sender, with its secret.
type TwilioSettings struct {
	notify.TwilioConfig `koanf:",squash"`
	AuthToken           Secret `koanf:"authToken"`
}

// EmailSettings are those of the sender of mail, with its secret.
type EmailSettings struct {
	notify.SMTPConfig `koanf:",squash"`
	Password          Secret `koanf:"password"`
}

func defaultNotify() NotifyConfig {
	c := NotifyConfig{Config: notify.DefaultServiceConfig()}
	c.Aliyun.AliyunConfig, c.Tencent.TencentConfig, c.Twilio.TwilioConfig = notify.DefaultAliyunConfig(), notify.DefaultTencentConfig(), notify.DefaultTwilioConfig()
	c.Email.SMTPConfig = notify.DefaultSMTPConfig()
	c.Aliyun.Templates, c.Tencent.Templates, c.Twilio.Templates = []notify.Code{}, []notify.Code{}, []notify.Code{}
	return c
}

func (c AliyunSettings) sender() notify.AliyunConfig {
	out := c.AliyunConfig
	out.Credentials = notify.Credentials{Secret: string(c.AccessKeySecret), CallbackToken: string(c.CallbackToken)}
	return out
}

func (c TencentSettings) sender() notify.TencentConfig {
	out := c.TencentConfig
	out.Credentials = notify.Credentials{Secret: string(c.SecretKey), CallbackToken: string(c.CallbackToken)}
	return out
}

func (c TwilioSettings) sender() notify.TwilioConfig {
	out := c.TwilioConfig
	out.Credentials = notify.Credentials{Secret: string(c.AuthToken)}
	return out
}

func (c EmailSettings) sender() notify.SMTPConfig {
	out := c.SMTPConfig
	out.Credentials = notify.Credentials{Secret: string(c.Password)}
	return out
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c NotifyConfig) Validate() error {
	problems := []error{c.Config.Validate()}
	for _, section := range []struct {
		name string
		err  error
	}{{notify.AliyunName, c.Aliyun.sender().Validate()}, {notify.TencentName, c.Tencent.sender().Validate()}, {notify.TwilioName, c.Twilio.sender().Validate()},
		{"email", c.Email.sender().Validate()}} {
		if section.err == nil {
			continue
		}
		for line := range strings.SplitSeq(section.err.Error(), "\n") {
			problems = append(problems, fmt.Errorf("%s.%s", section.name, line))
		}
	}
	return errors.Join(problems...)
}

// senders returns the enabled gateways: those of text messages in the settings' order, and the mail server.
func (c NotifyConfig) senders(parts notify.Parts, mail notify.SMTPParts) []notify.Sender {
	var senders []notify.Sender
	for _, name := range c.Order {
		switch {
		case name == notify.AliyunName && c.Aliyun.Enabled:
			senders = append(senders, notify.NewAliyun(c.Aliyun.sender(), parts))
		case name == notify.TencentName && c.Tencent.Enabled:
			senders = append(senders, notify.NewTencent(c.Tencent.sender(), parts))
		case name == notify.TwilioName && c.Twilio.Enabled:
			senders = append(senders, notify.NewTwilio(c.Twilio.sender(), parts))
		}
	}
	if c.Email.Enabled {
		senders = append(senders, notify.NewSMTP(c.Email.sender(), mail))
	}
	return senders
}

// messagesOf shows profiles to the messages.
type messagesOf struct{ personOf }

// Language implements notify.People.
func (m messagesOf) Language(ctx context.Context, id int64) (string, error) {
	p, err := m.Get(ctx, id)
	if err != nil {
		return "", err
	}
	return p.Language, nil
}

func (a *app) openMessages(people *participant.Profiles) error {
	templates, err := notify.NewTemplates(notify.DefaultTemplates())
	if err != nil {
		return err
	}
	dial := (&net.Dialer{Timeout: 2 * time.Second}).DialContext
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DialContext: dial,
		TLSHandshakeTimeout: 3 * time.Second, MaxIdleConnsPerHost: a.config.Notify.Burst, IdleConnTimeout: time.Minute}
	parts := notify.Parts{Client: &http.Client{Transport: transport}, Now: time.Now, Random: rand.Reader, Templates: templates}
	mail := notify.SMTPParts{Dial: dial, Now: time.Now, Templates: templates}
	senders := a.config.Notify.senders(parts, mail)
	a.showMessages(senders)
	a.messages = notify.NewService(a.config.Notify.Config, notify.ServiceParts{Deliveries: &notify.Store{Shards: a.shards}, Shards: a.shards, People: messagesOf{personOf{people}},
		Guard: a.guard, Senders: senders, Templates: templates, IDs: a.ids, Now: time.Now, Meter: a.metrics.Messages, Gauge: a.metrics.Health, Logger: a.log})
	return nil
}

func (p *program) sandboxCommand() *cobra.Command {
	return &cobra.Command{
		Use: "sms-sandbox", Short: "Run a local message gateway that speaks all three wire forms", Args: cobra.NoArgs,
		Long: "Takes messages in the forms of Alibaba Cloud, Tencent Cloud and Twilio, verifies their signatures, shows an inbox, sends receipts,\n" +
			"and misbehaves on command. Settings under smsSandbox; see docs/messages.md. Never on a public address: the inbox shows numbers.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.config()
			if err != nil {
				return err
			}
			sandbox := notify.NewSandbox(c.SMSSandbox, time.Now, newLogger(cmd.ErrOrStderr(), c))
			listener, err := (&net.ListenConfig{}).Listen(cmd.Context(), "tcp", c.SMSSandbox.Listen)
			if err != nil {
				return err
			}
			server := &http.Server{Handler: sandbox.Handler(), ReadHeaderTimeout: 5 * time.Second}
			served := make(chan error, 1)
			go func() { served <- server.Serve(listener) }()
			fmt.Fprintf(cmd.OutOrStdout(), "inbox http://%s/\n", listener.Addr())
			err = sandbox.Run(cmd.Context())
			closing := server.Close()
			if serving := <-served; !errors.Is(serving, http.ErrServerClosed) {
				err = errors.Join(err, serving)
			}
			return errors.Join(err, closing)
		},
	}
}
