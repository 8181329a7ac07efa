package submission

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// Store reads and writes submissions on the shards. It is safe for concurrent use.
type Store struct{ Shards *db.Shards }

// Identity names a submission before anything is stored.
type Identity struct {
	Participant int64
	Submission  uuid.UUID
}

// Identity returns the record's identity.
func (r *Record) Identity() Identity { return Identity{r.Participant, r.Submission} }

var (
	receiptColumns  = []string{"participant_id", "submission", "id", "study_id", "task_id", "sha256", "state", "received_at", "processed_at"}
	responseColumns = []string{"id", "study_id", "site_id", "participant_id", "task_id", "submission", "sha256", "questionnaire", "version", "status",
		"authored", "zone", "late", "received_at", "stored_at", "source", "sealed_key", "sealed"}
	conflictColumns   = []string{"id", "study_id", "participant_id", "task_id", "submission", "sha256", "received_at", "stored_at", "source", "sealed_key", "sealed"}
	quarantineColumns = []string{"id", "study_id", "site_id", "participant_id", "task_id", "submission", "sha256", "reason", "findings", "received_at",
		"quarantined_at", "source", "sealed_key", "sealed"}
	spoolColumns = []string{"id", "participant_id", "study_id", "task_id", "submission", "sha256", "received_at", "source", "sealed_key", "sealed", "trace"}
)

// InsertReceipts writes receipts in tx. A receipt whose identity is taken makes the call fail with a duplicate.
func InsertReceipts(tx *gorm.DB, receipts []Receipt) error {
	rows := make([][]any, len(receipts))
	for i, r := range receipts {
		rows[i] = []any{r.Participant, r.Submission[:], r.ID, r.Study, r.Task, r.SHA256[:], string(r.State), db.Micros(r.ReceivedAt), db.Micros(r.ProcessedAt)}
	}
	return db.Insert(tx, "receipt", receiptColumns, rows)
}

// InsertResponses writes checked responses in tx.
func InsertResponses(tx *gorm.DB, responses []Response) error {
	rows := make([][]any, len(responses))
	for i := range responses {
		r := &responses[i]
		rows[i] = []any{r.ID, r.Study, r.Site, r.Participant, r.Task, r.Submission[:], r.SHA256[:], r.Questionnaire, r.Version, r.Status,
			r.Authored, r.Zone, flag(r.Late), db.Micros(r.ReceivedAt), db.Micros(r.StoredAt), r.Source, int(r.Key), r.Sealed}
	}
	return db.Insert(tx, "response", responseColumns, rows)
}

// InsertConflicts keeps second bodies aside and lets their receipts end in conflict.
func InsertConflicts(tx *gorm.DB, at time.Time, records []Record) error {
	rows := make([][]any, len(records))
	for i := range records {
		r := &records[i]
		rows[i] = []any{r.ID, r.Study, r.Participant, r.Task, r.Submission[:], r.SHA256[:], db.Micros(r.ReceivedAt), db.Micros(at), r.Source, int(r.Key), r.Sealed}
	}
	if err := db.Insert(tx, "conflict", conflictColumns, rows); err != nil {
		return err
	}
	for i := range records {
		err := tx.Exec("UPDATE receipt SET state = ?, processed_at = ? WHERE participant_id = ? AND submission = ?",
			string(Conflict), db.Micros(at), records[i].Participant, records[i].Submission[:]).Error
		if err != nil {
			return err
		}
	}
	return nil
}

// InsertQuarantine writes submissions that wait for a person.
func InsertQuarantine(tx *gorm.DB, waiting []Quarantine) error {
	rows := make([][]any, len(waiting))
	for i := range waiting {
		q := &waiting[i]
		findings, err := json.Marshal(q.Findings)
		if err != nil {
			return err
		}
		rows[i] = []any{q.ID, q.Study, q.Site, q.Participant, q.Task, q.Submission[:], q.SHA256[:], q.Reason, findings, db.Micros(q.ReceivedAt),
			db.Micros(q.At), q.Source, int(q.Key), q.Sealed}
	}
	return db.Insert(tx, "quarantine", quarantineColumns, rows)
}

