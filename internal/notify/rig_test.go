package notify

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// rig is a running sandbox, the three senders pointed at it, and a receiver of their callbacks.
type rig struct {
	t         testing.TB
	sandbox   *Sandbox
	gateway   *httptest.Server
	senders   map[string]Reporter
	templates *Templates
	callbacks chan callback
}

// callback is one delivery callback as it came, and what the sender made of it.
type callback struct {
	provider string
	request  *http.Request
	body     []byte
	receipts []Receipt
	err      error
}

const testToken = "token-of-0123456789"

var providers = []string{AliyunName, TencentName, TwilioName}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, callbacks: make(chan callback, 64)}
	receiver := httptest.NewServer(http.HandlerFunc(r.receive))
	config := DefaultSandboxConfig()
	config.Aliyun.Callback = receiver.URL + "/aliyun?token=" + testToken
	config.Tencent.Callback = receiver.URL + "/tencent?token=" + testToken
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	r.sandbox = NewSandbox(config, time.Now, slog.New(slog.DiscardHandler))
	r.gateway = httptest.NewServer(r.sandbox.Handler())
	set, err := NewTemplates(DefaultTemplates())
	if err != nil {
		t.Fatal(err)
	}
	r.templates = set
	r.senders = r.connect(r.gateway.URL, receiver.URL, config, r.gateway.Client())
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.sandbox.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		r.gateway.Close()
		receiver.Close()
	})
	return r
}

// connect makes senders whose settings fit the sandbox.
func (r *rig) connect(gateway, receiver string, sandbox SandboxConfig, client *http.Client) map[string]Reporter {
	parts := Parts{Client: client, Now: time.Now, Random: rand.Reader, Templates: r.templates}
	aliyun, tencent, twilio := goodAliyun(), goodTencent(), goodTwilio()
	aliyun.Endpoint, tencent.Endpoint, twilio.Endpoint = gateway, gateway, gateway
	aliyun.AccessKeyID, aliyun.Credentials = sandbox.Aliyun.ID, Credentials{Secret: sandbox.Aliyun.Secret, CallbackToken: testToken}
	tencent.SecretID, tencent.Credentials = sandbox.Tencent.ID, Credentials{Secret: sandbox.Tencent.Secret, CallbackToken: testToken}
	twilio.AccountSID, twilio.Credentials = sandbox.Twilio.ID, Credentials{Secret: sandbox.Twilio.Secret}
	twilio.Callback = receiver + "/twilio"
	for _, c := range []interface{ Validate() error }{aliyun, tencent, twilio} {
		if err := c.Validate(); err != nil {
			r.t.Fatal(err)
		}
	}
	return map[string]Reporter{AliyunName: NewAliyun(aliyun, parts), TencentName: NewTencent(tencent, parts), TwilioName: NewTwilio(twilio, parts)}
}

func (r *rig) receive(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		http.Error(w, "broken", http.StatusBadRequest)
		return
	}
	c := callback{provider: strings.TrimPrefix(request.URL.Path, "/"), request: request.Clone(context.Background()), body: body}
	c.receipts, c.err = r.senders[c.provider].Receipts(request, body)
	r.callbacks <- c
	kind, text := Acknowledgement(c.provider)
	w.Header().Set("Content-Type", kind)
	_, _ = w.Write(text)
}

// next waits for a callback.
func (r *rig) next() callback {
	r.t.Helper()
	select {
	case c := <-r.callbacks:
		return c
	case <-time.After(10 * time.Second):
		r.t.Fatal("no callback came")
		return callback{}
	}
}

func (r *rig) command(c SandboxCommand) {
	r.t.Helper()
	if err := r.sandbox.Command(c); err != nil {
		r.t.Fatal(err)
	}
}

func due(id int64) Message {
	return Message{ID: id, Channel: SMS, To: "+8613800138000", Template: "task_due", Language: "zh-CN", Params: map[string]string{"until": "今晚 20:00 & 更晚"}}
}

// bounded is a context in which everything that does not hang is done.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}
