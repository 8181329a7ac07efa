package notify

import (
	"context"
	"errors"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/errs"
)

const mailbee = "bee.17@clinic.example.org"

func dueMail(id int64) Message {
	return Message{ID: id, Channel: Email, To: mailbee, Template: "task_due", Language: "zh-CN", Params: map[string]string{"until": "今晚 20:00"}}
}

// TestMailArrives: over each kind of way, with each kind of log-in, the mail is whole.
func TestMailArrives(t *testing.T) {
	for _, c := range []struct {
		security   string
		mechanisms []string
		user       string
	}{{SecurityStartTLS, []string{"LOGIN", "PLAIN"}, "PLAIN eprod"}, {SecurityTLS, []string{"LOGIN"}, "LOGIN eprod"}, {SecurityNone, []string{"PLAIN"}, "PLAIN eprod"}} {
		t.Run(c.security, func(t *testing.T) {
			o := newPostOffice(t, c.security)
			o.mechanisms = c.mechanisms
			sender := newSMTP(t, o.config, o.roots)
			for range 2 {
				if _, err := sender.Send(bounded(t), dueMail(4711)); err != nil {
					t.Fatal(err)
				}
			}
			mails := o.arrived()
			if len(mails) != 2 {
				t.Fatalf("%d mails", len(mails))
			}
			got := mails[0]
			if got.from != "no-reply@study.example.org" || got.to != mailbee || got.user != c.user {
				t.Errorf("%+v", got)
			}
			letter, err := mail.ReadMessage(strings.NewReader(got.letter))
			if err != nil {
				t.Fatal(err)
			}
			head := map[string]string{}
			for name := range letter.Header {
				head[name], _ = new(mime.WordDecoder).DecodeHeader(letter.Header.Get(name))
			}
			if _, err := letter.Header.Date(); err != nil {
				t.Error(err)
			}
			delete(head, "Date")
			want := map[string]string{"From": `eprod 研究 <no-reply@study.example.org>`, "To": "<" + mailbee + ">", "Subject": "您有一份问卷待填写",
				"Message-Id": "<eprod.4711@study.example.org>", "Auto-Submitted": "auto-generated", "Mime-Version": "1.0",
				"Content-Type": "text/plain; charset=UTF-8", "Content-Transfer-Encoding": "quoted-printable"}
			if diff := cmp.Diff(want, head); diff != "" {
				t.Error(diff)
			}
			text, err := io.ReadAll(quotedprintable.NewReader(letter.Body))
			if got := strings.TrimSpace(string(text)); got != "您有一份问卷待填写，请在今晚 20:00之前完成。" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// outcome holds an error of Send against what it must mean.
func outcome(t *testing.T, err error, code string) {
	t.Helper()
	want := map[string]errs.Kind{"email_address_refused": errs.Unprocessable, "email_refused": errs.Unprocessable, "email_sender_refused": errs.Forbidden,
		"email_throttled": errs.RateLimited, "email_unreachable": errs.Unavailable, "email_outcome_unknown": errs.Unavailable}[code]
	e, _ := errs.As(err)
	if e == nil || e.Code != code || e.Kind != want {
		t.Errorf("got %v, want %s", err, code)
		return
	}
	if Unsent(err) != (code != "email_outcome_unknown") || Undeliverable(err) {
		t.Errorf("%v: unsent %v", err, Unsent(err))
	}
	for _, secret := range []string{mailbee, "bee.17", "127.0.0.1", mailPassword, "20:00"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows %q: %v", secret, err)
		}
	}
}

// TestMailOutcomes: what a real server does wrong, and what it means. A mail that may have arrived is never called unsent.
func TestMailOutcomes(t *testing.T) {
	says := func(code int) func() error {
		return func() error {
			return &smtp.SMTPError{Code: code, EnhancedCode: smtp.NoEnhancedCode, Message: "no " + mailbee}
		}
	}
	for name, c := range map[string]struct {
		set     func(o *postOffice)
		code    string // empty: sent
		arrived int
	}{
		"SenderRefused":      {set: func(o *postOffice) { o.onMail = says(550) }, code: "email_sender_refused"},
		"SenderLater":        {set: func(o *postOffice) { o.onMail = says(452) }, code: "email_throttled"},
		"AddressRefused":     {set: func(o *postOffice) { o.onRcpt = says(550) }, code: "email_address_refused"},
		"AddressLater":       {set: func(o *postOffice) { o.onRcpt = says(451) }, code: "email_throttled"},
		"AddressFull":        {set: func(o *postOffice) { o.onRcpt = says(452) }, code: "email_throttled"},
		"LogInWanted":        {set: func(o *postOffice) { o.onRcpt = says(530) }, code: "email_sender_refused"},
		"WrongPassword":      {set: func(o *postOffice) { o.config.Credentials.Secret = "another" }, code: "email_sender_refused"},
		"NoLogInOffered":     {set: func(o *postOffice) { o.mechanisms = []string{"XOAUTH2"} }, code: "email_sender_refused"},
		"ContentRefused":     {set: func(o *postOffice) { o.onData = func(*smtp.Conn) error { return says(554)() } }, code: "email_refused", arrived: 1},
		"ContentLater":       {set: func(o *postOffice) { o.onData = func(*smtp.Conn) error { return says(451)() } }, code: "email_throttled", arrived: 1},
		"HangBeforeData":     {set: func(o *postOffice) { o.onRcpt = o.hang }, code: "email_unreachable"},
		"HangAfterData":      {set: func(o *postOffice) { o.onData = func(*smtp.Conn) error { return o.hang() } }, code: "email_outcome_unknown", arrived: 1},
		"CutAfterDot":        {set: func(o *postOffice) { o.onData = func(c *smtp.Conn) error { return c.Conn().Close() } }, code: "email_outcome_unknown", arrived: 1},
		"UntrustedServer":    {set: func(o *postOffice) { o.roots = nil }, code: "email_unreachable"},
		"NoSTARTTLS":         {set: func(o *postOffice) { o.server.TLSConfig = nil }, code: "email_unreachable"},
		"AnotherCertificate": {set: func(o *postOffice) { o.config.Host = "localhost" }, code: "email_unreachable"},
		"Slow": {set: func(o *postOffice) {
			o.onData = func(*smtp.Conn) error { <-time.After(100 * time.Millisecond); return nil }
		}, arrived: 1},
	} {
		t.Run(name, func(t *testing.T) {
			o := newPostOffice(t, SecurityStartTLS)
			c.set(o)
			ctx, cancel := context.WithCancel(bounded(t))
			defer cancel()
			o.impatient = cancel
			_, err := newSMTP(t, o.config, o.roots).Send(ctx, dueMail(1))
			if c.code == "" && err != nil {
				t.Error(err)
			} else if c.code != "" {
				outcome(t, err, c.code)
			}
			if strings.HasPrefix(name, "Hang") != errors.Is(err, context.Canceled) {
				t.Errorf("the cause is lost: %v", err)
			}
			if n := len(o.arrived()); n != c.arrived {
				t.Errorf("%d mails arrived whole, want %d", n, c.arrived)
			}
		})
	}
}

// TestMailReplies: what no well-made server says.
func TestMailReplies(t *testing.T) {
	for name, c := range map[string]struct {
		script map[string]string
		code   string // empty: sent
	}{
		"Good":            {map[string]string{}, ""},
		"GreetingRefused": {map[string]string{"": "554 not you " + mailbee}, "email_sender_refused"},
		"GreetingBusy":    {map[string]string{"": "421 later"}, "email_throttled"},
		"GreetingCut":     {map[string]string{"": ""}, "email_unreachable"},
		"GreetingHTTP":    {map[string]string{"": "HTTP/1.1 400 Bad Request"}, "email_unreachable"},
		"OnlyHELO":        {map[string]string{"EHLO": "502 what"}, ""},
		"HelloRefused":    {map[string]string{"EHLO": "550 no", "HELO": "550 no"}, "email_sender_refused"},
		"HelloCut":        {map[string]string{"EHLO": ""}, "email_unreachable"},
		"MailCut":         {map[string]string{"MAIL": ""}, "email_unreachable"},
		"RcptForwards":    {map[string]string{"RCPT": "251 will forward"}, ""},
		"RcptShutsDown":   {map[string]string{"RCPT": "421 closing"}, "email_throttled"},
		"RcptCut":         {map[string]string{"RCPT": ""}, "email_unreachable"},
		"DataRefused":     {map[string]string{"DATA": "554 no valid recipients"}, "email_refused"},
		"DataLater":       {map[string]string{"DATA": "451 later"}, "email_throttled"},
		"DataSenseless":   {map[string]string{"DATA": "250 fine"}, "email_unreachable"},
		"DotSenseless":    {map[string]string{".": "354 go on"}, "email_outcome_unknown"},
		"DotGarbage":      {map[string]string{".": mailbee}, "email_outcome_unknown"},
		"DotCut":          {map[string]string{".": ""}, "email_outcome_unknown"},
		"DotShutsDown":    {map[string]string{".": "421 closing"}, "email_throttled"},
		"DotRefused":      {map[string]string{".": "550-no\r\n550 " + mailbee}, "email_refused"},
		"QuitCut":         {map[string]string{"QUIT": ""}, ""},
		"QuitRefused":     {map[string]string{"QUIT": "500 stay"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			config, heard := scriptedOffice(t, c.script)
			_, err := newSMTP(t, config, nil).Send(bounded(t), dueMail(1))
			if c.code == "" && err != nil {
				t.Error(err)
			} else if c.code != "" {
				outcome(t, err, c.code)
			}
			said := heard()
			dots := len(slices.DeleteFunc(slices.Clone(said), func(line string) bool { return line != "." }))
			_, atDot := c.script["."]
			if reached := c.code == "" || atDot; dots > 1 || (dots == 1) != reached {
				t.Errorf("%d dots in %q", dots, said)
			}
		})
	}
}

func TestMailServerAway(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := goodSMTP(listener, SecurityStartTLS)
	listener.Close()
	_, err = newSMTP(t, config, nil).Send(bounded(t), dueMail(1))
	outcome(t, err, "email_unreachable")
	set, err := NewTemplates(DefaultTemplates())
	if err != nil {
		t.Fatal(err)
	}
	lost := &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: mailbee}}
	nowhere := NewSMTP(config, SMTPParts{Dial: func(context.Context, string, string) (net.Conn, error) { return nil, lost }, Now: time.Now, Templates: set})
	_, err = nowhere.Send(bounded(t), dueMail(1))
	outcome(t, err, "email_unreachable")
	wrong := dueMail(1)
	wrong.To = "someone@example.org\r\nRCPT TO:<x@example.org>"
	if _, err := nowhere.Send(bounded(t), wrong); !Undeliverable(err) {
		t.Errorf("two addresses in one: %v", err)
	}
}

// TestMailThroughTheService: the worker sends it once, and what became of a lost one stays unknown.
func TestMailThroughTheService(t *testing.T) {
	o := newPostOffice(t, SecurityTLS)
	lose := make(chan struct{}, 1)
	o.onData = func(c *smtp.Conn) error {
		select {
		case <-lose:
			return c.Conn().Close()
		default:
			return nil
		}
	}
	eachDesk(t, nil, func(t *testing.T, w *desk) {
		before := len(o.arrived())
		request := w.mail("task:1")
		request.To = mailbee
		status, err := w.Send(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		w.settled(status.ID, Accepted)
		lose <- struct{}{}
		request.Purpose = "task:2"
		lost, err := w.Send(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		w.settled(lost.ID, Unknown)
		for range 3 {
			w.clock.Advance(w.config.AskAfter)
			if n := w.Once(t.Context()); n != 0 {
				t.Errorf("%d were looked at again", n)
			}
		}
		if n := len(o.arrived()) - before; n != 2 {
			t.Errorf("%d mails, want 2", n)
		}
		if state := w.breaker("email_smtp"); state != "closed" {
			t.Errorf("the breaker of the mail server is %q", state)
		}
	}, newSMTP(t, o.config, o.roots))
}