var lateColumns = []string{"participant_id", "submission", "sha256", "id", "study_id", "site_id", "task_id", "received_at", "late_at", "source", "sealed_key", "sealed"}

// InsertLate keeps records that came too late for their locked studies: outside of the studies' data, the same body once.
func InsertLate(tx *gorm.DB, late []Quarantine) error {
	rows := make([][]any, len(late))
	for i := range late {
		r := &late[i]
		rows[i] = []any{r.Participant, r.Submission[:], r.SHA256[:], r.ID, r.Study, r.Site, r.Task, db.Micros(r.ReceivedAt), db.Micros(r.At), r.Source, int(r.Key), r.Sealed}
	}
	return db.InsertNew(tx, "late_record", lateColumns, rows)
}

// Resend hands those records of a study that came too late on one shard to send which nobody has processed since, and forgets the
// others: a record is never without a trace in between. It returns how many it sent. What is sent twice is processed once.
func Resend(ctx context.Context, shard *db.DB, study int64, send func(ctx context.Context, r *Record) error) (sent int, err error) {
	const page = 100
	for after := int64(0); ; {
		var rows []recordRow
		err := shard.Read(ctx).Table("late_record").Select("id", "participant_id", "study_id", "task_id", "submission", "sha256", "received_at", "source", "sealed_key", "sealed").
			Where("study_id = ? AND id > ?", study, after).Order("id").Limit(page).Find(&rows).Error
		if err != nil || len(rows) == 0 {
			return sent, db.Error("late records", err)
		}
		after = rows[len(rows)-1].ID
		n, err := resend(ctx, shard, rows, send)
		if sent += n; err != nil || len(rows) < page {
			return sent, err
		}
	}
}

func resend(ctx context.Context, shard *db.DB, rows []recordRow, send func(ctx context.Context, r *Record) error) (sent int, err error) {
	ids := make([]Identity, len(rows))
	for i := range rows {
		r := rows[i].record()
		ids[i] = r.Identity()
	}
	receipts, err := Receipts(shard.Read(ctx), ids)
	if err != nil {
		return 0, db.Error("receipts", err)
	}
	for i := range rows {
		r := rows[i].record()
		receipt, known := receipts[r.Identity()]
		done := known && receipt.SHA256 == r.SHA256
		if known && !done {
			if done, err = ConflictKept(shard.Read(ctx), &r); err != nil {
				return sent, db.Error("conflict", err)
			}
		}
		if !done {
			if err := send(ctx, &r); err != nil {
				return sent, err
			}
			sent++
			continue
		}
		err := shard.Tx(ctx, func(tx *gorm.DB) error {
			return tx.Exec("DELETE FROM late_record WHERE participant_id = ? AND submission = ? AND sha256 = ?", r.Participant, r.Submission[:], r.SHA256[:]).Error
		})
		if err != nil {
			return sent, db.Error("late records", err)
		}
	}
	return sent, nil
}

// Relay hands up to limit spooled records of one shard to send and deletes them. A failure of send, or of the commit, leaves
// them for the next call, so send may see a record twice. It returns how many were sent. On MySQL the rows are claimed
// first, so that several processes may relay one shard. SQLite's only writer must not wait for the log: there the rows are
// read and deleted in two steps, and one caller at a time may relay.
func Relay(ctx context.Context, shard *db.DB, limit int, send func(ctx context.Context, records []Record) error) (int, error) {
	if shard.Dialect == db.SQLite {
		ids, err := relayRows(ctx, shard.Read(ctx), limit, send)
		if err != nil || len(ids) == 0 {
			return 0, err
		}
		return len(ids), shard.Tx(ctx, func(tx *gorm.DB) error { return forgetSpooled(tx, ids) })
	}
	var ids []int64
	err := shard.Tx(ctx, func(tx *gorm.DB) error {
		var err error
		if ids, err = relayRows(ctx, db.SkipLocked(tx), limit, send); err != nil || len(ids) == 0 {
			return err
		}
		return forgetSpooled(tx, ids)
	})
	if err != nil {
		return 0, err
	}
	return len(ids), nil
}

