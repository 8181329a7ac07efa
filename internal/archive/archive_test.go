package archive

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/db"
)

// TestThereAndBack: every row of the study leaves and comes back as it was, and nothing of another study moves.
func TestThereAndBack(t *testing.T) {
	dialects(t, func(t *testing.T, r *rig) {
		r.fill(t, theirs, 20, 5)
		others := r.raw(t)
		r.fill(t, ours, 60, 20)
		r.close(t, ours)
		before, digests := r.raw(t), r.sums(t, ours)
		r.move(t, Out)
		r.empty(t, ours)
		if diff := cmp.Diff(others, r.raw(t)); diff != "" {
			t.Errorf("the shards are not as if the study had never been there: %s", diff)
		}
		if err := r.service.Readable(t.Context(), ours); err == nil {
			t.Error("the study is archived, and its reads are not refused")
		}
		if archived, err := (testStudies{r.meta}).Archived(t.Context(), ours); err != nil || !archived {
			t.Errorf("archived: %v, %v", archived, err)
		}
		m := r.manifest(t)
		checkMonths(t, m, 60*20)
		noCanary(t, r.place.Dir)
		r.move(t, Back)
		if diff := cmp.Diff(before, r.raw(t)); diff != "" {
			t.Errorf("restored: %s", diff)
		}
		if diff := cmp.Diff(digests, r.sums(t, ours)); diff != "" {
			t.Errorf("restored: %s", diff)
		}
		if _, err := (testStudies{r.meta}).Locked(t.Context(), ours); err != nil {
			t.Errorf("restored: %v", err)
		}
		if err := r.service.Readable(t.Context(), ours); err != nil {
			t.Errorf("restored: %v", err)
		}
		// Once more: the files of the first archive make room for those of the second.
		r.move(t, Out)
		r.empty(t, ours)
		onlyListed(t, r, r.manifest(t))
		r.move(t, Back)
		if diff := cmp.Diff(before, r.raw(t)); diff != "" {
			t.Errorf("restored again: %s", diff)
		}
	})
}

func checkMonths(t *testing.T, m *Manifest, responses int64) {
	t.Helper()
	var sum MonthSum
	for _, month := range m.Months {
		sum.Responses += month.Responses
		sum.Answers += month.Answers
		sum.Unopened += month.Unopened
		sum.Withheld += month.Withheld
	}
	opened := responses - sum.Unopened
	if sum.Responses != responses || sum.Unopened == 0 || sum.Answers != opened*answersEach || sum.Withheld < 2*opened {
		t.Errorf("%+v of %d responses", sum, responses)
	}
}

