package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// Store keeps where runs stand in the metadata database. It is safe for concurrent use.
type Store struct{ Meta *db.DB }

var runColumns = []string{"study_id", "id", "direction", "step", "fence", "actor_kind", "actor_id", "source", "reason", "requested_at", "changed_at",
	"finished_at", "place", "manifest", "data_key", "lock_id", "layout", "problem"}

type runRow struct {
	StudyID, ID                        int64
	Direction, Step                    string
	Fence                              int64
	ActorKind                          string
	ActorID                            int64
	Source, Reason                     string
	RequestedAt, ChangedAt, FinishedAt int64
	Place                              string
	Manifest, DataKey, Layout          []byte
	LockID                             int64
	Problem                            string
}

func (r *runRow) run() *Run {
	out := &Run{Study: r.StudyID, ID: r.ID, Direction: Direction(r.Direction), Step: Step(r.Step), fence: r.Fence,
		Actor: Actor{r.ActorKind, r.ActorID, r.Source}, Reason: r.Reason, Requested: db.Time(r.RequestedAt), Changed: db.Time(r.ChangedAt),
		Finished: db.Time(r.FinishedAt), Place: r.Place, Key: r.DataKey, Lock: r.LockID, Problem: r.Problem}
	copy(out.Manifest[:], r.Manifest)
	copy(out.Layout[:], r.Layout)
	return out
}

// Run returns the run of a study; errs.NotFound where it never had one.
func (s *Store) Run(ctx context.Context, study int64) (*Run, error) {
	var r runRow
	err := s.Meta.Read(ctx).Table("archive_run").Select(runColumns).Where("study_id = ?", study).Take(&r).Error
	return r.run(), db.Error("archive", err)
}

// Unfinished returns the studies whose runs are not done.
func (s *Store) Unfinished(ctx context.Context, limit int) ([]int64, error) {
	var ids []int64
	err := s.Meta.Read(ctx).Table("archive_run").Select("study_id").Where("step <> ?", string(StepDone)).Order("requested_at").Limit(limit).Scan(&ids).Error
	return ids, db.Error("archive", err)
}

// archived returns the runs of the studies whose data are in the archive.
func (s *Store) archived(ctx context.Context) (map[int64]*Run, error) {
	var rows []runRow
	err := s.Meta.Read(ctx).Table("archive_run").Select(runColumns).Where("(direction = ? AND step IN ?) OR (direction = ? AND step <> ?)",
		string(Out), []string{string(StepRemove), string(StepDone)}, string(Back), string(StepDone)).Limit(maxArchived).Find(&rows).Error
	out := make(map[int64]*Run, len(rows))
	for i := range rows {
		out[rows[i].StudyID] = rows[i].run()
	}
	return out, db.Error("archive", err)
}

// Archived returns the studies whose data are, all or in part, in the archive.
func (s *Store) Archived(ctx context.Context) (map[int64]bool, error) {
	runs, err := s.archived(ctx)
	out := make(map[int64]bool, len(runs))
	for study := range runs {
		out[study] = true
	}
	return out, err
}

const maxArchived = 10_000 // studies