func relayRows(ctx context.Context, tx *gorm.DB, limit int, send func(ctx context.Context, records []Record) error) ([]int64, error) {
	var rows []recordRow
	if err := tx.Table("spool").Select(spoolColumns).Order("id").Limit(limit).Find(&rows).Error; err != nil || len(rows) == 0 {
		return nil, err
	}
	records, ids := make([]Record, len(rows)), make([]int64, len(rows))
	for i := range rows {
		records[i], ids[i] = rows[i].record(), rows[i].ID
	}
	return ids, send(ctx, records)
}

func forgetSpooled(tx *gorm.DB, ids []int64) error {
	return tx.Exec("DELETE FROM spool WHERE id IN ?", ids).Error
}

// Spooled returns how many records of a study wait in a shard's spool.
func Spooled(ctx context.Context, shard *db.DB, study int64) (int64, error) {
	var n int64
	err := shard.Read(ctx).Table("spool").Where("study_id = ?", study).Count(&n).Error
	return n, db.Error("spool", err)
}

// Receipts returns the receipts of the given identities that exist, read in tx; all must live on tx's shard.
func Receipts(tx *gorm.DB, ids []Identity) (map[Identity]Receipt, error) {
	found := make(map[Identity]Receipt, len(ids))
	for chunk := range slices.Chunk(ids, 100) {
		// Two lists instead of pairs: SQLite and MySQL agree on no form of a list of pairs. What is found beside the
		// pairs is harmless, because callers look their own identities up.
		participants, submissions := make([]int64, len(chunk)), make([][]byte, len(chunk))
		for i, id := range chunk {
			participants[i], submissions[i] = id.Participant, id.Submission[:]
		}
		var rows []receiptRow
		err := tx.Table("receipt").Select(receiptColumns).Where("participant_id IN ? AND submission IN ?", participants, submissions).Find(&rows).Error
		if err != nil {
			return nil, err
		}
		for i := range rows {
			r := rows[i].receipt()
			found[Identity{r.Participant, r.Submission}] = r
		}
	}
	return found, nil
}

// Receipt returns what became of a participant's submission, or that it waits in the spool. A submission that is only in
// the log is not found here.
func (s *Store) Receipt(ctx context.Context, participant int64, id uuid.UUID) (Receipt, error) {
	tx := s.Shards.Home(participant).Read(ctx)
	var row receiptRow
	err := tx.Table("receipt").Select(receiptColumns).Where("participant_id = ? AND submission = ?", participant, id[:]).Take(&row).Error
	if err == nil {
		r := row.receipt()
		if r.State == Quarantined {
			r.Findings, err = s.findings(ctx, r)
		}
		return r, err
	}
	if err = db.Error("submission", err); errs.KindOf(err) != errs.NotFound {
		return Receipt{}, err
	}
	if r, err := s.lateReceipt(tx, participant, id); errs.KindOf(err) != errs.NotFound {
		return r, err
	}
	var waiting recordRow
	err = s.Shards.Home(participant).Read(ctx).Table("spool").Select(spoolColumns).
		Where("participant_id = ? AND submission = ?", participant, id[:]).Order("id").Limit(1).Take(&waiting).Error
	if err != nil {
		return Receipt{}, db.Error("submission", err)
	}
	record := waiting.record()
	return record.Receipt(), nil
}

// lateReceipt returns what became of a submission that came too late for its locked study.
func (s *Store) lateReceipt(tx *gorm.DB, participant int64, id uuid.UUID) (Receipt, error) {
	var row struct {
		Shared recordRow `gorm:"embedded"`
		LateAt int64
	}
	err := tx.Session(&gorm.Session{}).Table("late_record").Select("id", "participant_id", "study_id", "task_id", "submission", "sha256", "received_at", "late_at").
		Where("participant_id = ? AND submission = ?", participant, id[:]).Order("id").Limit(1).Take(&row).Error
	if err != nil {
		return Receipt{}, db.Error("submission", err)
	}
	record := row.Shared.record()
	r := record.Receipt()
	r.State, r.ProcessedAt = Quarantined, db.Time(row.LateAt)
	r.Findings = []errs.Finding{{Code: ReasonLocked, Detail: "the study was locked before the submission could be stored; the submission is kept"}}
	return r, nil
}

