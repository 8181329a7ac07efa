package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/mail"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"

	"github.com/eprod/eprod/internal/errs"
)

// SMTPParts are what the sender of mail needs. All but Roots are required.
type SMTPParts struct {
	Dial      func(ctx context.Context, network, address string) (net.Conn, error)
	Roots     *x509.CertPool // whose certificates the mail server may show; nil: the system's
	Now       func() time.Time
	Templates *Templates
}

// SMTP hands mail to a mail server (RFC 5321), one connection for each. A mail server reports nothing afterwards in a form that could be
// believed, so SMTP is no Reporter. Safe for concurrent use.
//
// A mail is the server's once it has answered the dot that ends it with 250. Whatever goes wrong before the dot, and every refusal (4yz,
// 5yz) after it, means that it was certainly not sent; only a missing or senseless answer to the dot leaves that unknown. What the server
// says never gets into errors, only its reply code does: words may repeat the address.
type SMTP struct {
	SMTPParts
	config SMTPConfig
	from   *mail.Address
}

var _ Sender = (*SMTP)(nil)

// NewSMTP returns the sender. The config must be valid.
func NewSMTP(config SMTPConfig, parts SMTPParts) *SMTP {
	from, err := mail.ParseAddress(config.From)
	if err != nil {
		from = &mail.Address{Address: config.From} // Validate has refused it
	}
	return &SMTP{SMTPParts: parts, config: config, from: from}
}

// Name returns SMTPName.
func (*SMTP) Name() string { return SMTPName }

// Channel returns Email.
func (*SMTP) Channel() Channel { return Email }

// leaveTaking is how long the answer to QUIT is waited for: RFC 5321, section 4.1.1.10, wants it to be, and nothing depends on it.
const leaveTaking = time.Second

