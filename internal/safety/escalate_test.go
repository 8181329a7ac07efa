package safety

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/submission"
)

func (w *ward) escalator() *Escalator {
	config := DefaultConfig()
	config.Batch, config.Lease = 2, 30*time.Second
	return NewEscalator(config, EscalatorParts{Store: w.store, Catalog: w, People: w, Messenger: w, Sealer: w.key, IDs: w, Now: w.clock.Now, Meter: w, Logger: w.logger})
}

// rota replaces the study's rota.
func (w *ward) rota(r Rota) {
	w.t.Helper()
	_, version, err := w.store.Rota(w.t.Context(), wardStudy)
	if err != nil {
		w.t.Fatal(err)
	}
	plain := fmt.Appendf(nil, `{"manager":[%s],"sites":[{"site":"S01","duty":[%s]}]}`, addresses(r.Manager), addresses(contactsOf(r.Sites)))
	sealed, err := w.key.Seal(plain, rotaPlace(wardStudy))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.store.PutRota(w.t.Context(), wardStudy, version, sealed, audit.Entry{ID: w.next(), At: w.clock.Now()}); err != nil {
		w.t.Fatal(err)
	}
}

func addresses(people []Contact) string {
	var out []string
	for _, p := range people {
		out = append(out, fmt.Sprintf(`{"email":%q}`, p.Email))
	}
	return strings.Join(out, ",")
}

func contactsOf(sites []Site) []Contact {
	var out []Contact
	for _, s := range sites {
		for _, d := range s.Duty {
			out = append(out, d.Contact)
		}
	}
	return out
}

func onDuty(emails ...string) []Site {
	s := Site{Site: "S01"}
	for _, email := range emails {
		s.Duty = append(s.Duty, Duty{Contact: Contact{Email: email}})
	}
	return []Site{s}
}

// toldOf returns who was told since it was asked last, sorted.
func (w *ward) toldOf() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := []string{}
	for _, t := range w.told {
		if t.Severity != High || t.Protocol != "EP-1" || t.Number != fmt.Sprint("P-", t.Participant) || t.Language != "en" {
			w.t.Errorf("%+v", t)
		}
		out = append(out, t.To.Email)
	}
	w.told = nil
	slices.Sort(out)
	return out
}

// alert raises one alert and returns its submission.
func (w *ward) alert(participant int64) submission.Response {
	w.t.Helper()
	r := w.submitted(participant)
	w.handle(w.consumer().Handle, w.event(&r, "response.store", ""))
	return r
}

// TestEscalation: each step is told when it is due, to everybody of it, once, by however many processes; acknowledged, nobody else is.
func TestEscalation(t *testing.T) {
	each(t, func(t *testing.T, w *ward) {
		w.publish(harm("grave", 0, false, Escalation{ToSite, "PT0S"}, Escalation{ToManager, "PT30M"}, Escalation{ToSite, "PT2H"}, Escalation{ToManager, "P1D"}))
		w.rota(Rota{Sites: onDuty("day@example.org", "second@example.org"), Manager: []Contact{{Email: "manager@example.org"}}})
		for i := range int64(5) {
			w.alert(1001 + i*50) // of both shards
		}
		five := func(people ...string) []string {
			out := []string{}
			for range 5 {
				out = append(out, people...)
			}
			slices.Sort(out)
			return out
		}
		everywhere := func() {
			var processes sync.WaitGroup
			for range 3 {
				processes.Go(func() { w.escalator().Once(t.Context()) })
			}
			processes.Wait()
		}
		for _, step := range []struct {
			after time.Duration
			want  []string
		}{
			{0, five("day@example.org", "second@example.org")}, {29 * time.Minute, []string{}}, {time.Minute, five("manager@example.org")}, {time.Hour, []string{}},
			{30 * time.Minute, five("day@example.org", "second@example.org")},
		} {
			w.clock.Advance(step.after)
			everywhere()
			everywhere()
			if diff := cmp.Diff(step.want, w.toldOf()); diff != "" {
				t.Fatalf("%v later: %s", step.after, diff)
			}
		}
		list, err := w.store.Alerts(t.Context(), AlertFilter{Study: wardStudy, Limit: 10})
		if err != nil || len(list) != 5 {
			t.Fatal(list, err)
		}
		for _, was := range list {
			is := was
			is.State, is.Notes, is.NextAt, is.UpdatedAt = StateAcknowledged, []byte{}, time.Time{}, w.clock.Now()
			if err := w.store.Change(t.Context(), was, is, audit.Entry{ID: w.next(), At: is.UpdatedAt}, eventOf(w.next(), &is, "alert.acknowledge", is.UpdatedAt)); err != nil {
				t.Fatal(err)
			}
		}
		w.clock.Advance(48 * time.Hour)
		everywhere()
		if told := w.toldOf(); len(told) > 0 {
			t.Errorf("told of what somebody takes care of: %v", told)
		}
		trail := make(map[string]int)
		for _, e := range w.entries() {
			if strings.HasPrefix(e, "alert.escalate") {
				trail[e]++
			}
		}
		want := map[string]int{`alert.escalate {"step":0,"to":"site","people":2}`: 5, `alert.escalate {"step":1,"to":"manager","people":1}`: 5, `alert.escalate {"step":2,"to":"site","people":2}`: 5}
		if diff := cmp.Diff(want, trail); diff != "" {
			t.Errorf("audit trail: %s", diff)
		}
	})
}

