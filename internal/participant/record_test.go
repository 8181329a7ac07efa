package participant

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/lock"
	"github.com/eprod/eprod/internal/testenv"
)

// book is a lock service in memory, by the clock of the world.
type book struct {
	mu    sync.Mutex
	clock *testenv.FakeClock
	held  map[string]map[string]time.Time // name → taking → end
	owner map[string]string
	fence map[string]int64
	away  error
}

func newBook(clock *testenv.FakeClock) *book {
	return &book{clock: clock, held: make(map[string]map[string]time.Time), owner: make(map[string]string), fence: make(map[string]int64)}
}

func (b *book) current(name string) (lock.Hold, bool) {
	h := lock.Hold{Owner: b.owner[name], Fence: b.fence[name]}
	for taking, until := range b.held[name] {
		if !b.clock.Now().Before(until) {
			delete(b.held[name], taking)
		} else if until.After(h.Until) {
			h.Until = until
		}
	}
	return h, len(b.held[name]) > 0
}

func (b *book) Hold(_ context.Context, name, owner, taking string, ttl time.Duration) (lock.Hold, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away != nil {
		return lock.Hold{}, b.away
	}
	h, held := b.current(name)
	if held && h.Owner != owner {
		return lock.Hold{}, &lock.HeldError{Hold: h}
	}
	if !held {
		b.owner[name], b.held[name] = owner, make(map[string]time.Time)
		b.fence[name]++
	}
	b.held[name][taking] = b.clock.Now().Add(ttl)
	h, _ = b.current(name)
	return h, nil
}

func (b *book) Release(_ context.Context, name, owner, taking string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.owner[name] == owner {
		delete(b.held[name], taking)
	}
	return b.away
}

func (b *book) Holder(_ context.Context, name string) (lock.Hold, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, held := b.current(name)
	return h, held, b.away
}

type names struct{}

func (names) Usernames(_ context.Context, ids []int64) (map[int64]string, error) {
	out := map[int64]string{}
	for _, id := range ids {
		if name := map[int64]string{admin: "dr.admin", coordinator: "dr.coord", monitor: "mona"}[id]; name != "" {
			out[id] = name
		}
	}
	return out, nil
}

// patient enrols somebody at the coordinator's site and returns the id.
func (w *world) patient(t *testing.T) int64 {
	t.Helper()
	o, err := w.Enrol(as(t.Context(), admin), theStudy, anna(), "test")
	if err != nil {
		t.Fatal(err)
	}
	return o.ID
}

func parts(text string) map[string]json.RawMessage {
	var m map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		panic(err)
	}
	return m
}

func TestRecordVersions(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		id, ctx := w.patient(t), as(t.Context(), coordinator)
		r, editor, err := w.Record(ctx, id)
		if err != nil || r.Version != 0 || len(r.Sections) != 0 || editor != nil {
			t.Fatalf("before the first: %+v %v %v", r, editor, err)
		}
		contents := []string{`{"history":{"smoker":true},"allergy":{"to":"X"}}`, `{"history":{"smoker":false},"allergy":{ "to" : "X"}}`, `{}`}
		for i, content := range contents {
			w.clock.Advance(time.Minute)
			got, err := w.PutRecord(ctx, id, int64(i), parts(content), fmt.Sprint("reason ", i), fmt.Sprint("request-", i))
			if err != nil || got.Version != int64(i)+1 {
				t.Fatalf("version %d: %+v %v", i+1, got, err)
			}
		}
		for _, stale := range []int64{0, 1, 2, 4} {
			_, err := w.PutRecord(ctx, id, stale, parts(`{"x":{}}`), "", "late")
			want(t, fmt.Sprint("stale version ", stale), err, "stale")
		}
		history, err := w.RecordHistory(ctx, id, 0, 10)
		if err != nil || len(history) != 3 {
			t.Fatalf("%d versions, %v", len(history), err)
		}
		for i, h := range history {
			want := Record{Participant: id, Version: int64(3 - i), Sections: parts(contents[2-i]), At: w.clock.Now().Add(-time.Duration(i) * time.Minute), By: coordinator, Reason: fmt.Sprint("reason ", 2-i)}
			if diff := cmp.Diff(want, h, cmp.Comparer(sameJSON)); diff != "" {
				t.Error(diff)
			}
		}
		if h, err := w.RecordHistory(ctx, id, 3, 1); err != nil || len(h) != 1 || h[0].Version != 2 {
			t.Errorf("a page: %+v %v", h, err)
		}
		w.recordEvidence(t, id, []string{
			`{}→{"allergy":{"to":"X"},"history":{"smoker":true}} reason 0 request-0`,
			`{"history":{"smoker":true}}→{"history":{"smoker":false}} reason 1 request-1`,
			`{"allergy":{"to":"X"},"history":{"smoker":false}}→{} reason 2 request-2`})
	})
}

