package notify

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/eprod/eprod/internal/errs"
)

// eachSender runs a test for every sender on a rig of its own.
func eachSender(t *testing.T, test func(t *testing.T, r *rig, s Reporter)) {
	for _, name := range providers {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			test(t, r, r.senders[name])
		})
	}
}

func TestSentReportedAndFound(t *testing.T) {
	eachSender(t, func(t *testing.T, r *rig, s Reporter) {
		r.command(SandboxCommand{})
		m, start := due(7_300_000_000_000_000_001), time.Now()
		reference, err := s.Send(bounded(t), m)
		if err != nil || reference == "" {
			t.Fatalf("got %q, %v", reference, err)
		}
		taken := r.sandbox.Inbox()
		if len(taken) != 1 || taken[0].To != m.To || taken[0].OutID != "7300000000000000001" || taken[0].Reference != reference ||
			!strings.Contains(taken[0].Text+taken[0].Params, "今晚 20:00") {
			t.Fatalf("the gateway took %+v", taken)
		}
		want := Receipt{ID: m.ID, Provider: s.Name(), Reference: reference, State: Delivered}
		loose := cmpopts.IgnoreFields(Receipt{}, "Code", "At")
		got := r.next()
		if s.Name() == TwilioName { // reports "sent" first
			if got.err != nil || got.receipts[0].State != Accepted {
				t.Fatalf("got %+v, %v", got.receipts, got.err)
			}
			got = r.next()
		}
		byReceipt := want
		if s.Name() == TencentName {
			byReceipt.ID = 0 // its callbacks carry the reference only
		}
		if diff := cmp.Diff([]Receipt{byReceipt}, got.receipts, loose); diff != "" || got.err != nil {
			t.Fatal(got.err, diff)
		}
		if at := got.receipts[0].At; at.Before(start.Add(-2*time.Second)) || at.After(time.Now().Add(2*time.Second)) {
			t.Errorf("the receipt says %v, it is %v: a time zone is wrong", at, time.Now())
		}
		found, err := s.Query(bounded(t), m, reference, start)
		if diff := cmp.Diff(want, found, loose); diff != "" || err != nil {
			t.Error(err, diff)
		}
		if found.At.Before(start.Add(-2*time.Second)) || found.At.After(time.Now().Add(2*time.Second)) {
			t.Errorf("the query says %v, it is %v: a time zone is wrong", found.At, time.Now())
		}
	})
}

func TestFailedDelivery(t *testing.T) {
	eachSender(t, func(t *testing.T, r *rig, s Reporter) {
		r.command(SandboxCommand{Receipts: SandboxReceipts{Outcome: "failed"}})
		start := time.Now()
		reference, err := s.Send(bounded(t), due(1))
		if err != nil {
			t.Fatal(err)
		}
		got := r.next()
		if s.Name() == TwilioName {
			got = r.next()
		}
		found, err := s.Query(bounded(t), due(1), reference, start)
		if got.err != nil || err != nil || got.receipts[0].State != Failed || found.State != Failed || got.receipts[0].Code == "" || found.Code == "" {
			t.Errorf("got %+v %v, %+v %v", got.receipts, got.err, found, err)
		}
	})
}

func TestDuplicatedAndReorderedReceipts(t *testing.T) {
	eachSender(t, func(t *testing.T, r *rig, s Reporter) {
		r.command(SandboxCommand{Receipts: SandboxReceipts{DelayMs: 1500, Reorder: true}})
		var references []string
		for id := range int64(2) {
			reference, err := s.Send(bounded(t), due(id+1))
			if err != nil {
				t.Fatal(err)
			}
			references = append(references, reference)
		}
		first, second := r.next(), r.next()
		if s.Name() == TwilioName { // each message's "delivered" comes before its "sent"; the two messages may interleave
			states := map[string][]State{}
			for _, c := range []callback{first, second, r.next(), r.next()} {
				states[c.receipts[0].Reference] = append(states[c.receipts[0].Reference], c.receipts[0].State)
			}
			swapped := []State{Delivered, Accepted}
			if diff := cmp.Diff(map[string][]State{references[0]: swapped, references[1]: swapped}, states); diff != "" {
				t.Error("not swapped", diff)
			}
		} else if first.receipts[0].Reference != references[1] || second.receipts[0].Reference != references[0] {
			t.Errorf("not swapped: %+v, %+v", first.receipts, second.receipts)
		}
		r.command(SandboxCommand{Receipts: SandboxReceipts{Duplicate: true}})
		reference, err := s.Send(bounded(t), due(3))
		if err != nil {
			t.Fatal(err)
		}
		final := 0
		for final < 2 {
			got := r.next()
			if got.err != nil || len(got.receipts) != 1 || got.receipts[0].Reference != reference {
				t.Fatalf("got %+v, %v", got.receipts, got.err)
			}
			if got.receipts[0].State.Final() {
				final++
			}
		}
	})
}