// TestWhoIsTold: the site's people on duty, else the site itself, else the manager; where there is nobody the log says so, and the next step
// is due all the same.
func TestWhoIsTold(t *testing.T) {
	manager := []Contact{{Email: "manager@example.org"}}
	type who struct {
		site string // its own address
		rota Rota
		want []string
	}
	cases(t, map[string]who{
		"OnDuty":  {"site@example.org", Rota{Sites: onDuty("day@example.org"), Manager: manager}, []string{"day@example.org"}},
		"Site":    {"site@example.org", Rota{Manager: manager}, []string{"site@example.org"}},
		"Manager": {"", Rota{Manager: manager}, []string{"manager@example.org"}},
		"Nobody":  {"", Rota{}, []string{}},
	}, func(t *testing.T, w *ward, c who) {
		w.publish(harm("grave", 0, false, Escalation{ToSite, "PT0S"}, Escalation{ToManager, "PT1H"}))
		w.rota(c.rota)
		w.site.Email = c.site
		w.alert(1001)
		w.escalator().Once(t.Context())
		if diff := cmp.Diff(c.want, w.toldOf()); diff != "" {
			t.Error(diff)
		}
		if nobody := strings.Contains(w.logged.String(), "nobody was told"); nobody != (len(c.want) == 0) || nobody != (w.untold > 0) {
			t.Errorf("the log says:\n%s", w.logged.String())
		}
		if a := w.only(); a.Step != 1 || !a.NextAt.Equal(a.RaisedAt.Add(time.Hour)) {
			t.Errorf("step %d at %v", a.Step, a.NextAt)
		}
	})
}

// TestTellingFails: what may pass is tried again after the lease, without those who were told; what never works is not; and neither keeps the
// next step waiting.
func TestTellingFails(t *testing.T) {
	type failure struct {
		err   error
		again bool
	}
	cases(t, map[string]failure{
		"Away":      {errs.Away("the shard", errors.New("x")), true},
		"Internal":  {errors.New("a fault of ours"), true},
		"Permanent": {errs.New(errs.Invalid, "x", "no such address"), false},
	}, func(t *testing.T, w *ward, c failure) {
		w.publish(harm("grave", 0, false, Escalation{ToSite, "PT0S"}, Escalation{ToManager, "PT10M"}))
		w.rota(Rota{Sites: onDuty("day@example.org", "second@example.org"), Manager: []Contact{{Email: "manager@example.org"}}})
		w.alert(1001)
		w.deaf = func(t Told) error {
			if t.To.Email == "day@example.org" {
				return c.err
			}
			return nil
		}
		e := w.escalator()
		e.Once(t.Context())
		if diff := cmp.Diff([]string{"second@example.org"}, w.toldOf()); diff != "" {
			t.Errorf("who can be told: %s", diff)
		}
		if a := w.only(); a.Step != map[bool]int{true: 0, false: 1}[c.again] {
			t.Fatalf("step %d", a.Step)
		}
		if !c.again {
			return
		}
		e.Once(t.Context())
		if told := w.toldOf(); len(told) > 0 {
			t.Errorf("within the lease %v are told", told)
		}
		w.clock.Advance(11 * time.Minute) // still deaf
		e.Once(t.Context())
		if a := w.only(); a.Step != 1 {
			t.Fatalf("the next step is due, and step %d is tried", a.Step)
		}
		w.toldOf()
		e.Once(t.Context())
		if diff := cmp.Diff([]string{"manager@example.org"}, w.toldOf()); diff != "" {
			t.Error(diff)
		}
	})
}

