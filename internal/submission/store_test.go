package submission

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/testenv"
)

type fakeEntries map[string][]byte

func (f fakeEntries) Get(_ context.Context, key string) ([]byte, bool, error) {
	v, ok := f[key]
	return v, ok, nil
}

func (f fakeEntries) SetMany(_ context.Context, entries map[string][]byte, _ time.Duration) error {
	for k, v := range entries {
		f[k] = v
	}
	return nil
}

func each(t *testing.T, test func(t *testing.T, shards *db.Shards)) {
	for dialect, shards := range testenv.Shards(t) {
		t.Run(dialect, func(t *testing.T) { test(t, shards) })
	}
}

var at = time.Date(2026, 11, 23, 20, 1, 0, 0, time.UTC)

// put writes the outcome of one record, as the processor does.
func put(t *testing.T, shards *db.Shards, r Record, state State) {
	t.Helper()
	receipt := r.Receipt()
	receipt.State, receipt.ProcessedAt = state, at
	err := shards.For(r.Participant).Tx(t.Context(), func(tx *gorm.DB) error {
		if err := InsertReceipts(tx, []Receipt{receipt}); err != nil {
			return err
		}
		if state == Stored {
			return InsertResponses(tx, []Response{{Record: r, Site: 5, Questionnaire: "q", Version: "1", Status: "completed", Authored: "2026-11-23T21:00:00+01:00", Zone: "UTC", Late: true, StoredAt: at}})
		}
		return InsertQuarantine(tx, []Quarantine{{Record: r, Site: 5, Reason: "invalid_response", Findings: []errs.Finding{{Code: "required", LinkID: "a"}}, At: at}})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestReceiptTellsTheFate(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		s := &Store{Shards: shards}
		stored, waiting, spooled := record(1, 11, 1), record(2, 12, 2), record(3, 13, 3)
		put(t, shards, stored, Stored)
		put(t, shards, waiting, Quarantined)
		spool := NewSpool(shards)
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = spool.Run(ctx) })
		if err := spool.Add(t.Context(), &spooled); err != nil {
			t.Fatal(err)
		}
		stop()
		running.Wait()
		for _, c := range []struct {
			record Record
			state  State
		}{{stored, Stored}, {waiting, Quarantined}, {spooled, Received}} {
			got, err := s.Receipt(t.Context(), c.record.Participant, c.record.Submission)
			if err != nil || got.State != c.state || got.ID != c.record.ID || got.SHA256 != c.record.SHA256 || !got.ReceivedAt.Equal(c.record.ReceivedAt) {
				t.Errorf("%s: %+v %v", c.state, got, err)
			}
			if c.state == Quarantined && (len(got.Findings) != 1 || got.Findings[0].LinkID != "a") {
				t.Errorf("findings %+v", got.Findings)
			}
			if _, err := s.Receipt(t.Context(), c.record.Participant+100, c.record.Submission); errs.KindOf(err) != errs.NotFound {
				t.Errorf("another participant's receipt: %v", err)
			}
		}
	})
}

func TestOneIdentityOneReceipt(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		r := record(1, 11, 1)
		put(t, shards, r, Stored)
		err := shards.For(11).Tx(t.Context(), func(tx *gorm.DB) error { return InsertReceipts(tx, []Receipt{r.Receipt()}) })
		if !db.IsDuplicate(err) {
			t.Fatalf("got %v, want a duplicate", err)
		}
		second := record(2, 11, 1)
		second.SHA256 = [32]byte{99}
		err = shards.For(11).Tx(t.Context(), func(tx *gorm.DB) error { return InsertConflicts(tx, at, []Record{second}) })
		if err != nil {
			t.Fatal(err)
		}
		got, err := (&Store{Shards: shards}).Receipt(t.Context(), 11, r.Submission)
		if err != nil || got.State != Conflict || got.SHA256 != r.SHA256 {
			t.Errorf("after a conflict: %+v %v; the first body must stand", got, err)
		}
	})
}