// Begin writes a new run, in place of was, the one that the study had; nil where it had none. If the study has another one meanwhile
// it is errs.Conflict.
func (s *Store) Begin(ctx context.Context, was, is *Run, entry audit.Entry) error {
	return db.Error("archive", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		if was == nil {
			err := db.Insert(tx, "archive_run", runColumns, [][]any{{is.Study, is.ID, string(is.Direction), string(is.Step), int64(0), is.Actor.Kind, is.Actor.ID,
				is.Actor.Source, is.Reason, db.Micros(is.Requested), db.Micros(is.Changed), int64(0), "", nil, is.Key, is.Lock, is.Layout[:], ""}})
			if db.IsDuplicate(err) {
				return errBusy(is)
			}
			if err != nil {
				return err
			}
			return audit.Append(tx, entry)
		}
		values := map[string]any{"id": is.ID, "direction": string(is.Direction), "step": string(is.Step), "actor_kind": is.Actor.Kind,
			"actor_id": is.Actor.ID, "source": is.Actor.Source, "reason": is.Reason, "requested_at": db.Micros(is.Requested),
			"changed_at": db.Micros(is.Changed), "finished_at": 0, "problem": ""}
		if is.Direction == Out {
			values["data_key"], values["lock_id"], values["layout"], values["place"], values["manifest"] = is.Key, is.Lock, is.Layout[:], "", nil
		}
		done := tx.Table("archive_run").Where("study_id = ? AND step = ? AND requested_at = ?", is.Study, string(StepDone), db.Micros(was.Requested)).UpdateColumns(values)
		if done.Error != nil {
			return done.Error
		}
		if done.RowsAffected != 1 {
			return errBusy(is)
		}
		if err := s.unwind(tx, is); err != nil {
			return err
		}
		return audit.Append(tx, entry)
	}))
}

// unwind prepares the lists of files for a new run.
func (s *Store) unwind(tx *gorm.DB, is *Run) error {
	if is.Direction == Back {
		return tx.Exec("UPDATE archive_file SET moved = 0, verified = 0 WHERE study_id = ?", is.Study).Error
	}
	if err := tx.Exec("DELETE FROM archive_lane WHERE study_id = ?", is.Study).Error; err != nil {
		return err
	}
	return tx.Exec("UPDATE archive_file SET bytes = -1 WHERE study_id = ?", is.Study).Error
}

// Take makes token the fence of a run. A younger one there is errs.Stale.
func (s *Store) Take(ctx context.Context, study, token int64) error {
	err := s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		return db.RaiseFence(tx.Table("archive_run").Where("study_id = ?", study), token)
	})
	if errs.KindOf(err) == errs.Stale {
		return errOvertaken()
	}
	return db.Error("archive", err)
}

// fenced runs fn in a transaction while the run is the caller's.
func (s *Store) fenced(ctx context.Context, r *Run, values map[string]any, fn func(tx *gorm.DB) error) error {
	return db.Error("archive", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		if values == nil {
			values = make(map[string]any)
		}
		values["changed_at"] = db.Micros(r.Changed)
		err := db.Fenced(tx.Table("archive_run").Where("study_id = ? AND id = ?", r.Study, r.ID), r.fence, values)
		if errs.KindOf(err) == errs.Stale {
			return errOvertaken()
		}
		if err != nil || fn == nil {
			return err
		}
		return fn(tx)
	}))
}

// step moves a run on; entries are the evidence of what that means.
func (s *Store) step(ctx context.Context, r *Run, entries ...audit.Entry) error {
	return s.fenced(ctx, r, map[string]any{"step": string(r.Step), "place": r.Place, "manifest": r.Manifest[:], "finished_at": db.Micros(r.Finished), "problem": ""},
		func(tx *gorm.DB) error { return audit.Append(tx, entries...) })
}

// fail notes why a try ended.
func (s *Store) fail(ctx context.Context, r *Run, problem string) error {
	return s.fenced(ctx, r, map[string]any{"problem": problem}, nil)
}

// restart throws away what was written, because the shards or the study are not as they were when it began.
func (s *Store) restart(ctx context.Context, r *Run, layout [32]byte, lock int64) error {
	r.Layout, r.Lock, r.Step = layout, lock, StepWrite
	return s.fenced(ctx, r, map[string]any{"layout": layout[:], "lock_id": lock, "step": string(StepWrite)}, func(tx *gorm.DB) error { return s.unwind(tx, r) })
}