// TestToldAfterAll: who could not be told is told with the next try.
func TestToldAfterAll(t *testing.T) {
	each(t, func(t *testing.T, w *ward) {
		w.publish(harm("grave", 0, false))
		w.rota(Rota{Sites: onDuty("day@example.org")})
		w.alert(1001)
		w.deaf = func(Told) error { return errors.New("a fault of ours") }
		e := w.escalator()
		e.Once(t.Context())
		w.deaf = nil
		w.clock.Advance(31 * time.Second)
		e.Once(t.Context())
		if diff := cmp.Diff([]string{"day@example.org"}, w.toldOf()); diff != "" {
			t.Errorf("after the failure: %s", diff)
		}
	})
}

// TestDeadEscalator: what a process had taken when it died is another's after the lease.
func TestDeadEscalator(t *testing.T) {
	each(t, func(t *testing.T, w *ward) {
		w.publish(harm("grave", 0, false))
		w.rota(Rota{Sites: onDuty("day@example.org")})
		w.alert(1001)
		e := w.escalator()
		for _, d := range w.shards.All() { // takes it and dies
			if _, err := w.store.Due(t.Context(), d, w.clock.Now(), w.clock.Now().Add(e.config.Lease), 10); err != nil {
				t.Fatal(err)
			}
		}
		w.clock.Advance(29 * time.Second)
		if n := e.Once(t.Context()); n != 0 {
			t.Errorf("%d alerts of another are told", n)
		}
		w.clock.Advance(2 * time.Second)
		if n := e.Once(t.Context()); n != 1 || len(w.toldOf()) != 1 {
			t.Errorf("after the lease %d alerts are told", n)
		}
	})
}

// TestEscalationRestsWhileLocked: the alerts of a locked study stay as they are, hold nobody up, and go on after the unlock.
func TestEscalationRestsWhileLocked(t *testing.T) {
	each(t, func(t *testing.T, w *ward) {
		w.publish(harm("grave", 0, false))
		w.rota(Rota{Sites: onDuty("day@example.org"), Manager: []Contact{{Email: "manager@example.org"}}})
		for i := range int64(6) {
			w.alert(1001 + i)
		}
		before, err := w.store.Alerts(t.Context(), AlertFilter{Study: wardStudy, Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		closing := &study.ClosingStore{Shards: w.shards, Page: 10}
		w.stand(db.Closing, 1)
		if _, err := closing.Quiet(t.Context(), wardStudy, true, w.clock.Now()); err != nil {
			t.Fatal(err)
		}
		w.stand(db.Closed, 1)
		other := before[0]
		other.ID, other.Study, other.Submission, other.Notes, other.NextAt = w.next(), wardStudy+1, [16]byte{1}, []byte{}, w.clock.Now()
		o := Occurrence{Study: other.Study, Participant: other.Participant, Submission: other.Submission, State: "stored", At: w.clock.Now(), Alerts: []Alert{other}, Raised: w.raisedBy()}
		if _, err := w.store.Raise(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		w.clock.Advance(time.Hour)
		found := 0
		for _, d := range w.shards.All() {
			due, err := w.store.Due(t.Context(), d, w.clock.Now(), w.clock.Now().Add(time.Minute), 2)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range due {
				if a.Study != other.Study {
					t.Errorf("an alert of the locked study is taken: %+v", a)
				}
				found++
			}
		}
		if found != 1 {
			t.Errorf("%d alerts of the open study are due, want 1", found)
		}
		after, err := w.store.Alerts(t.Context(), AlertFilter{Study: wardStudy, Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("a locked study changed: %s", diff)
		}
		w.stand(db.Open, 1)
		w.escalator().Once(t.Context())
		w.escalator().Once(t.Context())
		if told := w.toldOf(); len(told) != 12 {
			t.Errorf("after the unlock %d people are told, want site and manager of 6 alerts", len(told))
		}
	})
}