// files returns the files of the destination that a reader of *.parquet finds, and all others.
func files(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			out = append(out, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// onlyListed fails where the folder has Parquet files that the manifest does not list, or lacks one.
func onlyListed(t *testing.T, r *rig, m *Manifest) {
	t.Helper()
	listed := make(map[string]bool)
	for _, e := range m.Files {
		listed[e.Path] = true
	}
	for _, path := range files(t, r.place.Dir) {
		if strings.HasPrefix(path, "manifests/") {
			continue
		}
		if !listed[path] {
			t.Errorf("%s is in no manifest", path)
		}
		delete(listed, path)
	}
	for path := range listed {
		t.Errorf("%s is not there", path)
	}
}

// noCanary: nothing that a participant wrote stands in any file in the clear.
func noCanary(t *testing.T, dir string) {
	t.Helper()
	for _, path := range files(t, dir) {
		raw, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, []byte("Canary")) {
			t.Errorf("%s holds free text", path)
		}
	}
}

// TestEveryTableIsKnown: a table that a migration adds is in the list that the archive goes by, and one in no list stops it.
func TestEveryTableIsKnown(t *testing.T) {
	dialects(t, func(t *testing.T, r *rig) {
		schema, err := ColumnsOf(t.Context(), r.shards.All()[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, problem := range CheckTables(schema) {
			t.Error(problem)
		}
		schema["diary_photo"] = []string{"participant_id", "sealed"}
		delete(schema, "reminder")
		problems := strings.Join(CheckTables(schema), "\n")
		for _, want := range []string{"diary_photo", "internal/db/tables.go", "reminder"} {
			if !strings.Contains(problems, want) {
				t.Errorf("%q does not name %s", problems, want)
			}
		}
		if _, err := r.shards.All()[0].Pool().ExecContext(t.Context(), "CREATE TABLE diary_photo (participant_id BIGINT NOT NULL, PRIMARY KEY (participant_id))"); err != nil {
			t.Fatal(err)
		}
		if _, err := shapesOf(t.Context(), r.shards.All()[0]); err == nil {
			t.Error("an archive that leaves a table behind can begin")
		}
	})
}

// TestRowsThatChangedStay: a row that is not as it was archived does not leave, although somebody wrote past the lock.
func TestRowsThatChangedStay(t *testing.T) {
	for name, write := range map[string]string{
		"changed": "UPDATE response SET status = 'amended' WHERE study_id = 1001",
		"added":   "INSERT INTO task (participant_id, id, study_id, bucket, rule, date, win, questionnaire, schedule_version, opens_at, due_at, closes_at, grace_until, zone, state, zone_data, issued_at, changed_at, remind_at) VALUES (5, 6, 1001, 1, '', '', 0, '', 0, 0, 0, 0, 0, '', '', '', 0, 0, 0)",
		"removed": "DELETE FROM record_version WHERE version = 0",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "sqlite")
			r.fill(t, ours, 20, 5)
			r.close(t, ours)
			r.service.hook = func(at string) error {
				if at != "step "+string(StepRemove) {
					return nil
				}
				for _, d := range r.shards.All() {
					if _, err := d.Pool().ExecContext(t.Context(), write); err != nil {
						return err
					}
				}
				return nil
			}
			if _, err := r.service.Start(t.Context(), ours, Out, Actor{Kind: "staff"}, "why"); err != nil {
				t.Fatal(err)
			}
			err := r.service.Drive(t.Context(), ours)
			if err == nil || !strings.Contains(err.Error(), "do not agree") {
				t.Errorf("%v", err)
			}
			run, err := r.service.Store.Run(t.Context(), ours)
			if err != nil || run.Step != StepRemove || run.Problem == "" {
				t.Errorf("%+v, %v", run, err)
			}
		})
	}
}