// abandon ends a run whose study was unlocked before its rows began to leave: all of it is still on the shards.
func (s *Store) abandon(ctx context.Context, r *Run, problem string, entry audit.Entry) error {
	is := *r
	is.Direction, is.Step = Back, StepDone
	err := s.fenced(ctx, r, map[string]any{"direction": string(Back), "step": string(StepDone), "problem": problem, "place": "", "manifest": nil, "finished_at": db.Micros(r.Changed)},
		func(tx *gorm.DB) error {
			if err := s.unwind(tx, &Run{Study: r.Study, Direction: Out}); err != nil {
				return err
			}
			return audit.Append(tx, entry)
		})
	if err == nil {
		*r = is
	}
	return err
}

type laneRow struct {
	Parts int
	Mark  []byte
	Ended bool
}

// lane returns where a lane stands; its beginning where it has no row yet.
func (s *Store) lane(ctx context.Context, study int64, name string) (lane, error) {
	var rows []laneRow
	err := s.Meta.Read(ctx).Table("archive_lane").Select("parts", "mark", "ended").Where("study_id = ? AND lane = ?", study, name).Limit(1).Find(&rows).Error
	if err != nil || len(rows) == 0 {
		return lane{name: name}, db.Error("archive", err)
	}
	return lane{name: name, parts: rows[0].Parts, mark: rows[0].Mark, ended: rows[0].Ended}, nil
}

var fileColumns = []string{"study_id", "path", "kind", "shard", "tab", "questionnaire", "month", "records", "withheld", "bytes", "sha256", "digest", "verified", "loaded", "moved"}

type fileRow struct {
	Path, Kind, Shard, Tab, Questionnaire, Month string
	Records, Withheld, Bytes                     int64
	SHA256                                       []byte `gorm:"column:sha256"`
	Digest                                       []byte
	Verified, Loaded                             bool
	Moved                                        int64
}

func (r *fileRow) entry() Entry {
	return Entry{Path: r.Path, Kind: r.Kind, Shard: r.Shard, Table: r.Tab, Questionnaire: r.Questionnaire, Month: r.Month, Rows: r.Records,
		Withheld: r.Withheld, Bytes: r.Bytes, SHA256: hex.EncodeToString(r.SHA256), Digest: hex.EncodeToString(r.Digest),
		verified: r.Verified, loaded: r.Loaded, moved: r.Moved}
}

// plan notes that a file is going to be there, so that one that nobody finished is found and removed.
func (s *Store) plan(ctx context.Context, r *Run, e Entry) error {
	return s.fenced(ctx, r, nil, func(tx *gorm.DB) error {
		return db.InsertNew(tx, "archive_file", fileColumns, [][]any{{r.Study, e.Path, e.Kind, e.Shard, e.Table, e.Questionnaire, e.Month,
			int64(0), int64(0), int64(-1), make([]byte, sha256.Size), make([]byte, len(Digest{})), 0, 0, int64(0)}})
	})
}

// record notes a part: its files and where its lane goes on, at once.
func (s *Store) record(ctx context.Context, r *Run, p part) error {
	return s.fenced(ctx, r, nil, func(tx *gorm.DB) error {
		for _, e := range p.entries {
			sum, errSum := hex.DecodeString(e.SHA256)
			digest, errDigest := hex.DecodeString(e.Digest)
			if err := errors.Join(errSum, errDigest); err != nil {
				return err
			}
			done := tx.Exec("UPDATE archive_file SET records = ?, withheld = ?, bytes = ?, sha256 = ?, digest = ?, verified = 0, loaded = 0, moved = 0 WHERE study_id = ? AND path = ?",
				e.Rows, e.Withheld, e.Bytes, sum, digest, r.Study, e.Path)
			if done.Error == nil && done.RowsAffected != 1 {
				done.Error = fmt.Errorf("the file %s was never planned", e.Path)
			}
			if done.Error != nil {
				return done.Error
			}
		}
		mark := p.lane.mark
		if mark == nil {
			mark = []byte{}
		}
		done := tx.Exec("UPDATE archive_lane SET parts = ?, mark = ?, ended = ? WHERE study_id = ? AND lane = ?", p.lane.parts, mark, truth(p.lane.ended), r.Study, p.lane.name)
		if done.Error != nil || done.RowsAffected == 1 {
			return done.Error
		}
		return db.Insert(tx, "archive_lane", []string{"study_id", "lane", "parts", "mark", "ended"}, [][]any{{r.Study, p.lane.name, p.lane.parts, mark, truth(p.lane.ended)}})
	})
}

