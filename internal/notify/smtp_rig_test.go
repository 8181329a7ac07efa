package notify

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

const mailPassword = "password-of-mail"

// postOffice is a real mail server in the test process, which misbehaves where it is told to.
type postOffice struct {
	server *smtp.Server
	config SMTPConfig
	roots  *x509.CertPool
	over   chan struct{} // closed when the test ends: nothing hangs longer

	onMail, onRcpt func() error
	onData         func(c *smtp.Conn) error // after the dot
	mechanisms     []string
	impatient      func()

	mu    sync.Mutex
	mails []posted
}

// posted is a mail that arrived whole.
type posted struct{ from, to, user, letter string }

type postSession struct {
	office *postOffice
	conn   *smtp.Conn
	posted
}

func (s *postSession) Reset()        {}
func (s *postSession) Logout() error { return nil }

func (s *postSession) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	return s.office.onMail()
}

func (s *postSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = to
	return s.office.onRcpt()
}

func (s *postSession) Data(r io.Reader) error {
	letter, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.letter = string(letter)
	s.office.mu.Lock()
	s.office.mails = append(s.office.mails, s.posted)
	s.office.mu.Unlock()
	return s.office.onData(s.conn)
}

func (s *postSession) AuthMechanisms() []string { return s.office.mechanisms }

func (s *postSession) Auth(mechanism string) (sasl.Server, error) {
	check := func(user, password string) error {
		if user != "eprod" || password != mailPassword {
			return smtp.ErrAuthFailed
		}
		s.user = mechanism + " " + user
		return nil
	}
	if mechanism == "LOGIN" {
		return &loginServer{check: check}, nil
	}
	return sasl.NewPlainServer(func(_, user, password string) error { return check(user, password) }), nil
}

// loginServer is the old LOGIN mechanism, which is all that some providers offer.
type loginServer struct {
	check func(user, password string) error
	user  *string
}

func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case response == nil:
		return []byte("Username:"), false, nil
	case l.user == nil:
		user := string(response)
		l.user = &user
		return []byte("Password:"), false, nil
	default:
		return nil, true, l.check(*l.user, string(response))
	}
}

// newPostOffice returns a running server and the settings that reach it. Change it before it is used.
func newPostOffice(t *testing.T, security string) *postOffice {
	t.Helper()
	certified := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	certified.Close()
	fine := func() error { return nil }
	o := &postOffice{roots: x509.NewCertPool(), over: make(chan struct{}), onMail: fine, onRcpt: fine, mechanisms: []string{"PLAIN"},
		onData: func(*smtp.Conn) error { return nil }}
	o.roots.AddCert(certified.Certificate())
	o.server = smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) { return &postSession{office: o, conn: c}, nil }))
	o.server.Domain, o.server.AllowInsecureAuth = "mail.example.org", security == SecurityNone
	o.server.ErrorLog = quietLog{}
	settings := &tls.Config{Certificates: certified.TLS.Certificates, MinVersion: tls.VersionTLS12}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.config = goodSMTP(listener, security)
	switch security {
	case SecurityStartTLS:
		o.server.TLSConfig = settings
	case SecurityTLS:
		listener = tls.NewListener(listener, settings)
	}
	served := make(chan error, 1)
	go func() { served <- o.server.Serve(listener) }()
	t.Cleanup(func() {
		close(o.over)
		if err := errors.Join(o.server.Close(), <-served); err != nil && !errors.Is(err, smtp.ErrServerClosed) {
			t.Error(err)
		}
	})
	return o
}

func goodSMTP(listener net.Listener, security string) SMTPConfig {
	c := DefaultSMTPConfig()
	c.Enabled, c.Host, c.Port, c.Security = true, "127.0.0.1", listener.Addr().(*net.TCPAddr).Port, security
	c.From, c.Username, c.Credentials.Secret = "eprod 研究 <no-reply@study.example.org>", "eprod", mailPassword
	return c
}

type quietLog struct{}

func (quietLog) Printf(string, ...any) {}
func (quietLog) Println(...any)        {}

// hang never answers while the test runs; the caller's patience is over when it begins.
func (o *postOffice) hang() error {
	o.impatient()
	<-o.over
	return nil
}

func (o *postOffice) arrived() []posted {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]posted(nil), o.mails...)
}

func newSMTP(t *testing.T, config SMTPConfig, roots *x509.CertPool) *SMTP {
	t.Helper()
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	set, err := NewTemplates(DefaultTemplates())
	if err != nil {
		t.Fatal(err)
	}
	return NewSMTP(config, SMTPParts{Dial: (&net.Dialer{}).DialContext, Roots: roots, Now: time.Now, Templates: set})
}

// scriptedOffice answers by the first word of each line, and the dot by "."; an empty answer cuts the connection. What it is not told to
// answer it answers well. It says what it heard.
func scriptedOffice(t *testing.T, script map[string]string) (config SMTPConfig, heard func() []string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var lines []string
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				converse(conn, script, func(line string) { mu.Lock(); lines = append(lines, line); mu.Unlock() })
			})
		}
	})
	t.Cleanup(func() { listener.Close(); running.Wait() })
	config = goodSMTP(listener, SecurityNone)
	config.Username, config.Credentials.Secret = "", ""
	return config, func() []string { mu.Lock(); defer mu.Unlock(); return append([]string(nil), lines...) }
}

func converse(conn net.Conn, script map[string]string, hear func(string)) {
	fine := map[string]string{"": "220 mail.example.org", "DATA": "354 go on", "QUIT": "221 bye"}
	answer := func(word string) bool {
		said, scripted := script[word]
		if !scripted {
			if said = fine[word]; said == "" {
				said = "250 fine"
			}
		}
		if said == "" {
			return false
		}
		_, err := io.WriteString(conn, said+"\r\n")
		return err == nil
	}
	in, inData := bufio.NewScanner(conn), false
	for open := answer(""); open && in.Scan(); {
		line := in.Text()
		if inData && line != "." {
			continue
		}
		hear(line)
		word, _, _ := strings.Cut(line, " ")
		open, inData = answer(word), word == "DATA" && script["DATA"] == ""
	}
}