func (s *Store) findings(ctx context.Context, r Receipt) ([]errs.Finding, error) {
	var row struct{ Findings []byte }
	err := s.Shards.Home(r.Participant).Read(ctx).Table("quarantine").Select("findings").Where("id = ?", r.ID).Take(&row).Error
	if err != nil {
		return nil, db.Error("quarantine", err)
	}
	var findings []errs.Finding
	return findings, json.Unmarshal(row.Findings, &findings)
}

// Filter narrows a list. Zero members do not filter; Study is required.
type Filter struct {
	Study         int64
	Participant   int64
	Sites         []int64 // nil = every site
	Questionnaire string
	From, To      time.Time // on ReceivedAt, From inclusive, To exclusive
	Before        int64     // keyset: only smaller ids
	Limit         int
	Bodies        bool // of responses: sealed bodies, too
}

// Responses lists stored responses, newest first, merged over the shards; their bodies only where the filter asks for them.
func (s *Store) Responses(ctx context.Context, f Filter) ([]Response, error) {
	columns := responseColumns
	if !f.Bodies {
		columns = without(responseColumns, "sealed")
	}
	return list(ctx, s.Shards, f, "response", columns, responseRow.response, func(r Response) int64 { return r.ID }, func(r Response) int64 { return r.Participant })
}

// Response returns one stored response with its sealed body.
func (s *Store) Response(ctx context.Context, id int64) (Response, error) {
	return find(ctx, s.Shards, "response", responseColumns, id, responseRow.response, func(r Response) int64 { return r.Participant })
}

// ResponseOf returns one response of a participant with its sealed body, or errs.NotFound.
func (s *Store) ResponseOf(ctx context.Context, participant, id int64) (Response, error) {
	var row responseRow
	err := s.Shards.Home(participant).Read(ctx).Table("response").Select(responseColumns).Where("id = ? AND participant_id = ?", id, participant).Take(&row).Error
	if err != nil {
		return Response{}, db.Error("response", err)
	}
	return row.response()
}

// Earlier returns up to limit responses of a participant to a questionnaire, by its url, with ids below before, youngest first, with
// their bodies.
func (s *Store) Earlier(ctx context.Context, participant int64, questionnaire string, before int64, limit int) ([]Response, error) {
	var rows []responseRow
	err := s.Shards.Home(participant).Read(ctx).Table("response").Select(responseColumns).
		Where("participant_id = ? AND id < ? AND questionnaire = ?", participant, before, questionnaire).Order("id DESC").Limit(limit).Find(&rows).Error
	if err != nil {
		return nil, db.Error("responses", err)
	}
	out := make([]Response, len(rows))
	for i := range rows {
		if out[i], err = rows[i].response(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Quarantined lists what waits for a person, without bodies, newest first, merged over the shards.
func (s *Store) Quarantined(ctx context.Context, f Filter) ([]Quarantine, error) {
	columns := without(quarantineColumns, "sealed")
	return list(ctx, s.Shards, f, "quarantine", columns, quarantineRow.quarantine, func(q Quarantine) int64 { return q.ID }, func(q Quarantine) int64 { return q.Participant })
}

// ConflictKept reports whether this very body is already kept aside as a conflict, read in tx.
func ConflictKept(tx *gorm.DB, r *Record) (bool, error) {
	var n int64
	err := tx.Table("conflict").Where("participant_id = ? AND submission = ? AND sha256 = ?", r.Participant, r.Submission[:], r.SHA256[:]).Count(&n).Error
	return n > 0, err
}

// lateKept reports whether this very body is kept as one that came too late for its locked study.
func lateKept(tx *gorm.DB, r *Record) (bool, error) {
	var n int64
	err := tx.Table("late_record").Where("participant_id = ? AND submission = ? AND sha256 = ?", r.Participant, r.Submission[:], r.SHA256[:]).Count(&n).Error
	return n > 0, err
}

func without(columns []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(columns), func(c string) bool { return c == name })
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