// recordEvidence opens the audit entries of a record, and sees that nothing of it stands anywhere in clear.
func (w *world) recordEvidence(t *testing.T, id int64, wanted []string) {
	t.Helper()
	p, err := w.Profiles.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := audit.List(t.Context(), w.store.Shards.For(id), audit.Filter{Study: theStudy, Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		if e.Action != actionRecord {
			continue
		}
		if e.Actor != coordinator || e.Record != "record" || e.RecordID != id || e.Participant != id || bytes.Contains(e.New, []byte("smoker")) || bytes.Contains(e.Old, []byte("history")) {
			t.Errorf("entry %+v", e)
		}
		side := func(raw []byte) string {
			var s struct {
				Version int64 `json:",string"`
				Sealed  []byte
			}
			if err := json.Unmarshal(raw, &s); err != nil {
				t.Fatal(err)
			}
			plain, err := p.Key.Open(s.Sealed, auditPlace(id, s.Version))
			if err != nil {
				t.Fatal(err)
			}
			var compact bytes.Buffer
			_ = json.Compact(&compact, plain)
			return compact.String()
		}
		got = append(got, side(e.Old)+"→"+side(e.New)+" "+e.Reason+" "+e.Source)
	}
	slices.Reverse(got) // the list is youngest first
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Error(diff)
	}
}

func TestRecordIsHeldByOne(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		id, ctx, other := w.patient(t), as(t.Context(), coordinator), as(t.Context(), admin)
		hold, err := w.LockRecord(ctx, id, 0, "")
		if err != nil || hold.Until != w.clock.Now().Add(time.Minute) {
			t.Fatalf("%+v %v", hold, err)
		}
		until := hold.Until.Format(time.RFC3339Nano)
		for what, try := range map[string]func() error{
			"write":   func() error { _, err := w.PutRecord(other, id, 0, parts(`{}`), "", "r1"); return err },
			"session": func() error { _, err := w.LockRecord(other, id, 0, ""); return err },
		} {
			err := try()
			want(t, what, err, "record_locked")
			if e, _ := errs.As(err); e == nil || e.Members["holder"] != "dr.coord" || e.Members["until"] != until {
				t.Errorf("%s: %+v", what, e)
			}
		}
		_, editor, err := w.Record(other, id)
		if diff := cmp.Diff(&Editor{"dr.coord", hold.Until}, editor); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
		if _, err := w.PutRecord(ctx, id, 0, parts(`{"a":{}}`), "", "r2"); err != nil {
			t.Errorf("the holder itself: %v", err)
		}
		token := fmt.Sprint(hold.Fence)
		w.clock.Advance(50 * time.Second)
		if hold, err = w.LockRecord(ctx, id, 2*time.Minute, token); err != nil || hold.Until != w.clock.Now().Add(2*time.Minute) {
			t.Errorf("extended: %+v %v", hold, err)
		}
		want(t, "somebody else's end of the session", w.UnlockRecord(other, id), "ok")
		_, err = w.PutRecord(other, id, 1, parts(`{}`), "", "r3")
		want(t, "still held", err, "record_locked")
		w.clock.Advance(3 * time.Minute)
		if _, err := w.PutRecord(other, id, 1, parts(`{"b":{}}`), "", "r4"); err != nil {
			t.Errorf("after its end: %v", err)
		}
		_, err = w.LockRecord(ctx, id, 0, token)
		want(t, "a session that has ended", err, "record_lock_lost")
		_, err = w.PutRecord(ctx, id, 1, parts(`{"c":{}}`), "", "r5")
		want(t, "what was edited meanwhile", err, "stale")
		if _, err = w.LockRecord(ctx, id, 0, ""); err != nil {
			t.Error(err)
		}
		want(t, "end", w.UnlockRecord(ctx, id), "ok")
		want(t, "end again", w.UnlockRecord(ctx, id), "ok")
		if _, editor, err := w.Record(ctx, id); editor != nil || err != nil {
			t.Errorf("%+v %v", editor, err)
		}
	})
}

