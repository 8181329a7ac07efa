package notify

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
)

// Code is what one gateway calls one template in one language.
type Code struct {
	Template string `koanf:"template"` // key, such as task_due
	Language string `koanf:"language"` // such as zh; en stands in for languages that have no code
	Code     string `koanf:"code"`     // the gateway's name of the approved text
}

// Credentials are the secrets of a sender. They carry no settings tag: whoever reads settings fills them in from its own secret type,
// before Validate. They never appear in output.
type Credentials struct {
	Secret        string // AccessKeySecret, SecretKey, AuthToken or password
	CallbackToken string // Aliyun and Tencent do not sign callbacks; theirs carry ?token= with this
}

// String hides the secrets from %v and %s.
func (Credentials) String() string { return "***" }

// GoString hides the secrets from %#v.
func (Credentials) GoString() string { return "***" }

// MarshalText hides the secrets from encoders.
func (Credentials) MarshalText() ([]byte, error) { return []byte("***"), nil }

// AliyunConfig holds the settings of Alibaba Cloud Short Message Service. Start from DefaultAliyunConfig.
type AliyunConfig struct {
	Enabled     bool   `koanf:"enabled"`
	Endpoint    string `koanf:"endpoint"`    // https; http only for the sandbox
	AccessKeyID string `koanf:"accessKeyId"` // of a RAM user that may only send messages
	SignName    string `koanf:"signName"`    // approved signature
	Templates   []Code `koanf:"templates"`
	Credentials Credentials
}

// TencentConfig holds the settings of Tencent Cloud SMS. Start from DefaultTencentConfig.
type TencentConfig struct {
	Enabled     bool   `koanf:"enabled"`
	Endpoint    string `koanf:"endpoint"` // https; http only for the sandbox
	Region      string `koanf:"region"`   // such as ap-guangzhou
	SecretID    string `koanf:"secretId"` // of a CAM user that may only send messages
	AppID       string `koanf:"appId"`    // SmsSdkAppId
	SignName    string `koanf:"signName"` // approved signature
	From        string `koanf:"from"`     // SenderId outside mainland China; may be empty
	Templates   []Code `koanf:"templates"`
	Credentials Credentials
}

// TwilioConfig holds the settings of Twilio. Start from DefaultTwilioConfig.
type TwilioConfig struct {
	Enabled     bool   `koanf:"enabled"`
	Endpoint    string `koanf:"endpoint"`   // https; http only for the sandbox
	AccountSID  string `koanf:"accountSid"` // AC and 32 hexadecimal digits
	From        string `koanf:"from"`       // an E.164 number of ours, an alphanumeric sender, or a messaging service MG…
	Callback    string `koanf:"callback"`   // public address that receives delivery callbacks, exactly as Twilio sees it
	Templates   []Code `koanf:"templates"`  // content templates HX…; texts without one are sent as they stand in the template
	Credentials Credentials
}

// DefaultAliyunConfig returns what is the same for every account.
func DefaultAliyunConfig() AliyunConfig {
	return AliyunConfig{Endpoint: "https://dysmsapi.aliyuncs.com"}
}

// DefaultTencentConfig returns what is the same for every account.
func DefaultTencentConfig() TencentConfig {
	return TencentConfig{Endpoint: "https://sms.tencentcloudapi.com", Region: "ap-guangzhou"}
}

// DefaultTwilioConfig returns what is the same for every account.
func DefaultTwilioConfig() TwilioConfig { return TwilioConfig{Endpoint: "https://api.twilio.com"} }

var (
	accountSID = regexp.MustCompile(`^AC[0-9a-fA-F]{32}$`)
	messageSID = regexp.MustCompile(`^(SM|MM)[0-9a-fA-F]{32}$`)
)

