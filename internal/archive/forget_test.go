package archive

import (
	"slices"
	"testing"
	"time"

	"github.com/eprod/eprod/internal/db"
)

// TestForgettingWhileBucketsMove: rows that are not carried are deleted where their participant is, whoever copies the bucket is told,
// and what lies about as a copy is left to the move.
func TestForgettingWhileBucketsMove(t *testing.T) {
	dialects(t, func(t *testing.T, r *rig) {
		const here, watched, switched = 3, 4, 5 // buckets of the first shard
		var whose [6]int64
		for id := int64(1); slices.Contains(whose[here:], 0); id++ {
			if b := db.Bucket(id); b < len(whose) {
				whose[b] = id
			}
		}
		first, second := r.shards.All()[0], r.shards.All()[1]
		exec := func(d *db.DB, statement string, args ...any) {
			t.Helper()
			if _, err := d.Pool().ExecContext(t.Context(), statement, args...); err != nil {
				t.Fatal(err)
			}
		}
		wish := func(d *db.DB, study, participant int64) {
			t.Helper()
			exec(d, "INSERT INTO task_refresh (participant_id, study_id, bucket, asked_at) VALUES (?, ?, ?, 1)", participant, study, db.Bucket(participant))
		}
		for _, b := range []int{here, watched, switched} {
			wish(first, ours, whose[b])
		}
		wish(second, ours, whose[switched])
		const other = 1 << 30 // a participant of another study
		wish(first, theirs, other)
		r.close(t, ours)
		exec(first, "UPDATE bucket SET standing = 'watched' WHERE bucket = ?", watched)
		exec(first, "UPDATE bucket SET standing = 'gone' WHERE bucket = ?", switched)
		m := db.Map{Version: 1}
		for b := range m.Owner {
			m.Owner[b] = r.shards.ForBucket(b).Name
		}
		m.Moving[watched], m.Moving[switched] = true, true
		if err := r.shards.Apply(m); err != nil {
			t.Fatal(err)
		}
		r.shards.Confirm(time.Now().Add(time.Hour))
		for _, d := range r.shards.All() {
			if err := raise(t.Context(), d, ours, 7); err != nil {
				t.Fatal(err)
			}
		}
		for _, table := range forgotten() {
			if err := forget(t.Context(), r.shards, ours, 7, table, 1); err != nil {
				t.Fatal(err)
			}
		}
		left := func(d *db.DB) (ids []int64) {
			t.Helper()
			if err := d.Read(t.Context()).Table("task_refresh").Order("participant_id").Pluck("participant_id", &ids).Error; err != nil {
				t.Fatal(err)
			}
			return ids
		}
		want := []int64{whose[switched], other}
		if got := left(first); !slices.Equal(got, want) {
			t.Errorf("left on the first shard: %v, want the copy and the other study's: %v", got, want)
		}
		if got := left(second); len(got) > 0 {
			t.Errorf("left on the second shard: %v", got)
		}
		var noted []int64
		if err := first.Read(t.Context()).Table("participant_change").Pluck("participant_id", &noted).Error; err != nil || !slices.Equal(noted, []int64{whose[watched]}) {
			t.Errorf("whoever copies was told of %v, want %d: %v", noted, whose[watched], err)
		}
	})
}
