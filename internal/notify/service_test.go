package notify

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/testenv"
	"github.com/eprod/eprod/internal/web"
)

const (
	theStudy = 3
	someone  = 7
	staff    = 2 // coordinator at someone's site
	monitor  = 4
)

// desk is the service over real databases and the sandbox.
type desk struct {
	*Service
	*rig
	t      testing.TB
	clock  *testenv.FakeClock
	key    *keyring.DataKey
	next   func() int64
	mu     sync.Mutex
	counts map[string]int
	states map[string]func() string // of breakers
}

func (w *desk) NextN(n int) ([]int64, error) {
	ids := make([]int64, n)
	for i := range ids {
		ids[i] = w.next()
	}
	return ids, nil
}

func (w *desk) Site(_ context.Context, id int64) (study, site int64, err error) {
	if id != someone {
		return 0, 0, errs.Absent("participant")
	}
	return theStudy, 30, nil
}
func (w *desk) Key(context.Context, int64) (*keyring.DataKey, error) { return w.key, nil }
func (w *desk) Language(context.Context, int64) (string, error)      { return "zh-CN", nil }
func (w *desk) Message(provider, outcome string)                     { w.count(provider + " " + outcome) }
func (w *desk) Breaker(label string, state func() string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.states == nil {
		w.states = make(map[string]func() string)
	}
	w.states[label] = state
}
func (w *desk) Grants(_ context.Context, who, _ int64) ([]auth.Grant, error) {
	switch who {
	case staff:
		return []auth.Grant{{Role: auth.Coordinator, Site: 30}}, nil
	case monitor:
		return []auth.Grant{{Role: auth.Monitor}}, nil
	}
	return nil, nil
}

func (w *desk) count(what string) {
	w.mu.Lock()
	w.counts[what]++
	w.mu.Unlock()
}

// eachDesk runs a test on every kind of database; order names the senders of texts, and more come after them.
func eachDesk(t *testing.T, order []string, test func(t *testing.T, w *desk), more ...Sender) {
	t.Helper()
	for dialect, shards := range testenv.Shards(t) {
		t.Run(dialect, func(t *testing.T) { test(t, newDesk(t, shards, order, more...)) })
	}
}

