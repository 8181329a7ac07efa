package growth

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/study"
)

// work lets a mover work until it is done or dies at a step that die names; it returns that step. It dies as by a kill: nothing that
// it has begun is finished.
func (p *plant) work(do func(*Mover, context.Context, int64, int64) error, move int64, die func(step string) bool) (step string, err error) {
	p.t.Helper()
	p.fence++
	fence := p.fence
	s := p.process() // a command is a process of its own, that follows nothing
	m := s.mover()
	var at string
	m.Step = func(step string) error {
		if die(step) {
			at = step
			runtime.Goexit()
		}
		return nil
	}
	ended := make(chan error, 1)
	go func() {
		failed := errors.New("killed")
		defer func() { ended <- failed }()
		failed = do(m, p.t.Context(), move, fence)
	}()
	err = <-ended
	return at, err
}

func never(string) bool { return false }

func kind(step string) string {
	word, _, _ := strings.Cut(step, " ")
	return word
}

// TestBucketsMoveWhileEverybodyWorks adds a shard and moves half of the buckets to it, with the mover killed at every kind of step,
// while writers, readers, lists and claims of two processes, and of one that follows no map, go on.
func TestBucketsMoveWhileEverybodyWorks(t *testing.T) {
	p := newPlant(t)
	if p == nil {
		return
	}
	people := 80
	buckets := "0-3,128-131"
	if os.Getenv("EPROD_TEST_LONG") != "" {
		people, buckets = 5000, "0-63,128-191"
		p.config.Group = 16
	}
	first, second := p.following("first"), p.following("second")
	careful := p.process()
	l := &life{plant: p, processes: []*Service{first, second, careful}, ids: p.seed(first, people), acked: make([]atomic.Int64, people)}
	strangers(t, p, first)
	if _, err := first.Begin(t.Context(), "shard2", []int{1}); err == nil {
		t.Fatal("buckets may move to a shard that was not added")
	}
	if err := p.shards[0].SetStanding(t.Context(), 9, db.Closed, 4); err != nil {
		t.Fatal(err)
	}
	if err := p.shards[1].SetStanding(t.Context(), 9, db.Closed, 4); err != nil {
		t.Fatal(err)
	}
	if err := first.Add(t.Context(), "shard2"); err != nil {
		t.Fatal(err)
	}
	if is, err := p.shards[2].StandingOf(t.Context(), 9); is != db.Closed || err != nil {
		t.Fatalf("a locked study is %s on the new shard: %v", is, err)
	}
	before := p.totals()
	l.begin()
	list, err := ParseBuckets(buckets)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	move, err := first.Begin(t.Context(), "shard2", list)
	if err != nil {
		t.Fatal(err)
	}
	deaths := p.dieEverywhere((*Mover).Run, move)
	t.Logf("killed at: %s", strings.Join(deaths, ", "))
	l.end()
	took := time.Since(began)
	l.everythingOnce(t, before, list)
	m, err := p.store.Move(t.Context(), move)
	if err != nil || m.State != Done || m.In(Cleared) != len(list) {
		t.Fatalf("%+v, %v", m, err)
	}
	var held, longest time.Duration
	for _, b := range m.Buckets {
		held, longest = held+b.Held, max(longest, b.Held)
	}
	if longest > p.config.Hold {
		t.Errorf("the writers of a bucket were held for %v", longest)
	}
	if l.doubles.Load() == 0 {
		t.Error("no copy was ever to be seen, so the lists' test cannot fail")
	}
	t.Logf("%d buckets in %v with %d kills: %d writes, %d reads, no error; slowest write %v; held %v on average, %v at most", len(list), took.Round(time.Millisecond), len(deaths),
		l.writes.Load(), l.reads.Load(), time.Duration(l.slowest.Load()).Round(time.Millisecond), (held / time.Duration(len(list))).Round(time.Millisecond), longest.Round(time.Millisecond))
	t.Run("Unnamed", func(t *testing.T) { unnamedWriters(t, p, first) })
	t.Run("Cancelled", func(t *testing.T) { cancelled(t, p, l) })
	t.Run("Locked", func(t *testing.T) { lockedMeanwhile(t, p, first) })
	t.Run("LockedAtTheStart", func(t *testing.T) { lockedAtTheStart(t, p, first) })
	t.Run("SlowWriter", func(t *testing.T) { slowWriter(t, p, first) })
	t.Run("KilledWhileHeld", func(t *testing.T) { killedWhileHeld(t, p, first) })
	t.Run("Overtaken", func(t *testing.T) { overtakenMover(t, p, first) })
}