// TestPausedHolderWritesNothing: a process that wakes up after its lock ran out, between taking the lock and writing, is
// refused by the fence although the version is still the one it read.
func TestPausedHolderWritesNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		id, ctx := w.patient(t), t.Context()
		late, err := w.book.Hold(ctx, recordLock(id), owner(coordinator), "put:1", writeHold)
		if err != nil {
			t.Fatal(err)
		}
		want(t, "first holder", w.store.FenceRecord(ctx, id, late.Fence), "ok")
		w.clock.Advance(time.Minute)
		rival, err := w.book.Hold(ctx, recordLock(id), owner(admin), "put:2", writeHold)
		if err != nil {
			t.Fatal(err)
		}
		want(t, "rival", w.store.FenceRecord(ctx, id, rival.Fence), "ok")
		entry := audit.Entry{ID: w.next(t), At: w.clock.Now(), Zone: "UTC", ActorKind: "staff", Action: actionRecord, Record: "record", Study: theStudy}
		next := SealedRecord{Participant: id, Version: 1, Sealed: []byte("x"), At: w.clock.Now(), By: coordinator}
		want(t, "write of the paused", w.store.PutRecord(ctx, 0, next, late.Fence, entry), "record_locked")
		want(t, "taking of the paused", w.store.FenceRecord(ctx, id, late.Fence), "record_locked")
		want(t, "write of the rival", w.store.PutRecord(ctx, 0, next, rival.Fence, entry), "ok")
		entry.ID = w.next(t)
		want(t, "the same version again", w.store.PutRecord(ctx, 0, next, rival.Fence, entry), "stale")
		if r, err := w.store.Record(ctx, id); r.Version != 1 || err != nil {
			t.Errorf("%+v %v", r, err)
		}
	})
}

func (w *world) next(t *testing.T) int64 {
	t.Helper()
	ids, err := w.IDs.NextN(1)
	if err != nil {
		t.Fatal(err)
	}
	return ids[0]
}

// TestManyEditors: of writers that race, each with the version it read, exactly one wins a version, and no change is lost.
func TestManyEditors(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		id := w.patient(t)
		var racing sync.WaitGroup
		var mu sync.Mutex
		wins := make(map[int64]int)
		for editor := range 8 {
			racing.Go(func() {
				ctx := as(t.Context(), []int64{admin, coordinator}[editor%2])
				for round := 0; round < 40; round++ {
					r, _, err := w.Record(ctx, id)
					if err != nil {
						t.Error(err)
						return
					}
					if r.Version >= 20 {
						return
					}
					next, err := w.PutRecord(ctx, id, r.Version, parts(fmt.Sprintf(`{"s":{"n":%d}}`, r.Version+1)), "", fmt.Sprint("race-", editor, "-", round))
					if c := code(err); c != "ok" && c != "stale" && c != "record_locked" {
						t.Error(err)
					}
					if err == nil {
						mu.Lock()
						wins[next.Version]++
						mu.Unlock()
					}
				}
			})
		}
		racing.Wait()
		r, _, err := w.Record(as(t.Context(), admin), id)
		if err != nil || int(r.Version) != len(wins) {
			t.Fatalf("version %d after %d wins, %v", r.Version, len(wins), err)
		}
		for v, n := range wins {
			if n != 1 {
				t.Errorf("version %d was won %d times", v, n)
			}
		}
	})
}

// TestRecordWithoutLocks: losing the lock service loses the sight of others, not the record.
func TestRecordWithoutLocks(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		id, ctx := w.patient(t), as(t.Context(), coordinator)
		w.book.away = errs.Away("locks", errors.New("down"))
		if _, err := w.PutRecord(ctx, id, 0, parts(`{"a":{}}`), "", "r1"); err != nil {
			t.Error(err)
		}
		_, err := w.PutRecord(ctx, id, 0, parts(`{"b":{}}`), "", "r2")
		want(t, "the version still decides", err, "stale")
		if r, editor, err := w.Record(ctx, id); r.Version != 1 || editor != nil || err != nil {
			t.Errorf("%+v %v %v", r, editor, err)
		}
		_, err = w.LockRecord(ctx, id, 0, "")
		want(t, "a session", err, "unavailable")
	})
}