// stale returns the paths of files that are not part of the study's archive: planned and never finished, or of an earlier one.
func (s *Store) stale(ctx context.Context, study int64) ([]string, error) {
	var paths []string
	err := s.Meta.Read(ctx).Table("archive_file").Select("path").Where("study_id = ? AND bytes < 0", study).Order("path").Scan(&paths).Error
	return paths, db.Error("archive", err)
}

func (s *Store) dropStale(ctx context.Context, r *Run, path string) error {
	return s.fenced(ctx, r, nil, func(tx *gorm.DB) error {
		return tx.Exec("DELETE FROM archive_file WHERE study_id = ? AND path = ? AND bytes < 0", r.Study, path).Error
	})
}

// files returns a page of the files of an archive after a path.
func (s *Store) files(ctx context.Context, study int64, after string, limit int) ([]Entry, error) {
	var rows []fileRow
	err := s.Meta.Read(ctx).Table("archive_file").Select(fileColumns[1:]).Where("study_id = ? AND bytes >= 0 AND path > ?", study, after).Order("path").Limit(limit).Find(&rows).Error
	out := make([]Entry, len(rows))
	for i := range rows {
		out[i] = rows[i].entry()
	}
	return out, db.Error("archive", err)
}

// noted writes what has happened to a file.
func (s *Store) noted(ctx context.Context, r *Run, e *Entry) error {
	return s.fenced(ctx, r, nil, func(tx *gorm.DB) error {
		return tx.Exec("UPDATE archive_file SET verified = ?, loaded = ?, moved = ? WHERE study_id = ? AND path = ?",
			truth(e.verified), truth(e.loaded), e.moved, r.Study, e.Path).Error
	})
}

// Counts is how far a run is.
type Counts struct {
	Files, Verified, Loaded int64
	Rows, Moved             int64 // rows of the shards in the archive, and blocks that were moved
	Bytes                   int64
}

// Counts sums up the files of a study's archive.
func (s *Store) Counts(ctx context.Context, study int64) (Counts, error) {
	var c Counts
	err := s.Meta.Read(ctx).Raw("SELECT COUNT(*) AS files, COALESCE(SUM(verified), 0) AS verified, COALESCE(SUM(loaded), 0) AS loaded, COALESCE(SUM(CASE WHEN kind = ? THEN records ELSE 0 END), 0) AS `rows`, "+
		"COALESCE(SUM(moved), 0) AS moved, COALESCE(SUM(bytes), 0) AS bytes FROM archive_file WHERE study_id = ? AND bytes >= 0", KindEvidence, study).Scan(&c).Error
	return c, db.Error("archive", err)
}

// StudyOf returns the study of a participant, who may be in the archive; errs.NotFound where the number of nobody is that.
func (s *Store) StudyOf(ctx context.Context, participant int64) (int64, error) {
	var ids []int64
	err := s.Meta.Read(ctx).Table("participant_number").Where("participant_id = ?", participant).Limit(1).Pluck("study_id", &ids).Error
	if err == nil && len(ids) == 0 {
		return 0, errs.Absent("participant")
	}
	if err != nil {
		return 0, db.Error("participant", err)
	}
	return ids[0], nil
}

// layoutOf tells which bucket is on which shard, by the shards' names.
func layoutOf(view db.View, shards *db.Shards) [32]byte {
	h := sha256.New()
	for _, d := range shards.All() {
		fmt.Fprintf(h, "%s %v\n", d.Name, view.Buckets(d))
	}
	return [32]byte(h.Sum(nil))
}
