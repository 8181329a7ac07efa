package notify

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/errs"
)

// mailbox is a mail server without a wire.
type mailbox struct {
	mu      sync.Mutex
	taken   []Message
	refusal error // said instead of taking a message
	lost    error // said after taking one
}

func (*mailbox) Name() string     { return "mailbox" }
func (*mailbox) Channel() Channel { return Email }

func (b *mailbox) Send(_ context.Context, m Message) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refusal != nil {
		return "", b.refusal
	}
	b.taken = append(b.taken, m)
	return "", b.lost
}

func (b *mailbox) say(refusal, lost error) {
	b.mu.Lock()
	b.refusal, b.lost = refusal, lost
	b.mu.Unlock()
}

func (b *mailbox) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.taken)
}

func (w *desk) mail(purpose string) Request {
	r := w.wish(purpose)
	r.Channel, r.To = Email, "someone@example.org"
	return r
}

// TestChannelsAreApart: a message goes to senders of its channel only, whatever the others would say.
func TestChannelsAreApart(t *testing.T) {
	box := &mailbox{}
	eachDesk(t, []string{AliyunName}, func(t *testing.T, w *desk) {
		before := box.count()
		text := w.send("task:1")
		mail, err := w.Send(t.Context(), w.mail("task:1:mail"))
		if err != nil || text.State != Accepted || mail.State != Accepted {
			t.Fatalf("%+v, %+v, %v", text, mail, err)
		}
		if len(w.sandbox.Inbox()) != 1 || box.count() != before+1 {
			t.Errorf("%d texts, %d mails", len(w.sandbox.Inbox()), box.count()-before)
		}
		got := []Channel{w.state(text.ID).Channel, w.state(mail.ID).Channel}
		if diff := cmp.Diff([]Channel{SMS, Email}, got); diff != "" {
			t.Error(diff)
		}
		w.command(SandboxCommand{Mode: ModeThrottle})
		if d := w.settled(w.send("task:2").ID, Waiting); d.Attempts != 1 || box.count() != before+1 {
			t.Errorf("a throttled text: %+v, %d mails", d, box.count()-before)
		}
	}, box)
}

// TestUnreportedChannel: where nobody can be asked, what was taken stays accepted, what may have been taken stays unknown, and what was
// certainly not taken is sent again.
func TestUnreportedChannel(t *testing.T) {
	box := &mailbox{}
	eachDesk(t, nil, func(t *testing.T, w *desk) {
		before := box.count()
		post := func(purpose string, refusal, lost error) int64 {
			box.say(refusal, lost)
			status, err := w.Send(t.Context(), w.mail(purpose))
			if err != nil {
				t.Fatal(err)
			}
			return status.ID
		}
		taken := post("taken", nil, nil)
		lost := post("lost", nil, errOutcomeUnknown("mailbox", errors.New("cut")))
		refused := post("refused", errNumberRefused("mailbox", "550"), nil)
		later := post("later", errThrottled("mailbox", "451"), nil)
		w.settled(taken, Accepted)
		w.settled(lost, Unknown)
		w.settled(refused, Failed)
		w.settled(later, Waiting)
		interrupted, err := w.write(t.Context(), w.mail("interrupted"))
		if err != nil {
			t.Fatal(err)
		}
		interrupted.State, interrupted.Provider, interrupted.SentAt = Sending, box.Name(), w.clock.Now()
		if _, _, err := w.Deliveries.Add(t.Context(), interrupted); err != nil {
			t.Fatal(err)
		}
		box.say(nil, nil)
		w.clock.Advance(w.config.AskAfter)
		if n := w.Once(t.Context()); n != 2 {
			t.Errorf("%d were looked at, want the one to send again and the interrupted one", n)
		}
		for range 3 {
			w.clock.Advance(w.config.MaxAge)
			if n := w.Once(t.Context()); n != 0 {
				t.Errorf("%d were looked at once more", n)
			}
		}
		for id, want := range map[int64]State{taken: Accepted, lost: Unknown, refused: Failed, later: Accepted, interrupted.ID: Unknown} {
			if d := w.state(id); d.State != want {
				t.Errorf("message %d is %s (%s), want %s", id, d.State, d.Code, want)
			}
		}
		if n := box.count() - before; n != 3 {
			t.Errorf("%d mails were taken, want 3", n)
		}
		if err := w.Receive(t.Context(), box.Name(), nil, nil); errs.KindOf(err) != errs.NotFound {
			t.Errorf("a receipt of who sends none: %v", err)
		}
	}, box)
}