func TestThrottledAndRefusedAreUnsent(t *testing.T) {
	eachSender(t, func(t *testing.T, r *rig, s Reporter) {
		r.command(SandboxCommand{Mode: ModeThrottle, Accept: true})
		_, err := s.Send(bounded(t), due(1))
		if errs.KindOf(err) != errs.RateLimited || !Unsent(err) {
			t.Errorf("throttled: %v", err)
		}
		r.command(SandboxCommand{})
		refused := due(1)
		refused.To = "+8613800100000"
		_, err = s.Send(bounded(t), refused)
		if e, _ := errs.As(err); e == nil || e.Code != "sms_number_refused" || !Unsent(err) || Undeliverable(err) {
			t.Errorf("refused: %v", err)
		}
		bad := due(1)
		bad.Params = map[string]string{"until": "20:00", "diagnosis": "x"}
		if _, err = s.Send(bounded(t), bad); !Undeliverable(err) {
			t.Errorf("a parameter that is not allowed: %v", err)
		}
		if taken := r.sandbox.Inbox(); len(taken) != 0 {
			t.Errorf("the gateway took %+v", taken)
		}
	})
}

// After each of these nobody knows whether the message was sent; that it was is found by asking.
func TestUnknownOutcomeIsSettledByQuery(t *testing.T) {
	for _, mode := range []string{ModeHang, ModeFail, ModeGarbage} {
		t.Run(mode, func(t *testing.T) {
			eachSender(t, func(t *testing.T, r *rig, s Reporter) {
				for _, accept := range []bool{false, true} {
					r.command(SandboxCommand{Mode: mode, Accept: accept, Receipts: SandboxReceipts{Outcome: "none"}})
					m, start := due(42), time.Now()
					limit := 5 * time.Second
					if mode == ModeHang {
						limit = 150 * time.Millisecond
					}
					ctx, cancel := context.WithTimeout(context.Background(), limit)
					_, err := s.Send(ctx, m)
					cancel()
					if errs.KindOf(err) != errs.Unavailable || Unsent(err) {
						t.Fatalf("accept %v: got %v, want an unknown outcome", accept, err)
					}
					if took := time.Since(start); took > 4*time.Second {
						t.Fatalf("the caller waited %v", took)
					}
					if strings.Contains(err.Error(), "13800138000") || strings.Contains(err.Error(), "http") {
						t.Errorf("the error shows the address or number: %v", err)
					}
					r.command(SandboxCommand{})
					found, err := s.Query(bounded(t), m, "", start)
					want := map[bool]State{false: Unknown, true: Delivered}[accept]
					if err != nil || found.State != want || found.ID != m.ID || accept && s.Name() != AliyunName && found.Reference == "" {
						t.Errorf("accept %v: got %+v, %v, want %s", accept, found, err, want)
					}
				}
			})
		})
	}
}

func TestQueryFailsLikeSend(t *testing.T) {
	eachSender(t, func(t *testing.T, r *rig, s Reporter) {
		for _, mode := range []string{ModeFail, ModeGarbage} {
			r.command(SandboxCommand{Mode: mode})
			for _, reference := range []string{"", "SM" + strings.Repeat("0", 32)} {
				if _, err := s.Query(bounded(t), due(1), reference, time.Now()); errs.KindOf(err) != errs.Unavailable {
					t.Errorf("%s: got %v", mode, err)
				}
			}
		}
		r.command(SandboxCommand{})
		for _, reference := range []string{"", "SM" + strings.Repeat("0", 32)} {
			if got, err := s.Query(bounded(t), due(1), reference, time.Now()); err != nil || got.State != Unknown {
				t.Errorf("a message that was never sent: %+v, %v", got, err)
			}
		}
	})
}

// Two messages to one number: each query finds its own.
func TestQueryTellsMessagesApart(t *testing.T) {
	eachSender(t, func(t *testing.T, r *rig, s Reporter) {
		r.command(SandboxCommand{Receipts: SandboxReceipts{Outcome: "failed"}})
		start := time.Now()
		first, err := s.Send(bounded(t), due(1))
		if err != nil {
			t.Fatal(err)
		}
		r.command(SandboxCommand{})
		second, err := s.Send(bounded(t), due(2))
		if err != nil {
			t.Fatal(err)
		}
		for reference, want := range map[string]State{first: Failed, second: Delivered} {
			m := due(1)
			if reference == second {
				m = due(2)
			}
			if got, err := s.Query(bounded(t), m, reference, start); err != nil || got.State != want {
				t.Errorf("got %+v, %v, want %s", got, err, want)
			}
		}
		got, err := s.Query(bounded(t), due(1), "", start)
		want := map[string]State{AliyunName: Failed, TencentName: Failed, TwilioName: Unknown}[s.Name()] // Twilio cannot tell two equal texts apart
		if err != nil || got.State != want {
			t.Errorf("without a reference: %+v, %v, want %s", got, err, want)
		}
	})
}