// Validate returns every problem of an enabled sender at once, each as "key: value: what would be right". Secrets are named, never shown.
func (c AliyunConfig) Validate() error {
	if !c.Enabled {
		return nil
	}
	var p problems
	p.endpoint(c.Endpoint)
	p.required("accessKeyId", c.AccessKeyID)
	p.required("accessKeySecret", c.Credentials.Secret)
	p.required("signName", c.SignName)
	p.token(c.Credentials.CallbackToken)
	p.codes(c.Templates, true)
	return errors.Join(p...)
}

// Validate returns every problem of an enabled sender at once, each as "key: value: what would be right". Secrets are named, never shown.
func (c TencentConfig) Validate() error {
	if !c.Enabled {
		return nil
	}
	var p problems
	p.endpoint(c.Endpoint)
	p.required("region", c.Region)
	p.required("secretId", c.SecretID)
	p.required("secretKey", c.Credentials.Secret)
	p.required("appId", c.AppID)
	p.required("signName", c.SignName)
	p.token(c.Credentials.CallbackToken)
	p.codes(c.Templates, true)
	return errors.Join(p...)
}

// Validate returns every problem of an enabled sender at once, each as "key: value: what would be right". Secrets are named, never shown.
func (c TwilioConfig) Validate() error {
	if !c.Enabled {
		return nil
	}
	var p problems
	p.endpoint(c.Endpoint)
	if !accountSID.MatchString(c.AccountSID) {
		p.add("accountSid: %q: must be AC and 32 hexadecimal digits", c.AccountSID)
	}
	p.required("authToken", c.Credentials.Secret)
	p.required("from", c.From)
	u, err := url.Parse(c.Callback)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		p.add("callback: %q: must be a public http or https address without a query, such as https://epro.example.org/sms/twilio", c.Callback)
	}
	p.codes(c.Templates, false)
	for i, code := range c.Templates {
		if !strings.HasPrefix(code.Code, "HX") {
			p.add("templates[%d].code: %q: must be a content template, beginning with HX", i, code.Code)
		}
	}
	return errors.Join(p...)
}

type problems []error

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Errorf(format, args...)) }

func (p *problems) required(key, value string) {
	if value == "" {
		p.add("%s: is empty: must be set where the sender is enabled", key)
	}
}

func (p *problems) token(token string) {
	if len(token) < 16 {
		p.add("callbackToken: must be 16 or more characters that nobody can guess: the gateway does not sign its callbacks")
	}
}

// endpoint keeps numbers and keys off the open network: plain http only to this machine, or to a name without a dot, as containers have.
func (p *problems) endpoint(endpoint string) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil {
		p.add("endpoint: %q: must be scheme and host only, such as https://dysmsapi.aliyuncs.com", endpoint)
		return
	}
	host := u.Hostname()
	ip := net.ParseIP(host)
	local := ip != nil && ip.IsLoopback() || ip == nil && !strings.Contains(host, ".")
	if u.Scheme != "https" && (u.Scheme != "http" || !local) {
		p.add("endpoint: %q: must be https; http is for a sandbox on this machine", endpoint)
	}
}

func (p *problems) codes(list []Code, needed bool) {
	if needed && len(list) == 0 {
		p.add("templates: is empty: must name the gateway's code of every template, as {template, language, code}")
	}
	seen := make(map[Code]bool, len(list))
	for i, c := range list {
		key := Code{Template: c.Template, Language: strings.ToLower(c.Language)}
		if c.Template == "" || c.Language == "" || c.Code == "" {
			p.add("templates[%d]: must have template, language and code", i)
		}
		if seen[key] {
			p.add("templates[%d]: %s in %s stands there twice", i, c.Template, c.Language)
		}
		seen[key] = true
	}
}

// codeOf returns the gateway's code for the message in the nearest language, or "".
func codeOf(list []Code, m Message) string {
	for _, language := range nearest(m.Language) {
		for _, c := range list {
			if c.Template == m.Template && strings.EqualFold(c.Language, language) {
				return c.Code
			}
		}
	}
	return ""
}