// TestOvertaken: a process that was paused past its lease writes and removes nothing more.
func TestOvertaken(t *testing.T) {
	dialects(t, func(t *testing.T, r *rig) {
		r.fill(t, ours, 10, 5)
		r.close(t, ours)
		for _, at := range []string{"written", "block"} {
			r.service.hook = func(now string) error {
				if now != at {
					return nil
				}
				r.service.hook = nil
				for _, d := range r.shards.All() { // somebody else has begun to work
					if err := raise(t.Context(), d, ours, 1<<40); err != nil {
						return err
					}
				}
				return r.service.Store.Take(t.Context(), ours, 1<<40)
			}
			if _, err := r.service.Start(t.Context(), ours, Out, Actor{Kind: "staff"}, "why"); err != nil {
				t.Fatal(err)
			}
			err := r.service.Drive(t.Context(), ours)
			if err == nil || !strings.Contains(err.Error(), "archive_overtaken") {
				t.Errorf("%s: %v", at, err)
			}
			if err := resetFence(t, r); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func resetFence(t *testing.T, r *rig) error {
	t.Helper()
	for _, d := range r.shards.All() {
		if _, err := d.Pool().ExecContext(t.Context(), "UPDATE archive_fence SET fence = 0"); err != nil {
			return err
		}
	}
	_, err := r.meta.Pool().ExecContext(t.Context(), "UPDATE archive_run SET fence = 0")
	return err
}

// TestDamageIsFound: a byte that changed in a file is found before a row leaves, and before one comes back.
func TestDamageIsFound(t *testing.T) {
	for _, kind := range []string{"evidence", "answers", "responses", "manifests"} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t, "sqlite")
			r.fill(t, ours, 10, 5)
			r.close(t, ours)
			if kind == "manifests" {
				r.move(t, Out)
				spoil(t, r.place.Dir, kind)
				if _, err := r.service.Start(t.Context(), ours, Back, Actor{Kind: "staff"}, "why"); err != nil {
					t.Fatal(err)
				}
			} else {
				r.service.hook = func(at string) error {
					if at == "step "+string(StepVerify) {
						spoil(t, r.place.Dir, kind)
					}
					return nil
				}
				if _, err := r.service.Start(t.Context(), ours, Out, Actor{Kind: "staff"}, "why"); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.service.Drive(t.Context(), ours); err == nil {
				t.Error("nobody noticed")
			}
		})
	}
}

func spoil(t *testing.T, dir, kind string) {
	t.Helper()
	for _, path := range files(t, dir) {
		if !strings.HasPrefix(path, kind+"/") {
			continue
		}
		full := filepath.Join(dir, path)
		raw, err := os.ReadFile(full)
		if err != nil {
			t.Fatal(err)
		}
		raw[len(raw)/2] ^= 1
		if err := os.WriteFile(full, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("no file of %s", kind)
}

// TestUnlockedMeanwhile: a study that is opened before its rows leave stays on the shards, and its files go.
func TestUnlockedMeanwhile(t *testing.T) {
	r := newRig(t, "sqlite")
	r.fill(t, ours, 10, 5)
	r.close(t, ours)
	before := r.sums(t, ours)
	r.service.hook = func(at string) error {
		if at != "step "+string(StepClose) {
			return nil
		}
		_, err := r.meta.Pool().ExecContext(t.Context(), "UPDATE study SET status = 'active' WHERE id = 1001")
		return err
	}
	r.move(t, Out)
	if diff := cmp.Diff(before, r.sums(t, ours)); diff != "" {
		t.Error(diff)
	}
	run, err := r.service.Store.Run(t.Context(), ours)
	if err != nil || run.Archived() || !run.Done() || run.Problem != codeNotLocked {
		t.Errorf("%+v, %v", run, err)
	}
	for _, path := range files(t, r.place.Dir) {
		if strings.HasSuffix(path, ".parquet") {
			t.Errorf("%s is left", path)
		}
	}
}

// TestOpenShardStops: a shard that still takes writes keeps the archive from beginning.
func TestOpenShardStops(t *testing.T) {
	r := newRig(t, "sqlite")
	r.fill(t, ours, 10, 5)
	r.close(t, ours)
	if err := r.shards.All()[1].SetStanding(t.Context(), ours, db.Open, 7); err != nil {
		t.Fatal(err)
	}
	if _, err := r.service.Start(t.Context(), ours, Out, Actor{Kind: "staff"}, "why"); err != nil {
		t.Fatal(err)
	}
	if err := r.service.Drive(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	if got := files(t, r.place.Dir); len(got) > 0 {
		t.Errorf("%v", got)
	}
}

// TestRelockedMeanwhile: what was written under another locking is written anew.
func TestRelockedMeanwhile(t *testing.T) {
	r := newRig(t, "sqlite")
	r.fill(t, ours, 10, 5)
	r.close(t, ours)
	first := true
	r.service.hook = func(at string) error {
		if at != "step "+string(StepClose) || !first {
			return nil
		}
		first = false
		for _, d := range r.shards.All() {
			if _, err := d.Pool().ExecContext(t.Context(), "UPDATE response SET status = 'amended' WHERE study_id = 1001"); err != nil {
				return err
			}
		}
		_, err := r.meta.Pool().ExecContext(t.Context(), "UPDATE study SET version = version + 1 WHERE id = 1001")
		return err
	}
	r.move(t, Out)
	r.empty(t, ours)
	onlyListed(t, r, r.manifest(t))
}