func TestRecordRights(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		id := w.patient(t)
		elsewhere := anna()
		elsewhere.Number, elsewhere.Site = "0002", "S02"
		o, err := w.Enrol(as(t.Context(), admin), theStudy, elsewhere, "test")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			who, of     int64
			read, write string
		}{
			{coordinator, id, "ok", "ok"}, {coordinator, o.ID, "not_found", "not_found"}, {monitor, id, "ok", "forbidden"},
			{99, id, "not_found", "not_found"}, {admin, id, "ok", "stale"}, {admin, 12345, "not_found", "not_found"},
		} {
			ctx := as(t.Context(), c.who)
			_, _, err := w.Record(ctx, c.of)
			want(t, fmt.Sprintf("%d reads %d", c.who, c.of), err, c.read)
			_, err = w.RecordHistory(ctx, c.of, 0, 1)
			want(t, fmt.Sprintf("%d reads the history of %d", c.who, c.of), err, c.read)
			_, err = w.PutRecord(ctx, c.of, 0, parts(`{}`), "", fmt.Sprint("r", c.who))
			want(t, fmt.Sprintf("%d writes %d", c.who, c.of), err, c.write)
			_, err = w.LockRecord(ctx, c.of, 0, "")
			want(t, fmt.Sprintf("%d locks %d", c.who, c.of), err, strings.Replace(c.write, "stale", "ok", 1))
			_ = w.UnlockRecord(ctx, c.of)
		}
		w.studies.status = "locked"
		_, err = w.PutRecord(as(t.Context(), coordinator), id, 1, parts(`{}`), "", "r")
		want(t, "a locked study", err, "study_locked")
	})
}

func TestSections(t *testing.T) {
	many := make(map[string]json.RawMessage)
	for i := range maxSections + 1 {
		many[fmt.Sprint("s", i)] = json.RawMessage("{}")
	}
	for _, c := range []struct {
		sections map[string]json.RawMessage
		want     string
	}{
		{parts(`{}`), ""}, {parts(`{"a":{},"B_2-c":{"x":[1]}}`), ""},
		{nil, "/sections missing"}, {many, "/sections too_many"},
		{parts(`{"":{}}`), "/sections invalid_name"}, {parts(`{"1a":{}}`), "/sections invalid_name"}, {parts(`{"a b":{}}`), "/sections invalid_name"},
		{map[string]json.RawMessage{strings.Repeat("a", 65): []byte("{}")}, "/sections invalid_name"},
		{parts(`{"a":[],"b":null,"c":"{}"}`), "/sections/a invalid_section;/sections/b invalid_section;/sections/c invalid_section"},
		{map[string]json.RawMessage{"a": []byte(`{"x":"` + strings.Repeat("y", maxRecord) + `"}`)}, "/sections too_large"},
	} {
		var got []string
		for _, f := range sectionFindings(c.sections) {
			got = append(got, f.Pointer+" "+f.Code)
		}
		if strings.Join(got, ";") != c.want {
			t.Errorf("%d sections: %q, want %q", len(c.sections), got, c.want)
		}
	}
}

func TestISOSeconds(t *testing.T) {
	for text, want := range map[string]time.Duration{"PT60S": time.Minute, "PT1M30S": 90 * time.Second, "PT2M": 2 * time.Minute, "PT0S": 0, "PT1H": time.Hour,
		"": -1, "PT": -1, "60": -1, "PT-1S": -1, "PT1.5S": -1, "P1D": -1, "pt1s": -1, "PT1": -1, "PTS": -1} {
		if got, ok := isoSeconds(text); ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %v %v", text, got, ok)
		}
	}
}