func TestWrongSecretIsRefused(t *testing.T) {
	r := newRig(t)
	wrong := DefaultSandboxConfig()
	wrong.Aliyun.Secret, wrong.Tencent.Secret, wrong.Twilio.Secret = "wrong", "wrong", "wrong"
	for name, s := range r.connect(r.gateway.URL, "http://localhost", wrong, r.gateway.Client()) {
		_, err := s.Send(bounded(t), due(1))
		if errs.KindOf(err) != errs.Forbidden || !Unsent(err) {
			t.Errorf("%s: got %v", name, err)
		}
		if _, err := s.Query(bounded(t), due(1), "x", time.Now()); errs.KindOf(err) != errs.Forbidden {
			t.Errorf("%s: query: %v", name, err)
		}
	}
	if taken := r.sandbox.Inbox(); len(taken) != 0 {
		t.Errorf("the gateway took %+v", taken)
	}
}

// A request that was recorded cannot be sent again, nor changed.
func TestSandboxRefusesReplaysAndChanges(t *testing.T) {
	r := newRig(t)
	var recorded *http.Request
	client := &http.Client{Transport: roundTrip(func(request *http.Request) (*http.Response, error) {
		recorded = request.Clone(context.Background())
		return http.DefaultTransport.RoundTrip(request)
	})}
	s := r.connect(r.gateway.URL, "http://localhost", r.sandbox.config, client)[AliyunName]
	if _, err := s.Send(bounded(t), due(1)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, query, want string }{
		{"Replay", recorded.URL.RawQuery, "SignatureNonceUsed"},
		{"Change", strings.Replace(recorded.URL.RawQuery, "13800138000", "13900139000", 1), "SignatureDoesNotMatch"},
	} {
		again := recorded.Clone(bounded(t))
		again.URL.RawQuery = c.query
		resp, err := http.DefaultTransport.RoundTrip(again)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(body), c.want) {
			t.Errorf("%s: got %s, %v", c.name, body, err)
		}
	}
	if taken := r.sandbox.Inbox(); len(taken) != 1 {
		t.Errorf("the gateway took %+v", taken)
	}
}

func TestNothingSentWithoutConnection(t *testing.T) {
	r := newRig(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close() // a port where nobody listens
	for name, s := range r.connect("http://"+listener.Addr().String(), "http://localhost", r.sandbox.config, http.DefaultClient) {
		if _, err := s.Send(bounded(t), due(1)); !Unsent(err) || errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%s: got %v", name, err)
		} else if strings.Contains(err.Error(), "13800138000") {
			t.Errorf("%s: the error shows the number: %v", name, err)
		}
	}
}

func TestCommandAndPages(t *testing.T) {
	r := newRig(t)
	for body, want := range map[string]int{
		`{"mode":"hang","provider":"twilio","accept":true,"receipts":{"delayMs":50,"duplicate":true,"reorder":true}}`: 200,
		`{}`:                              200,
		`{"mode":"explode"}`:              400,
		`{"provider":"vonage"}`:           400,
		`{"receipts":{"delayMs":-1}}`:     400,
		`{"receipts":{"outcome":"lost"}}`: 400,
		`{"speed":1}`:                     400,
		`x`:                               400,
	} {
		resp, err := http.Post(r.gateway.URL+"/command", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d", body, resp.StatusCode, want)
		}
	}
	r.command(SandboxCommand{})
	m := due(1)
	m.Params["until"] = "<script>alert(1)</script>"
	if _, err := r.senders[TwilioName].Send(bounded(t), m); err != nil {
		t.Fatal(err)
	}
	page, inbox := r.get("/"), r.get("/inbox")
	if !strings.Contains(page, "+8613800138000") && !strings.Contains(page, "&#43;8613800138000") || strings.Contains(page, "<script>alert") {
		t.Errorf("the page is wrong:\n%s", page)
	}
	var list []SandboxMessage
	if err := json.Unmarshal([]byte(inbox), &list); err != nil || len(list) != 1 || list[0].To != m.To || list[0].Provider != TwilioName {
		t.Errorf("inbox %s, %v", inbox, err)
	}
}

func TestInboxIsBounded(t *testing.T) {
	config := DefaultSandboxConfig()
	config.Inbox = 3
	s := NewSandbox(config, time.Now, nil)
	for range 5 {
		s.take(SandboxMessage{Provider: AliyunName}, "%d")
	}
	if got := s.Inbox(); len(got) != 3 || got[0].Reference <= got[2].Reference {
		t.Errorf("got %+v", got)
	}
	for i := range maxNonces + 5 {
		s.fresh(string(rune(i)) + "x")
	}
	if len(s.nonces) > maxNonces || len(s.recent) > maxNonces {
		t.Errorf("%d nonces are remembered", len(s.nonces))
	}
}

func (r *rig) get(path string) string {
	r.t.Helper()
	resp, err := http.Get(r.gateway.URL + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		r.t.Fatal(resp.StatusCode, err)
	}
	return string(body)
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