// TestChannelWithoutGateway: the refusal says which one is missing; what was written before waits for the settings.
func TestChannelWithoutGateway(t *testing.T) {
	eachDesk(t, []string{AliyunName}, func(t *testing.T, w *desk) {
		if _, err := w.Send(t.Context(), w.mail("x")); !errors.Is(err, errNoSender(Email)) || errors.Is(err, errNoSender(SMS)) {
			t.Errorf("got %v", err)
		}
		d, err := w.write(t.Context(), w.wish("task:1"))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.Deliveries.Add(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		routes := w.routes
		w.routes = nil
		w.clock.Advance(w.config.Lease)
		w.Once(t.Context())
		if got := w.state(d.ID); got.State != Waiting || got.Code != "sms_not_configured" {
			t.Errorf("without a gateway: %+v", got)
		}
		w.routes = routes
		w.clock.Advance(w.config.RetryMax)
		w.Once(t.Context())
		w.settled(d.ID, Accepted)
	})
}

// TestQueue: the wish is written down once, nobody is asked, and the worker sends it at its next look.
func TestQueue(t *testing.T) {
	eachDesk(t, []string{AliyunName}, func(t *testing.T, w *desk) {
		first, fresh, err := w.Queue(t.Context(), w.wish("task:1"))
		if err != nil || !fresh || first.State != Waiting {
			t.Fatalf("%+v, %v, %v", first, fresh, err)
		}
		for range 3 {
			again, fresh, err := w.Queue(t.Context(), w.wish("task:1"))
			if err != nil || fresh || again.ID != first.ID {
				t.Errorf("again: %+v, %v, %v", again, fresh, err)
			}
		}
		if n := len(w.sandbox.Inbox()); n != 0 {
			t.Errorf("%d messages before the worker looked", n)
		}
		if n := w.Once(t.Context()); n != 1 {
			t.Errorf("the worker took %d", n)
		}
		w.settled(first.ID, Accepted)
		if again, fresh, err := w.Queue(t.Context(), w.wish("task:1")); again.State != Accepted || fresh || err != nil {
			t.Errorf("after it was sent: %+v, %v, %v", again, fresh, err)
		}
		wrong := w.wish("task:2")
		wrong.Params = map[string]string{"score": "27"}
		if _, _, err := w.Queue(t.Context(), wrong); !errs.Permanent(err) {
			t.Errorf("a wrong message: %v", err)
		}
		if _, _, err := w.Queue(t.Context(), w.mail("task:3")); !errors.Is(err, errNoSender(Email)) {
			t.Errorf("without a mail server: %v", err)
		}
	})
}

// paced is the service with other settings, by the real clock.
func (w *desk) paced(config Config, sender string) *Service {
	parts := w.ServiceParts
	parts.Now, parts.Senders = time.Now, []Sender{w.rig.senders[sender]}
	return NewService(config, parts)
}

func (w *desk) queue(s *Service, n int) (ids []int64) {
	w.t.Helper()
	for i := range n {
		r := w.wish(fmt.Sprint("paced:", i))
		r.Participant = int64(i + 1) // on both shards
		status, _, err := s.Queue(w.t.Context(), r)
		if err != nil {
			w.t.Fatal(err)
		}
		ids = append(ids, status.ID)
	}
	return ids
}

// TestRateIsKept: more than the rate allows is sent at the rate, without being put back in between.
func TestRateIsKept(t *testing.T) {
	eachDesk(t, nil, func(t *testing.T, w *desk) {
		config := w.config
		config.Rate, config.Burst = 100, 5
		s := w.paced(config, AliyunName)
		ids := w.queue(s, 30)
		began := time.Now()
		if n := s.Once(t.Context()); n != len(ids) {
			t.Errorf("%d were taken, want %d", n, len(ids))
		}
		if took := time.Since(began); took < 240*time.Millisecond {
			t.Errorf("30 messages took %v at 100 a second, 5 at once", took)
		}
		for _, id := range ids {
			if d := w.state(id); d.State != Accepted && d.State != Delivered {
				t.Errorf("message %d is %s (%s)", id, d.State, d.Code)
			}
		}
	})
}

// TestStoppingWhileWaitingForTheRate: the worker ends at once, and what it had not begun waits for another.
func TestStoppingWhileWaitingForTheRate(t *testing.T) {
	eachDesk(t, nil, func(t *testing.T, w *desk) {
		config := w.config
		config.Rate, config.Burst = 0.001, 2
		s := w.paced(config, TencentName)
		ids := w.queue(s, 6)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan int, 1)
		go func() { ended <- s.Once(ctx) }()
		for deadline := time.Now().Add(10 * time.Second); w.counted("tencent accepted") < 2 && time.Now().Before(deadline); {
			<-time.After(time.Millisecond)
		}
		stop()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Fatal("it still waits")
		}
		count := map[State]int{}
		for _, id := range ids {
			d := w.state(id)
			count[d.State]++
			if d.State == Waiting && (d.Code != "sms_throttled" || d.NextAt.After(time.Now().Add(config.RetryMin))) {
				t.Errorf("%+v", d)
			}
		}
		if diff := cmp.Diff(map[State]int{Accepted: 2, Waiting: 4}, count); diff != "" {
			t.Error(diff)
		}
	})
}