func TestRecordAtTheDoor(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		id := w.patient(t)
		server := w.door(t)
		if err := server.CheckDocument(); err != nil {
			t.Error(err)
		}
		door, path := server.Handler(), fmt.Sprintf("/api/v1/participants/%d/record", id)
		const me, other = "staff 2", "staff 1"
		r := call(t, door, "GET", path, me, "")
		if r.want(t, "empty", 200, ""); r.header.Get("ETag") != `"0"` || fmt.Sprint(r.body) != "map[lock:<nil> sections:map[] version:0]" {
			t.Errorf("%v %v", r.header, r.body)
		}
		call(t, door, "PUT", path, me, `{"sections":{}}`).want(t, "without If-Match", 428, "precondition_required")
		call(t, door, "PUT", path, me, `{"sections":{}}`, "If-Match", "x").want(t, "If-Match", 400, "invalid_parameter")
		call(t, door, "PUT", path, me, `{}`, "If-Match", `"0"`).want(t, "no sections", 422, "invalid_field")
		call(t, door, "PUT", path, me, `{"sections":{"a":1}}`, "If-Match", `"0"`).want(t, "no object", 422, "invalid_field")
		call(t, door, "PUT", path, me, `{"sections":{},"x":1}`, "If-Match", `"0"`).want(t, "unknown member", 400, "unknown_member")
		r = call(t, door, "PUT", path, me, `{"sections":{"history":{"a":1}},"reason":"first"}`, "If-Match", `"0"`)
		if r.want(t, "put", 200, ""); r.header.Get("ETag") != `"1"` || fmt.Sprint(r.body) != "map[lock:<nil> sections:map[history:map[a:1]] version:1]" {
			t.Errorf("%v %v", r.header, r.body)
		}
		call(t, door, "PUT", path, me, `{"sections":{}}`, "If-Match", `"0"`).want(t, "stale", 412, "stale")
		r = call(t, door, "POST", path+"/lock", me, "")
		if r.want(t, "session", 201, ""); r.body["token"] == "" || r.body["until"] != w.clock.Now().Add(time.Minute).Format(time.RFC3339) {
			t.Errorf("%v", r.body)
		}
		token := fmt.Sprint(r.body["token"])
		r = call(t, door, "PUT", path, other, `{"sections":{}}`, "If-Match", `"1"`)
		if r.want(t, "locked", 409, "record_locked"); r.body["holder"] != "dr.coord" || r.body["until"] == nil {
			t.Errorf("%v", r.body)
		}
		r = call(t, door, "GET", path, other, "")
		if lock, _ := r.body["lock"].(map[string]any); lock["holder"] != "dr.coord" {
			t.Errorf("%v", r.body)
		}
		call(t, door, "PUT", path+"/lock", me, `{"ttl":"PT90S","token":"`+token+`"}`).want(t, "extend", 200, "")
		call(t, door, "PUT", path+"/lock", me, `{"ttl":"PT90S","token":"77"}`).want(t, "other token", 409, "record_lock_lost")
		call(t, door, "POST", path+"/lock", me, `{"ttl":"P1D"}`).want(t, "ttl", 422, "invalid_field")
		call(t, door, "POST", path+"/lock", me, `{"ttl":"PT6M"}`).want(t, "long ttl", 422, "invalid_field")
		call(t, door, "DELETE", path+"/lock", me, "").want(t, "end", 204, "")
		call(t, door, "PUT", path, other, `{"sections":{}}`, "If-Match", `"1"`).want(t, "free again", 200, "")
		r = call(t, door, "GET", path+"/history?limit=1", me, "")
		if items, _ := r.body["items"].([]any); r.status != 200 || len(items) != 1 || items[0].(map[string]any)["version"] != 2.0 || r.body["nextCursor"] != "2" {
			t.Errorf("%v", r.body)
		}
		r = call(t, door, "GET", path+"/history?limit=1&cursor=2", me, "")
		if items, _ := r.body["items"].([]any); len(items) != 1 || items[0].(map[string]any)["reason"] != "first" || r.body["nextCursor"] != nil {
			t.Errorf("%v", r.body)
		}
		call(t, door, "GET", path+"/history?cursor=x", me, "").want(t, "cursor", 400, "invalid_parameter")
		call(t, door, "GET", path, "participant 1", "").want(t, "a participant", 403, "forbidden")
		call(t, door, "GET", path, "", "").want(t, "nobody", 401, "unauthenticated")
	})
}