// strangers writes what came for somebody who is not enrolled.
func strangers(t *testing.T, p *plant, s *Service) {
	t.Helper()
	const stranger = 1 << 30
	for _, id := range []int64{0, stranger, stranger + 1, stranger + 2, stranger + 3} {
		for _, table := range movedTables() {
			if table.Name == "quarantine" || table.Name == "audit" {
				p.fill(s.Shards.For(id), table, []int64{id})
			}
		}
	}
}

// dieEverywhere works on a move and dies at each kind of step once.
func (p *plant) dieEverywhere(do func(*Mover, context.Context, int64, int64) error, move int64) (deaths []string) {
	p.t.Helper()
	seen := make(map[string]bool)
	for {
		at, err := p.work(do, move, func(step string) bool {
			if seen[kind(step)] {
				return false
			}
			seen[kind(step)] = true
			return true
		})
		if at == "" {
			if err != nil {
				p.t.Fatal(err)
			}
			return deaths
		}
		deaths = append(deaths, kind(at))
	}
}

// everythingOnce holds what is on the shards against what was there and what was answered.
func (l *life) everythingOnce(t *testing.T, before map[string]int64, moved []int) {
	t.Helper()
	var answered int64
	for i, id := range l.ids {
		n := l.acked[i].Load()
		answered += n
		var rows int64
		view, err := l.processes[2].Shards.View(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := view.For(id).Read(t.Context()).Table("receipt").Where("participant_id = ? AND id > ?", id, int64(1)<<40).Count(&rows).Error; err != nil || rows != n {
			t.Errorf("participant %d has %d receipts of %d answered: %v", id, rows, n, err)
		}
	}
	before["receipt"] += answered
	if diff := cmp.Diff(before, l.totals()); diff != "" {
		t.Errorf("rows before and now: %s", diff)
	}
	for _, s := range l.processes {
		for _, b := range moved {
			v, err := s.Shards.View(t.Context())
			if err != nil || !slices.Contains(v.Buckets(l.shards[2]), b) {
				t.Errorf("bucket %d is not on the new shard: %v", b, err)
			}
		}
	}
	for i, d := range l.shards {
		standings, err := d.Standings(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for b, is := range standings {
			want := db.Away
			if slices.Contains(moved, b) && i == 2 || !slices.Contains(moved, b) && i == b/128 {
				want = db.Here
			}
			if is != want {
				t.Errorf("bucket %d on %s is %s, want %s", b, d.Name, is, want)
			}
		}
		ids, err := people(t.Context(), d, moved)
		if err != nil || i < 2 && len(ids) > 0 {
			t.Errorf("%s still has %d participants of the moved buckets: %v", d.Name, len(ids), err)
		}
	}
}

// unnamedWriters: a writer that does not say whom it changes is found before anything is switched.
func unnamedWriters(t *testing.T, p *plant, s *Service) {
	bucket := db.Bucket(1)
	source := s.Shards.ForBucket(bucket)
	target := p.shards[0]
	if source == target {
		target = p.shards[1]
	}
	move, err := s.Begin(t.Context(), target.Name, []int{bucket})
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.work((*Mover).Run, move, func(step string) bool {
		if kind(step) == "verify" {
			p.exec(source, "UPDATE participant SET site_id = site_id + 1 WHERE id = 1")
		}
		return false
	})
	if err == nil || !strings.Contains(err.Error(), "participant 1 differ") {
		t.Fatalf("a change that nobody named was switched: %v", err)
	}
	if _, err := p.work((*Mover).Cancel, move, never); err != nil {
		t.Fatal(err)
	}
	if s.Shards.ForBucket(bucket) != source {
		t.Error("the bucket has moved")
	}
}

// cancelled: a move that is given up leaves everything where it was, whenever that is, and however often that is interrupted.
func cancelled(t *testing.T, p *plant, l *life) {
	s := l.processes[0]
	list := []int{200, 201, 202}
	before := p.totals()
	l.begin()
	answered := int64(0)
	for i := range l.acked {
		answered -= l.acked[i].Load()
	}
	for _, at := range []string{"opened", "gone"} {
		move, err := s.Begin(t.Context(), "shard0", list)
		if err != nil {
			t.Fatal(err)
		}
		if step, _ := p.work((*Mover).Run, move, func(step string) bool { return kind(step) == at }); step == "" {
			t.Fatalf("there is no step %s", at)
		}
		p.dieEverywhere((*Mover).Cancel, move)
		m, err := p.store.Move(t.Context(), move)
		want := 3
		if at == "gone" {
			want = 2 // one had moved
		}
		if err != nil || m.State != Cancelled || m.In(Undone) != want {
			t.Errorf("cancelled at %s: %+v, %v", at, m, err)
		}
	}
	l.end()
	for i := range l.acked {
		answered += l.acked[i].Load()
	}
	before["receipt"] += answered
	if diff := cmp.Diff(before, p.totals()); diff != "" {
		t.Errorf("rows before and now: %s", diff)
	}
}

// lockedMeanwhile: a study that is locked between two groups is locked, and the move goes on; neither waits for the other for ever.
func lockedMeanwhile(t *testing.T, p *plant, s *Service) {
	const study, lock = 77, 5
	move, err := s.Begin(t.Context(), "shard2", []int{20, 21, 22, 23, 24})
	if err != nil {
		t.Fatal(err)
	}
	stand := func(d *db.DB, is db.Standing) error { return d.SetStanding(t.Context(), study, is, lock) }
	locked := make(chan error, 1)
	groups := 0
	_, err = p.work((*Mover).Run, move, func(step string) bool {
		if kind(step) != "announce" {
			return false
		}
		if groups++; groups != 2 {
			return false
		}
		if err := stand(p.shards[0], db.Closing); err == nil {
			t.Error("a study is being locked on a shard whose buckets are on their way")
		}
		if err := stand(p.shards[1], db.Closing); err != nil {
			t.Error(err)
		}
		go func() {
			for _, is := range []db.Standing{db.Closing, db.Closed} {
				for _, d := range p.shards {
					for stand(d, is) != nil {
						if t.Context().Err() != nil {
							locked <- t.Context().Err()
							return
						}
						rest(t.Context(), 20*time.Millisecond)
					}
				}
			}
			locked <- nil
		}()
		return false
	})
	if lost := <-locked; err != nil || lost != nil || groups != 2 {
		t.Fatalf("%d groups, %v, %v", groups, err, lost)
	}
	for _, d := range p.shards {
		if is, err := d.StandingOf(t.Context(), study); is != db.Closed || err != nil {
			t.Errorf("the study is %s on %s: %v", is, d.Name, err)
		}
	}
}

// lockedAtTheStart: a study that begins to be closed when a move has looked and nothing moves yet keeps the move off until it is closed:
// what the closing writes without asking anybody is not lost. Once something is on its way, the closing waits.
func lockedAtTheStart(t *testing.T, p *plant, s *Service) {
	const theirs, lock = 3, 6 // the participants' study
	source, target := p.shards[0], p.shards[2]
	someone := int64(1)
	for s.Shards.For(someone) != source {
		someone++
	}
	buckets := []int{db.Bucket(someone)}
	move, err := s.Begin(t.Context(), target.Name, buckets)
	if err != nil {
		t.Fatal(err)
	}
	closing := &study.ClosingStore{Shards: s.Shards, Page: 100}
	due := func(d *db.DB) (n int64) {
		t.Helper()
		if err := d.Read(t.Context()).Table("task").Where("study_id = ? AND bucket IN ? AND remind_at > 0", theirs, buckets).Count(&n).Error; err != nil {
			t.Fatal(err)
		}
		return n
	}
	if due(source) == 0 {
		t.Fatal("no task is reminded of, so this test cannot fail")
	}
	var steps []string
	ended := make(chan error, 1)
	_, err = p.work((*Mover).Run, move, func(step string) bool {
		switch steps = append(steps, kind(step)); strings.Join(steps, " ") {
		case "announce watch":
			if err := closing.Stand(t.Context(), theirs, db.Closing, lock); err != nil {
				t.Errorf("nothing moves yet, and the study cannot be closed: %v", err)
			}
		case "announce watch announce":
			go func() {
				_, err := closing.Quiet(t.Context(), theirs, false, time.Now())
				ended <- errors.Join(err, closing.Stand(t.Context(), theirs, db.Closed, lock))
			}()
		}
		if kind(step) == "switch" {
			for _, d := range []*db.DB{source, target} {
				if err := d.SetStanding(t.Context(), theirs+1, db.Closing, lock); errs.KindOf(err) != errs.Unavailable {
					t.Errorf("a study is being closed on %s, whose buckets are on their way: %v", d.Name, err)
				}
			}
		}
		return false
	})
	if lost := <-ended; err != nil || lost != nil || !slices.Equal(steps[:5], []string{"announce", "watch", "announce", "watch", "copy"}) {
		t.Fatalf("%v: %v, %v", steps, err, lost)
	}
	if n := due(target); n > 0 {
		t.Errorf("%d tasks of a locked study are still reminded of", n)
	}
	if _, err := closing.Quiet(t.Context(), theirs, false, time.Now()); errs.KindOf(err) != errs.Stale {
		t.Errorf("somebody who slept changed a locked study: %v", err)
	}
	if err := closing.Stand(t.Context(), theirs, db.Open, lock); err != nil {
		t.Fatal(err)
	}
}

// slowWriter: a transaction that is admitted and does not end costs the other writers of its bucket no more than one hold.
func slowWriter(t *testing.T, p *plant, s *Service) {
	bucket := 40
	source := s.Shards.ForBucket(bucket)
	slow, other := participantsOf(bucket)
	move, err := s.Begin(t.Context(), "shard2", []int{bucket})
	if err != nil {
		t.Fatal(err)
	}
	admitted, waited := make(chan struct{}), make(chan struct{})
	var running sync.WaitGroup
	_, err = p.work((*Mover).Run, move, func(step string) bool {
		if kind(step) != "switch" {
			return false
		}
		running.Go(func() {
			err := source.Tx(t.Context(), func(tx *gorm.DB) error {
				_, err := source.AskOf(tx, slow)
				close(admitted)
				<-waited
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
		<-admitted
		running.Go(func() {
			defer close(waited)
			for longest := time.Duration(0); longest < p.config.Hold/2; { // until one was held up
				began := time.Now()
				if err := s.Shards.Write(t.Context(), db.Claim{Study: 3, Participant: other}, func(*gorm.DB) error { return nil }); err != nil {
					t.Error(err)
					return
				}
				if longest = max(longest, time.Since(began)); longest > 2*p.config.Hold {
					t.Errorf("a writer waited %v", longest)
				}
			}
		})
		return false
	})
	running.Wait()
	if err != nil {
		t.Fatal(err)
	}
}

// participantsOf returns two participants of a bucket.
func participantsOf(bucket int) (int64, int64) {
	var found []int64
	for id := int64(1 << 20); len(found) < 2; id++ {
		if db.Bucket(id) == bucket {
			found = append(found, id)
		}
	}
	return found[0], found[1]
}

// killedWhileHeld: the writers of a bucket whose mover has died wait no longer than if it lived.
func killedWhileHeld(t *testing.T, p *plant, s *Service) {
	bucket := 50
	who, _ := participantsOf(bucket)
	move, err := s.Begin(t.Context(), "shard2", []int{bucket})
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"held", "opened"} {
		if step, _ := p.work((*Mover).Run, move, func(step string) bool { return kind(step) == at }); step == "" {
			t.Fatalf("there is no step %s", at)
		}
		began := time.Now()
		err := s.Shards.Write(t.Context(), db.Claim{Study: 3, Participant: who}, func(*gorm.DB) error { return nil })
		if took := time.Since(began); err != nil || took > p.config.Hold*3/2 {
			t.Errorf("%s: a writer waited %v: %v", at, took, err)
		}
	}
	if _, err := p.work((*Mover).Run, move, never); err != nil {
		t.Fatal(err)
	}
}

// overtakenMover: one that sleeps while another works cannot write any more.
func overtakenMover(t *testing.T, p *plant, s *Service) {
	move, err := s.Begin(t.Context(), "shard0", []int{210})
	if err != nil {
		t.Fatal(err)
	}
	asleep, wake := make(chan struct{}), make(chan struct{})
	old := p.process().mover()
	old.Step = func(step string) error {
		if kind(step) == "copy" {
			close(asleep)
			<-wake
		}
		return nil
	}
	p.fence++
	ended := make(chan error)
	fence := p.fence
	go func() { ended <- old.Run(t.Context(), move, fence) }()
	<-asleep
	if _, err := p.work((*Mover).Run, move, never); err != nil {
		t.Fatal(err)
	}
	close(wake)
	if err := <-ended; err == nil || !strings.Contains(fmt.Sprint(err), "taken this move over") {
		t.Errorf("the one that was overtaken went on: %v", err)
	}
}