func newDesk(t testing.TB, shards *db.Shards, order []string, more ...Sender) *desk {
	t.Helper()
	w := &desk{rig: newRig(t), t: t, clock: testenv.Clock(time.Now()), next: testenv.IDs(), counts: make(map[string]int)}
	ring, err := keyring.New([]keyring.MasterKey{{ID: 1, Secret: []byte("0123456789abcdef0123456789abcdef")}}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := ring.NewDataKey(someone)
	if err != nil {
		t.Fatal(err)
	}
	if w.key, err = ring.DataKey(someone, wrapped); err != nil {
		t.Fatal(err)
	}
	config := DefaultServiceConfig()
	config.Breaker.CallTimeout, config.Breaker.Failures, config.Breaker.OpenFor = 400*time.Millisecond, 3, 300*time.Millisecond
	config.Rate, config.Burst = 1000, 1000
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	var senders []Sender
	for _, name := range order {
		senders = append(senders, w.senders[name])
	}
	w.Service = NewService(config, ServiceParts{Deliveries: &Store{Shards: shards}, Shards: shards, People: w, Guard: auth.Guard{Grants: w}, Senders: append(senders, more...),
		Templates: w.templates, IDs: w, Now: w.clock.Now, Meter: w, Gauge: w, Logger: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *desk) counted(what string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts[what]
}

func (w *desk) wish(purpose string) Request {
	return Request{Study: theStudy, Participant: someone, Purpose: purpose, Template: "task_due", To: "+8613800138000", Params: map[string]string{"until": "20:00"}}
}

func (w *desk) send(purpose string) Status {
	w.t.Helper()
	status, err := w.Send(w.t.Context(), w.wish(purpose))
	if err != nil {
		w.t.Fatal(err)
	}
	return status
}

// state returns the row's state.
func (w *desk) state(id int64) Delivery {
	w.t.Helper()
	d, err := w.Deliveries.ByReceipt(w.t.Context(), Receipt{ID: id})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// settled waits until a message has one of the states.
func (w *desk) settled(id int64, states ...State) Delivery {
	w.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		d := w.state(id)
		for _, s := range states {
			if d.State == s {
				return d
			}
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("message %d is %s (%s), want %v", id, d.State, d.Code, states)
		}
	}
}

// receipt takes one callback of the sandbox and gives it to the service.
func (w *desk) receipt() {
	w.t.Helper()
	c := w.rig.next()
	if c.err != nil {
		w.t.Fatal(c.err)
	}
	if err := w.Receive(w.t.Context(), c.provider, c.request, c.body); err != nil {
		w.t.Fatal(err)
	}
}

func TestSendAndReceipt(t *testing.T) {
	for _, provider := range providers {
		eachDesk(t, []string{provider}, func(t *testing.T, w *desk) {
			status := w.send("task:1")
			if status.State != Accepted {
				t.Fatalf("%s: %+v", provider, status)
			}
			for i := 0; i < 3 && w.state(status.ID).State != Delivered; i++ { // Twilio also tells that it was sent
				w.receipt()
			}
			d := w.settled(status.ID, Delivered)
			if again := w.send("task:1"); again.ID != status.ID || again.State != Delivered || len(w.sandbox.Inbox()) != 1 {
				t.Errorf("%s: the same purpose again: %+v, %d messages", provider, again, len(w.sandbox.Inbox()))
			}
			if d.Attempts != 1 || d.Provider != provider || strings.Contains(string(d.Sealed), "138") {
				t.Errorf("%s: %+v", provider, d)
			}
			// Told once more, and that it was only accepted: a final state stays.
			for _, late := range []State{Accepted, Failed, Unknown} {
				if err := w.settle(t.Context(), Receipt{ID: status.ID, Provider: provider, State: late}); err != nil {
					t.Error(err)
				}
			}
			if got := w.state(status.ID); got.State != Delivered {
				t.Errorf("%s: after late receipts: %s", provider, got.State)
			}
		})
	}
}

func TestOnePurposeOnce(t *testing.T) {
	eachDesk(t, []string{TwilioName}, func(t *testing.T, w *desk) {
		ids := make([]int64, 20)
		var together sync.WaitGroup
		for i := range ids {
			together.Go(func() {
				status, err := w.Send(t.Context(), w.wish("task:2"))
				if err != nil {
					t.Error(err)
				}
				ids[i] = status.ID
			})
		}
		together.Wait()
		w.settled(ids[0], Accepted, Delivered)
		for _, id := range ids {
			if id != ids[0] {
				t.Errorf("messages %d and %d for one purpose", id, ids[0])
			}
		}
		if n := len(w.sandbox.Inbox()); n != 1 {
			t.Errorf("%d messages in the inbox", n)
		}
	})
}

// TestHangingGateway: requests answer in normal time, the breaker opens, half-opens and closes, nothing is sent twice, and what
// waited is sent in the end.
func TestHangingGateway(t *testing.T) {
	eachDesk(t, []string{AliyunName}, func(t *testing.T, w *desk) {
		w.command(SandboxCommand{Mode: ModeHang})
		var ids []int64
		for i := range 6 {
			began := time.Now()
			status := w.send(fmt.Sprint("task:", i))
			if took := time.Since(began); took > 2*time.Second || !strings.Contains(status.Detail, "please wait") {
				t.Errorf("answered after %v: %+v", took, status)
			}
			ids = append(ids, status.ID)
		}
		for _, id := range ids {
			w.settled(id, Unknown, Waiting)
		}
		waiting := 0
		for _, id := range ids {
			if w.state(id).State == Waiting {
				waiting++ // refused by the open breaker: certainly not sent
			}
		}
		if waiting == 0 || w.breaker("sms_aliyun") == "closed" {
			t.Errorf("%d messages wait, the breaker is %s: it let every call through", waiting, w.breaker("sms_aliyun"))
		}
		w.command(SandboxCommand{Mode: ModeNormal})
		deadline := time.Now().Add(10 * time.Second)
		for sent := 0; sent < waiting && time.Now().Before(deadline); {
			w.clock.Advance(w.config.RetryMax)
			w.Once(t.Context())
			sent = len(w.sandbox.Inbox())
		}
		if n := len(w.sandbox.Inbox()); n != waiting {
			t.Errorf("%d messages were sent, want the %d that were certainly not sent before", n, waiting)
		}
		if state := w.breaker("sms_aliyun"); state != "closed" {
			t.Errorf("the gateway is well again, its breaker %s", state)
		}
	})
}

// breaker returns the state of a breaker as operators see it, or "".
func (w *desk) breaker(label string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if state := w.states[label]; state != nil {
		return state()
	}
	return ""
}

// TestLostAnswer: the gateway takes the message and its answer is lost. It is asked, and never sent again.
func TestLostAnswer(t *testing.T) {
	for _, provider := range []string{AliyunName, TwilioName} {
		eachDesk(t, []string{provider, TencentName}, func(t *testing.T, w *desk) {
			w.command(SandboxCommand{Mode: ModeHang, Accept: true, Provider: provider, Receipts: SandboxReceipts{DelayMs: 60_000}})
			status := w.send("task:3")
			d := w.settled(status.ID, Unknown)
			if d.Provider != provider {
				t.Fatalf("%+v", d)
			}
			w.command(SandboxCommand{Mode: ModeNormal})
			for i := 0; i < 20 && w.state(status.ID).State == Unknown; i++ {
				w.clock.Advance(w.config.AskAfter)
				w.Once(t.Context())
			}
			if d := w.state(status.ID); d.State != Accepted && d.State != Delivered {
				t.Errorf("%s: %s (%s) after asking", provider, d.State, d.Code)
			}
			if n := len(w.sandbox.Inbox()); n != 1 {
				t.Errorf("%s: %d messages in the inbox", provider, n)
			}
		})
	}
}

// TestSameWords: the gateway has taken one of several messages with the same number and text, and is asked about the others by these
// alone. What it finds is not theirs.
func TestSameWords(t *testing.T) {
	eachDesk(t, []string{TwilioName}, func(t *testing.T, w *desk) {
		first := w.send("task:1")
		w.settled(first.ID, Accepted, Delivered)
		w.command(SandboxCommand{Mode: ModeHang})
		var lost []int64
		for i := range 2 {
			lost = append(lost, w.send(fmt.Sprint("lost:", i)).ID)
		}
		for _, id := range lost {
			w.settled(id, Unknown)
		}
		w.command(SandboxCommand{Mode: ModeNormal})
		for range 4 {
			w.clock.Advance(w.config.AskAfter)
			w.Once(t.Context())
		}
		for _, id := range lost {
			if d := w.state(id); d.State != Unknown || d.Reference != "" {
				t.Errorf("message %d is %s as %q, but was never taken", id, d.State, d.Reference)
			}
		}
	})
}

// TestInterrupted: a process that ends between the row and the call leaves a message that is sent once; one that ends after the call
// began leaves one that is asked about.
func TestInterrupted(t *testing.T) {
	eachDesk(t, []string{AliyunName}, func(t *testing.T, w *desk) {
		written, err := w.write(t.Context(), w.wish("task:4"))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.Deliveries.Add(t.Context(), written); err != nil {
			t.Fatal(err)
		}
		if n := w.Once(t.Context()); n != 0 {
			t.Errorf("%d taken while its writer may still call", n)
		}
		w.clock.Advance(w.config.Lease)
		if n := w.Once(t.Context()); n != 1 || w.state(written.ID).State != Accepted || len(w.sandbox.Inbox()) != 1 {
			t.Errorf("%d taken, %s, %d in the inbox", n, w.state(written.ID).State, len(w.sandbox.Inbox()))
		}
		begun, err := w.write(t.Context(), w.wish("task:5"))
		if err != nil {
			t.Fatal(err)
		}
		begun.State, begun.Provider, begun.Attempts, begun.SentAt = Sending, AliyunName, 1, w.clock.Now()
		if _, _, err := w.Deliveries.Add(t.Context(), begun); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			w.clock.Advance(w.config.AskAfter)
			w.Once(t.Context())
		}
		if d := w.state(begun.ID); d.State != Unknown || len(w.sandbox.Inbox()) != 1 {
			t.Errorf("%s, %d in the inbox: what may have been sent is not sent again", d.State, len(w.sandbox.Inbox()))
		}
		w.clock.Advance(w.config.MaxAge)
		w.Once(t.Context())
		if d := w.state(begun.ID); d.State != Gone {
			t.Errorf("at its age: %s", d.State)
		}
		if d := w.state(written.ID); d.State != Accepted && d.State != Delivered {
			t.Errorf("a taken one at its age: %s", d.State)
		}
	})
}

func TestFallbackOrder(t *testing.T) {
	eachDesk(t, []string{AliyunName, TencentName, TwilioName}, func(t *testing.T, w *desk) {
		w.command(SandboxCommand{Mode: ModeThrottle, Provider: AliyunName})
		w.command(SandboxCommand{Mode: ModeThrottle, Provider: TencentName})
		d := w.settled(w.send("task:6").ID, Accepted)
		if d.Provider != TwilioName || d.Attempts != 3 {
			t.Errorf("%+v", d)
		}
		w.command(SandboxCommand{Mode: ModeThrottle, Provider: TwilioName})
		d = w.settled(w.send("task:7").ID, Waiting)
		if d.Code != "sms_throttled" || !d.NextAt.After(w.clock.Now()) {
			t.Errorf("%+v", d)
		}
		w.command(SandboxCommand{Mode: ModeNormal})
		refusedNumber := w.wish("task:8")
		refusedNumber.To = "+8613800100000"
		status, err := w.Send(t.Context(), refusedNumber)
		if err != nil {
			t.Fatal(err)
		}
		if d := w.settled(status.ID, Failed); d.Code != "sms_number_refused" {
			t.Errorf("a number that nobody sends to: %+v", d)
		}
	})
}

func TestWrongMessages(t *testing.T) {
	eachDesk(t, []string{AliyunName}, func(t *testing.T, w *desk) {
		for what, change := range map[string]func(*Request){
			"number":    func(r *Request) { r.To = "13800138000" },
			"template":  func(r *Request) { r.Template = "diagnosis" },
			"parameter": func(r *Request) { r.Params = map[string]string{"until": "20:00", "score": "27"} },
			"purpose":   func(r *Request) { r.Purpose = strings.Repeat("x", 129) },
			"none":      func(r *Request) { r.Purpose = "" },
		} {
			r := w.wish("task:9")
			change(&r)
			if _, err := w.Send(t.Context(), r); !errs.Permanent(err) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if list, err := w.Deliveries.Of(t.Context(), someone, 0, 10); len(list) != 0 || err != nil {
			t.Errorf("%d rows of refused messages, %v", len(list), err)
		}
		none := NewService(w.config, w.ServiceParts)
		none.routes = nil
		if _, err := none.Send(t.Context(), w.wish("x")); errs.KindOf(err) != errs.Unprocessable {
			t.Errorf("without a gateway: %v", err)
		}
	})
}

// door serves the desk's routes to a caller that a header names as "kind id".
func (w *desk) door() *web.Server {
	w.t.Helper()
	server, err := web.New(web.DefaultConfig(), web.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	server.Gin().Use(func(c *gin.Context) {
		var p auth.Principal
		if n, err := fmt.Sscanf(c.GetHeader("X-Caller"), "%s %d", &p.Kind, &p.ID); n == 2 && err == nil {
			c.Request = c.Request.WithContext(auth.With(c.Request.Context(), p))
		}
	})
	w.Routes(server)
	return server
}

func TestMessagesAtTheDoor(t *testing.T) {
	eachDesk(t, []string{TencentName}, func(t *testing.T, w *desk) {
		server := w.door()
		if err := server.CheckDocument(); err != nil {
			t.Error(err)
		}
		call := func(method, path, caller, body string) (int, string) {
			r := httptest.NewRequest(method, path, strings.NewReader(body))
			if body != "" {
				r.Header.Set("Content-Type", "application/json")
			}
			r.Header.Set("X-Caller", caller)
			rec := httptest.NewRecorder()
			server.Handler().ServeHTTP(rec, r)
			return rec.Code, rec.Body.String()
		}
		const path = "/api/v1/studies/3/participants/7/messages"
		good := `{"template":"task_due","to":"+8613700000001","params":{"until":"20:00"}}`
		for _, c := range []struct {
			method, path, caller, body string
			status                     int
			want                       string
		}{
			{"POST", path, "staff 2", good, 202, `"state":"accepted"`},
			{"POST", path, "staff 2", `{"template":"invitation","to":"12","params":{"link":"x"}}`, 400, "sms_number"},
			{"POST", path, "staff 2", `{"template":"task_due","channel":"email","to":"a@example.org","params":{"until":"20:00"}}`, 422, "email_not_configured"},
			{"POST", path, "staff 2", `{"template":"task_due","channel":"email","to":"+8613800138000","params":{"until":"20:00"}}`, 400, "email_address"},
			{"POST", path, "staff 2", `{"template":"task_due","channel":"fax","to":"+8613800138000","params":{"until":"20:00"}}`, 422, "/channel"},
			{"POST", path, "staff 2", `{"template":"x","to":"+8613800138000"}`, 400, "sms_template"},
			{"POST", path, "staff 4", good, 403, "forbidden"},
			{"POST", path, "staff 9", good, 404, "not_found"},
			{"POST", path, "participant 7", good, 403, "forbidden"},
			{"POST", path, "", good, 401, "unauthenticated"},
			{"POST", "/api/v1/studies/4/participants/7/messages", "staff 2", good, 404, "not_found"},
			{"GET", path, "staff 4", "", 200, `"channel":"sms","template":"task_due"`},
			{"GET", path + "?cursor=x", "staff 4", "", 400, "invalid_parameter"},
			{"POST", "/api/v1/sms/receipts/tencent", "", "[]", 401, "sms_receipt_unsigned"},
			{"POST", "/api/v1/sms/receipts/nobody", "", "[]", 404, "not_found"},
			{"POST", "/api/v1/sms/receipts/tencent?token=" + testToken, "", "{", 400, "sms_receipt"},
		} {
			status, body := call(c.method, c.path, c.caller, c.body)
			if status != c.status || !strings.Contains(body, c.want) || strings.Contains(body, "13700000001") {
				t.Errorf("%s %s as %q: %d %s, want %d %s", c.method, c.path, c.caller, status, body, c.status, c.want)
			}
		}
		c := w.rig.next()
		r := httptest.NewRequest(http.MethodPost, "/api/v1/sms/receipts/tencent?token="+testToken, strings.NewReader(string(c.body)))
		r.Header = c.request.Header.Clone()
		rec := httptest.NewRecorder()
		server.Handler().ServeHTTP(rec, r)
		if rec.Code != 200 || !strings.Contains(rec.Body.String(), `"result":0`) {
			t.Errorf("a receipt: %d %s", rec.Code, rec.Body)
		}
		if _, body := call("GET", path, "staff 2", ""); !strings.Contains(body, `"state":"delivered"`) {
			t.Errorf("after its receipt: %s", body)
		}
	})
}

func TestServiceConfigNamesEveryProblem(t *testing.T) {
	if err := DefaultServiceConfig().Validate(); err != nil {
		t.Error(err)
	}
	err := Config{Order: []string{"pigeon"}, InlineWait: time.Hour}.Validate()
	for _, key := range []string{"order: ", "inlineWait: ", "interval: ", "lease: ", "inline: ", "batch: ", "rate: ", "breaker."} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s is not named in %v", key, err)
		}
	}
}

var _ limit.Gauge = (*desk)(nil)