// Send hands over one mail. There is no reference: the Message-ID, which the server's log has, follows from the message's id. See Sender.
func (s *SMTP) Send(ctx context.Context, m Message) (string, error) {
	letter, err := s.letter(m)
	if err != nil {
		return "", err
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return "", errMailUnreachable(plainly(ctx, err))
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	client, err := smtp.NewClient(conn, s.config.Host)
	if err != nil {
		return "", beforeTheDot(ctx, err, errMailSenderRefused)
	}
	client.SkipSMTPUTF8(true) // all is ASCII, and asking for more would shut out older servers behind this one
	body, err := s.open(ctx, client, m.To)
	if err != nil {
		leave(client, conn)
		return "", err
	}
	if _, err := body.Write(letter); err != nil {
		return "", beforeTheDot(ctx, err, errMailRefused) // and no QUIT, for the client would end the half mail with a dot before it
	}
	if err := afterTheDot(ctx, body.Close()); err != nil {
		return "", err
	}
	leave(client, conn)
	return "", nil
}

func leave(client *smtp.Client, conn net.Conn) {
	cut := time.AfterFunc(leaveTaking, func() { conn.Close() })
	defer cut.Stop()
	_ = client.Quit() // whatever it says, the mail is taken or refused already
}

func (s *SMTP) connect(ctx context.Context) (net.Conn, error) {
	conn, err := s.Dial(ctx, "tcp", net.JoinHostPort(s.config.Host, strconv.Itoa(s.config.Port)))
	if err != nil || s.config.Security != SecurityTLS {
		return conn, err
	}
	encrypted := tls.Client(conn, s.tls())
	if err := encrypted.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return encrypted, nil
}

func (s *SMTP) tls() *tls.Config {
	return &tls.Config{ServerName: s.config.Host, RootCAs: s.Roots, MinVersion: tls.VersionTLS12}
}

// open leads the dialogue to where the mail itself is written.
func (s *SMTP) open(ctx context.Context, client *smtp.Client, to string) (io.WriteCloser, error) {
	var body io.WriteCloser
	for _, step := range []struct {
		do      func() error
		refused func(code string) *errs.Error // for a reply of 5yz
	}{
		{func() error { return client.Hello(s.helo()) }, errMailSenderRefused},
		{func() error { return s.encrypt(client) }, errMailSenderRefused},
		{func() error { return s.authenticate(client) }, errMailSenderRefused},
		{func() error { return client.Mail("<" + s.from.Address + ">") }, errMailSenderRefused},
		{func() error { return client.Rcpt("<" + to + ">") }, errMailAddressRefused},
		{func() (err error) { body, err = client.Data(); return err }, errMailRefused},
	} {
		if err := step.do(); err != nil {
			return nil, beforeTheDot(ctx, err, step.refused)
		}
	}
	return body, nil
}

// helo is the name by which the server is greeted.
func (s *SMTP) helo() string {
	if s.config.Helo != "" {
		return s.config.Helo
	}
	return s.domain()
}

func (s *SMTP) domain() string { return s.from.Address[strings.LastIndexByte(s.from.Address, '@')+1:] }

func (s *SMTP) encrypt(client *smtp.Client) error {
	if s.config.Security != SecurityStartTLS {
		return nil
	}
	if offered, _ := client.Extension("STARTTLS"); !offered {
		return errMailUnreachable(errors.New("the server does not offer STARTTLS"))
	}
	return client.StartTLS(s.tls())
}

// authenticate uses the first of PLAIN (RFC 4616) and LOGIN that the server offers. Both show the password to the server, so it is
// said only over TLS, or to this machine.
func (s *SMTP) authenticate(client *smtp.Client) error {
	if s.config.Username == "" {
		return nil
	}
	user, password, open := s.config.Username, s.config.Credentials.Secret, s.config.Security == SecurityNone
	_, offered := client.Extension("AUTH")
	ways := strings.Fields(strings.ToUpper(offered))
	switch {
	case slices.Contains(ways, "PLAIN"):
		return client.Auth(smtp.PlainAuth("", user, password, s.config.Host, open))
	case slices.Contains(ways, "LOGIN"):
		return client.Auth(smtp.LoginAuth(user, password, s.config.Host, open))
	default:
		return errMailSenderRefused("neither AUTH PLAIN nor LOGIN is offered")
	}
}

// letter is the mail as it goes over the wire. Its Message-ID follows from the message's id, so that one that arrives twice is seen to be
// one, and Auto-Submitted (RFC 3834) keeps machines from answering it.
func (s *SMTP) letter(m Message) ([]byte, error) {
	text, err := s.Templates.Render(m)
	if err != nil {
		return nil, err
	}
	subject, err := s.Templates.Subject(m)
	if err != nil {
		return nil, err
	}
	out := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	out.FromMailAddress(s.from)
	out.ToMailAddress(&mail.Address{Address: m.To})
	out.Subject(subject)
	out.SetDateWithValue(s.Now().UTC())
	out.SetMessageIDWithValue(fmt.Sprintf("eprod.%d@%s", m.ID, s.domain()))
	out.SetGenHeader("Auto-Submitted", "auto-generated")
	out.SetBodyString(gomail.TypeTextPlain, text+"\r\n")
	var letter bytes.Buffer
	if _, err := out.WriteTo(&letter); err != nil {
		return nil, errMailRefused("cannot be written")
	}
	return letter.Bytes(), nil
}

// beforeTheDot says what a failure means while the server cannot have the mail.
func beforeTheDot(ctx context.Context, err error, refused func(code string) *errs.Error) error {
	if named, ok := errs.As(err); ok {
		return named
	}
	switch code := replyCode(err); {
	case code == 530 || code == 534 || code == 535 || code == 538: // RFC 4954, section 6: it wants another or a better log-in
		return errMailSenderRefused(strconv.Itoa(code))
	case code/100 == 4:
		return errMailThrottled(strconv.Itoa(code))
	case code/100 == 5:
		return refused(strconv.Itoa(code))
	default:
		return errMailUnreachable(plainly(ctx, err))
	}
}

// afterTheDot says what the answer to the whole mail means.
func afterTheDot(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if kind := replyCode(err) / 100; kind != 4 && kind != 5 {
		return errs.New(errs.Unavailable, Email.code("outcome_unknown"), "the mail server gave no usable answer; the mail may have been sent").
			WithCause(plainly(ctx, err))
	}
	return beforeTheDot(ctx, err, errMailRefused)
}

// replyCode returns the code of the server's reply that err is about, or 0.
func replyCode(err error) int {
	if reply, ok := errors.AsType[*textproto.Error](err); ok {
		return reply.Code
	}
	return 0
}

// plainly keeps of an error what is fit for logs: no words of the server, and no network addresses.
func plainly(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if reply := replyCode(err); reply != 0 {
		return fmt.Errorf("unexpected reply %d", reply)
	}
	if lookup, ok := errors.AsType[*net.DNSError](err); ok {
		return errors.New(lookup.Err)
	}
	if broken, ok := errors.AsType[*net.OpError](err); ok {
		return broken.Err
	}
	if certificate, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return certificate
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return io.ErrUnexpectedEOF
	}
	return errors.New("the dialogue is broken")
}

func errMailAddressRefused(code string) *errs.Error {
	return errs.New(errs.Unprocessable, Email.code("address_refused"), "the mail server does not send to this address ("+code+")")
}

func errMailRefused(code string) *errs.Error {
	return errs.New(errs.Unprocessable, Email.code("refused"), "the mail server does not accept the mail ("+code+")")
}

func errMailSenderRefused(code string) *errs.Error {
	return errs.New(errs.Forbidden, Email.code("sender_refused"), "the mail server refuses our account, password, host or sender ("+code+")")
}

func errMailThrottled(code string) *errs.Error {
	return errs.New(errs.RateLimited, Email.code("throttled"), "the mail server takes no mail now ("+code+")").WithRetryAfter(30 * time.Second)
}

func errMailUnreachable(cause error) *errs.Error {
	return errs.New(errs.Unavailable, Email.code("unreachable"), "the mail server cannot be reached; nothing was sent").WithCause(cause).
		WithRetryAfter(2 * time.Second)
}