func TestListsMergeShards(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		s := &Store{Shards: shards}
		for i := range 40 {
			put(t, shards, record(int64(i+1), int64(1000+i), byte(i)), Stored)
		}
		put(t, shards, record(90, 2000, 90), Quarantined)
		var ids []int64
		for before := int64(0); ; {
			page, err := s.Responses(t.Context(), Filter{Study: 3, Limit: 7, Before: before})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range page {
				ids = append(ids, r.ID)
				if r.Sealed != nil {
					t.Fatal("a list carries bodies")
				}
			}
			if len(page) < 7 {
				break
			}
			before = page[len(page)-1].ID
		}
		for i, id := range ids {
			if id != int64(40-i) {
				t.Fatalf("ids %v, want 40 to 1", ids)
			}
		}
		for name, c := range map[string]struct {
			f    Filter
			want int
		}{
			"OtherStudy": {Filter{Study: 4, Limit: 9}, 0}, "NoSite": {Filter{Study: 3, Sites: []int64{6}, Limit: 9}, 0}, "NoSitesAtAll": {Filter{Study: 3, Sites: []int64{}, Limit: 9}, 0},
			"Site": {Filter{Study: 3, Sites: []int64{5}, Limit: 99}, 40}, "Participant": {Filter{Study: 3, Participant: 1003, Limit: 9}, 1},
			"Questionnaire": {Filter{Study: 3, Questionnaire: "other", Limit: 9}, 0}, "From": {Filter{Study: 3, From: at, Limit: 9}, 0}, "To": {Filter{Study: 3, To: at, Limit: 99}, 40},
		} {
			got, err := s.Responses(t.Context(), c.f)
			if err != nil || len(got) != c.want {
				t.Errorf("%s: %d responses, want %d (%v)", name, len(got), c.want, err)
			}
		}
		r, err := s.Response(t.Context(), 7)
		if err != nil || r.ID != 7 || len(r.Sealed) == 0 || !r.Late || r.Site != 5 || r.Authored != "2026-11-23T21:00:00+01:00" {
			t.Errorf("response 7: %+v %v", r, err)
		}
		if _, err := s.Response(t.Context(), 12345); errs.KindOf(err) != errs.NotFound {
			t.Errorf("unknown response: %v", err)
		}
		q, err := s.Quarantined(t.Context(), Filter{Study: 3, Limit: 9})
		if err != nil || len(q) != 1 || q[0].Reason != "invalid_response" || len(q[0].Findings) != 1 {
			t.Errorf("quarantine: %+v %v", q, err)
		}
	})
}

const followed = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// TestRelayLosesNothing: a record leaves the spool only when the log has taken it.
func TestRelayLosesNothing(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		spool := NewSpool(shards)
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = spool.Run(ctx) })
		var devices sync.WaitGroup
		for i := range 250 {
			r := record(int64(i+1), 77, byte(i))
			r.Trace = followed
			devices.Go(func() {
				if err := spool.Add(t.Context(), &r); err != nil {
					t.Error(err)
				}
			})
		}
		devices.Wait()
		stop()
		running.Wait()
		shard := shards.For(77)
		boom := errors.New("the log is away")
		if n, err := Relay(t.Context(), shard, 100, func(context.Context, []Record) error { return boom }); n != 0 || !errors.Is(err, boom) {
			t.Fatalf("%d %v", n, err)
		}
		if depth, err := SpoolDepth(t.Context(), shard); err != nil || depth != 250 {
			t.Fatalf("%d in the spool after a failure, want 250 (%v)", depth, err)
		}
		taken := map[int64]Record{}
		for {
			n, err := Relay(t.Context(), shard, 100, func(_ context.Context, records []Record) error {
				for _, r := range records {
					taken[r.ID] = r
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
		}
		if len(taken) != 250 {
			t.Fatalf("%d relayed, want 250", len(taken))
		}
		want := record(7, 77, 6)
		want.Trace = followed
		if diff := cmp.Diff(want, taken[7]); diff != "" {
			t.Error(diff)
		}
	})
}

// fakeLog replays records at offsets 0, 1, 2 … of partition 0.
type fakeLog struct {
	records  []Record
	finished int64
}

func (f fakeLog) Scan(_ context.Context, fn func(kafka.Message) error) error {
	for i := range f.records {
		m := f.records[i].Message(0)
		m.Offset = int64(i)
		if err := fn(m); err != nil {
			return err
		}
	}
	return nil
}

func (f fakeLog) Committed(context.Context) (map[int32]int64, error) {
	return map[int32]int64{0: f.finished}, nil
}

// TestReconcile: each kind of fate is counted once, and a lost row is seen.
func TestReconcile(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		stored, quarantined, lost, pending := record(1, 11, 1), record(2, 12, 2), record(5, 15, 5), record(6, 16, 6)
		put(t, shards, stored, Stored)
		put(t, shards, quarantined, Quarantined)
		again, other, otherAgain := stored, stored, stored
		again.ID, other.ID, otherAgain.ID = 3, 4, 7
		other.SHA256, otherAgain.SHA256 = [32]byte{42}, [32]byte{42}
		if err := shards.For(11).Tx(t.Context(), func(tx *gorm.DB) error { return InsertConflicts(tx, at, []Record{other}) }); err != nil {
			t.Fatal(err)
		}
		log := fakeLog{finished: 7, records: []Record{stored, stored, quarantined, again, other, otherAgain, lost, pending}}
		got, err := (&Reconciler{Shards: shards, Log: log}).Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := []Balance{{Hour: at.Truncate(time.Hour), Study: 3, Accepted: 7, Stored: 1, Quarantined: 1, Conflict: 1, Duplicate: 2, Pending: 1, Missing: 1}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
}
