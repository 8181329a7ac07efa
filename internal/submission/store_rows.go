package submission

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"sync"

	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

type receiptRow struct {
	ParticipantID int64
	Submission    []byte
	ID            int64
	StudyID       int64
	TaskID        int64
	SHA256        []byte `gorm:"column:sha256"`
	State         string
	ReceivedAt    int64
	ProcessedAt   int64
}

func (r receiptRow) receipt() Receipt {
	out := Receipt{ID: r.ID, Participant: r.ParticipantID, Study: r.StudyID, Task: r.TaskID, State: State(r.State),
		ReceivedAt: db.Time(r.ReceivedAt), ProcessedAt: db.Time(r.ProcessedAt), Submission: uuidOf(r.Submission)}
	copy(out.SHA256[:], r.SHA256)
	return out
}

// recordRow holds the columns that spool, response and quarantine share.
type recordRow struct {
	ID            int64
	ParticipantID int64
	StudyID       int64
	TaskID        int64
	Submission    []byte
	SHA256        []byte `gorm:"column:sha256"`
	ReceivedAt    int64
	Source        string
	SealedKey     int
	Sealed        []byte
	Trace         string // of the spool only
}

func (r recordRow) record() Record {
	out := Record{ID: r.ID, Participant: r.ParticipantID, Study: r.StudyID, Task: r.TaskID, Submission: uuidOf(r.Submission),
		ReceivedAt: db.Time(r.ReceivedAt), Key: Key(r.SealedKey), Source: r.Source, Sealed: r.Sealed, Trace: r.Trace}
	copy(out.SHA256[:], r.SHA256)
	return out
}

type responseRow struct {
	Shared        recordRow `gorm:"embedded"`
	SiteID        int64
	Questionnaire string
	Version       string
	Status        string
	Authored      string
	Zone          string
	Late          bool
	StoredAt      int64
}

func (r responseRow) response() (Response, error) {
	return Response{Record: r.Shared.record(), Site: r.SiteID, Questionnaire: r.Questionnaire, Version: r.Version, Status: r.Status,
		Authored: r.Authored, Zone: r.Zone, Late: r.Late, StoredAt: db.Time(r.StoredAt)}, nil
}

type quarantineRow struct {
	Shared        recordRow `gorm:"embedded"`
	SiteID        int64
	Reason        string
	Findings      []byte
	QuarantinedAt int64
}

func (r quarantineRow) quarantine() (Quarantine, error) {
	q := Quarantine{Record: r.Shared.record(), Site: r.SiteID, Reason: r.Reason, At: db.Time(r.QuarantinedAt)}
	return q, json.Unmarshal(r.Findings, &q.Findings)
}

func uuidOf(b []byte) (id uuid.UUID) { copy(id[:], b); return id }

// list reads one page of a table from every shard that can hold it and merges the pages by id, newest first.
func list[R, T any](ctx context.Context, shards *db.Shards, f Filter, table string, columns []string, value func(R) (T, error), id, participant func(T) int64) ([]T, error) {
	view, err := shards.View(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var all []T
	read := func(ctx context.Context, shard *db.DB) error {
		for page, kept := f, 0; ; {
			var rows []R
			if err := narrow(shard.Read(ctx).Table(table).Select(columns), page).Order("id DESC").Limit(f.Limit).Find(&rows).Error; err != nil {
				return db.Error(table, err)
			}
			mu.Lock()
			for _, row := range rows {
				v, err := value(row)
				if err != nil {
					mu.Unlock()
					return err
				}
				page.Before = id(v)
				if view.Owns(shard, participant(v)) {
					all = append(all, v)
					kept++
				}
			}
			mu.Unlock()
			if len(rows) < f.Limit || kept >= f.Limit {
				return nil
			}
		}
	}
	if f.Participant != 0 {
		err = read(ctx, view.For(f.Participant))
	} else {
		err = shards.Each(ctx, read)
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b T) int { return cmp.Compare(id(b), id(a)) })
	return all[:min(len(all), f.Limit)], nil
}

func narrow(tx *gorm.DB, f Filter) *gorm.DB {
	tx = tx.Where("study_id = ?", f.Study)
	if f.Participant != 0 {
		tx = tx.Where("participant_id = ?", f.Participant)
	}
	if f.Sites != nil {
		tx = tx.Where("site_id IN ?", f.Sites)
	}
	if f.Questionnaire != "" {
		tx = tx.Where("questionnaire = ?", f.Questionnaire)
	}
	if !f.From.IsZero() {
		tx = tx.Where("received_at >= ?", db.Micros(f.From))
	}
	if !f.To.IsZero() {
		tx = tx.Where("received_at < ?", db.Micros(f.To))
	}
	if f.Before != 0 {
		tx = tx.Where("id < ?", f.Before)
	}
	return tx
}

// find looks for one row by id on every shard: an id does not say where it lives.
func find[R, T any](ctx context.Context, shards *db.Shards, table string, columns []string, id int64, value func(R) (T, error), participant func(T) int64) (T, error) {
	var mu sync.Mutex
	var found T
	known := false
	view, err := shards.View(ctx)
	if err != nil {
		return found, err
	}
	err = shards.Each(ctx, func(ctx context.Context, shard *db.DB) error {
		var rows []R
		if err := shard.Read(ctx).Table(table).Select(columns).Where("id = ?", id).Limit(1).Find(&rows).Error; err != nil || len(rows) == 0 {
			return db.Error(table, err)
		}
		v, err := value(rows[0])
		mu.Lock()
		defer mu.Unlock()
		if err == nil && !view.Owns(shard, participant(v)) {
			return nil // a copy
		}
		found, known = v, true
		return err
	})
	if known {
		return found, err
	}
	if err == nil {
		err = errs.Absent(table)
	}
	return found, err
}
