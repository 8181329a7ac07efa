package participant

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/user"
)

// Store keeps participants on their shards and their numbers in the metadata database. It is safe for concurrent use.
type Store struct {
	Meta   *db.DB
	Shards *db.Shards
}

// Newcomer is everything that one enrolment writes on a shard.
type Newcomer struct {
	Participant
	Activation [32]byte // hash of the activation code
	Entry      audit.Entry
	Contact    *SealedContact // nil: nothing was stated

	contact Contact // in the clear, like the code never written
	code    string
	line    int // of the import
}

// joinedRow is a participant with one of its zones and one of its earlier facts: a participant comes as their product, which is
// small, in one statement.
type joinedRow struct {
	ID, StudyID, SiteID     int64
	Arm, Number, Status     string
	Zone, Language, Anchors string
	DataKey                 []byte
	Version, CreatedAt      int64
	LeftAt                  int64
	HistoryFromAt           *int64
	HistoryZone             *string
	FactsUntilAt            *int64
	FactsArm, FactsAnchors  *string
}

const selectJoined = "SELECT p.id, p.study_id, p.site_id, p.arm, p.number, p.status, p.zone, p.language, p.anchors, p.data_key, p.version, " +
	"p.created_at, p.left_at, z.from_at AS history_from_at, z.zone AS history_zone, f.until_at AS facts_until_at, f.arm AS facts_arm, f.anchors AS facts_anchors " +
	"FROM participant p LEFT JOIN participant_zone z ON z.participant_id = p.id LEFT JOIN participant_facts f ON f.participant_id = p.id WHERE p.id IN ? " +
	"ORDER BY p.id, z.from_at, f.until_at"

// ByID returns those of the ids that exist, with one statement per shard and 512 ids.
func (s *Store) ByID(ctx context.Context, ids []int64) (map[int64]*Participant, error) {
	out := make(map[int64]*Participant, len(ids))
	var mu sync.Mutex
	err := s.byShard(ctx, ids, func(ctx context.Context, shard *db.DB, ids []int64) error {
		var rows []joinedRow
		if err := shard.Read(ctx).Raw(selectJoined, padded(ids)).Scan(&rows).Error; err != nil {
			return db.Error("participants", err)
		}
		mu.Lock()
		defer mu.Unlock()
		for i := range rows {
			if err := rows[i].addTo(out); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// addTo puts the row's participant, or what the row adds to it, into out.
func (r *joinedRow) addTo(out map[int64]*Participant) error {
	p := out[r.ID]
	if p == nil {
		anchors, err := readAnchorText(r.Anchors)
		if err != nil {
			return fmt.Errorf("anchors of participant %d: %w", r.ID, err)
		}
		p = &Participant{
			ID: r.ID, Study: r.StudyID, Site: r.SiteID, Number: r.Number, Arm: r.Arm, Zone: r.Zone, Language: r.Language, Status: r.Status,
			Anchors: anchors, Left: db.Time(r.LeftAt), WrappedKey: r.DataKey, Version: r.Version, CreatedAt: db.Time(r.CreatedAt),
		}
		out[r.ID] = p
	}
	if r.FactsUntilAt != nil {
		until := db.Time(*r.FactsUntilAt)
		if n := len(p.Earlier); n == 0 || p.Earlier[n-1].Until.Before(until) {
			anchors, err := readAnchorText(*r.FactsAnchors)
			if err != nil {
				return fmt.Errorf("facts of participant %d: %w", r.ID, err)
			}
			p.Earlier = append(p.Earlier, task.Facts{Until: until, Arm: *r.FactsArm, Anchors: anchors})
		}
	}
	if r.HistoryFromAt != nil {
		from := db.Time(*r.HistoryFromAt)
		if n := len(p.Zones); n == 0 || p.Zones[n-1].From.Before(from) {
			p.Zones = append(p.Zones, task.ZoneChange{From: from, Zone: *r.HistoryZone})
		}
	}
	return nil
}

// InBucket returns participants of a study in a bucket of a shard with ids above after, by id, up to limit.
func (s *Store) InBucket(ctx context.Context, shard *db.DB, study int64, bucket int, after int64, limit int) ([]*Participant, error) {
	var ids []int64
	err := shard.Read(ctx).Table("participant").Select("id").Where("study_id = ? AND bucket = ? AND id > ?", study, bucket, after).Order("id").Limit(limit).Scan(&ids).Error
	if err != nil {
		return nil, db.Error("participants", err)
	}
	return s.ordered(ctx, ids)
}

// ordered returns those of the ids that exist, by id.
func (s *Store) ordered(ctx context.Context, ids []int64) ([]*Participant, error) {
	found, err := s.ByID(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make([]*Participant, 0, len(found))
	for _, p := range found {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *Participant) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// Existing returns which of the ids have a participant on their shard.
func (s *Store) Existing(ctx context.Context, ids []int64) (map[int64]bool, error) {
	out := make(map[int64]bool, len(ids))
	var mu sync.Mutex
	err := s.byShard(ctx, ids, func(ctx context.Context, shard *db.DB, ids []int64) error {
		var found []int64
		if err := shard.Read(ctx).Raw("SELECT id FROM participant WHERE id IN ?", padded(ids)).Scan(&found).Error; err != nil {
			return db.Error("participants", err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, id := range found {
			out[id] = true
		}
		return nil
	})
	return out, err
}

// Page returns up to limit participants of a study with ids above after, in id order; sites nil means every site.
func (s *Store) Page(ctx context.Context, study int64, sites []int64, after int64, limit int) ([]*Participant, error) {
	var ids []int64
	var mu sync.Mutex
	view, err := s.Shards.View(ctx)
	if err != nil {
		return nil, err
	}
	err = s.Shards.Each(ctx, func(ctx context.Context, shard *db.DB) error {
		own := view.Buckets(shard)
		if len(own) == 0 {
			return nil
		}
		var found []int64
		q := shard.Read(ctx).Table("participant").Select("id").Where("study_id = ? AND id > ? AND bucket IN ?", study, after, own)
		if sites != nil {
			q = q.Where("site_id IN ?", sites)
		}
		if err := q.Order("id").Limit(limit).Scan(&found).Error; err != nil {
			return db.Error("participants", err)
		}
		mu.Lock()
		defer mu.Unlock()
		ids = append(ids, found...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(ids)
	return s.ordered(ctx, ids[:min(limit, len(ids))])
}

var (
	participantColumns = []string{"id", "study_id", "site_id", "arm", "number", "status", "zone", "language", "anchors", "data_key", "version", "created_at", "bucket", "left_at"}
	zoneColumns        = []string{"participant_id", "from_at", "zone"}
	factsColumns       = []string{"participant_id", "until_at", "arm", "anchors"}
)

// Enrol writes newcomers with accounts and audit entries, in one transaction per shard. It returns, by participant, what
// kept the shard's newcomers out; errs.Conflict means that at least one of them is there already.
func (s *Store) Enrol(ctx context.Context, newcomers []*Newcomer) map[int64]error {
	failed := make(map[int64]error)
	var mu sync.Mutex
	parts := make(map[*db.DB][]*Newcomer)
	for _, n := range newcomers {
		shard := s.Shards.For(n.ID)
		parts[shard] = append(parts[shard], n)
	}
	var all errgroup.Group
	for _, part := range parts {
		all.Go(func() error {
			// One shard's newcomers come together or not at all, unless the shard changes under them.
			err := db.Apart(ctx, s.Shards, part, func(n *Newcomer) int64 { return n.ID }, func(ctx context.Context, shard *db.DB, part []*Newcomer) error {
				return shard.Tx(ctx, func(tx *gorm.DB) error {
					if err := admit(tx, shard, part); err != nil {
						return err
					}
					return insert(tx, part)
				})
			})
			if err == nil {
				return nil
			}
			err = db.Error("participant", err)
			mu.Lock()
			defer mu.Unlock()
			for _, n := range part {
				failed[n.ID] = err
			}
			return nil
		})
	}
	_ = all.Wait() // failures are in the map
	return failed
}

// admit asks whether the studies of all newcomers take anybody on this shard.
func admit(tx *gorm.DB, shard *db.DB, newcomers []*Newcomer) error {
	ids := make([]int64, len(newcomers))
	for i, n := range newcomers {
		ids[i] = n.ID
	}
	doors, err := shard.AskOf(tx, ids...)
	for _, n := range newcomers {
		if err == nil {
			err = doors.Admit(n.Study, db.Ordinary)
		}
	}
	return err
}

func insert(tx *gorm.DB, newcomers []*Newcomer) error {
	rows := make([][]any, 0, len(newcomers))
	zones := make([][]any, 0, len(newcomers))
	accounts := make([]user.Account, 0, len(newcomers))
	entries := make([]audit.Entry, 0, len(newcomers))
	waiting := make(map[int64][]int64) // by study, for their tasks
	var contacts []SealedContact
	for _, n := range newcomers {
		anchors, err := anchorText(n.Anchors)
		if err != nil {
			return err
		}
		rows = append(rows, []any{n.ID, n.Study, n.Site, n.Arm, n.Number, n.Status, n.Zone, n.Language, anchors, n.WrappedKey, n.Version,
			db.Micros(n.CreatedAt), db.Bucket(n.ID), db.Micros(n.Left)})
		for _, z := range n.Zones {
			zones = append(zones, []any{n.ID, db.Micros(z.From), z.Zone})
		}
		accounts = append(accounts, user.Account{Participant: n.ID, Study: n.Study, Activation: &n.Activation})
		entries = append(entries, n.Entry)
		waiting[n.Study] = append(waiting[n.Study], n.ID)
		if n.Contact != nil {
			contacts = append(contacts, *n.Contact)
		}
	}
	for study, ids := range waiting {
		if err := task.Refresh(tx, study, ids, newcomers[0].CreatedAt); err != nil {
			return err
		}
	}
	if err := db.Insert(tx, "participant", participantColumns, rows); err != nil {
		return err
	}
	if err := db.Insert(tx, "participant_zone", zoneColumns, zones); err != nil {
		return err
	}
	if err := insertContacts(tx, contacts, newcomers[0].CreatedAt); err != nil {
		return err
	}
	if err := user.AddAccounts(tx, accounts); err != nil {
		return err
	}
	return audit.Append(tx, entries...)
}

// Update replaces a participant by its next version and records it; errs.Stale if was is not the version that is kept. A
// participant who leaves loses every way to sign in, and takes back all consents, in the same transaction; ended then returns the
// evidence of those that were given.
func (s *Store) Update(ctx context.Context, was, is *Participant, entry audit.Entry, ended func(given []string) (audit.Entry, error)) error {
	anchors, err := anchorText(is.Anchors)
	if err != nil {
		return err
	}
	err = s.Shards.Write(ctx, db.Claim{Study: was.Study, Participant: was.ID}, func(tx *gorm.DB) error {
		done := tx.Exec("UPDATE participant SET site_id = ?, arm = ?, status = ?, zone = ?, language = ?, anchors = ?, left_at = ?, version = ? WHERE id = ? AND version = ?",
			is.Site, is.Arm, is.Status, is.Zone, is.Language, anchors, db.Micros(is.Left), is.Version, was.ID, was.Version)
		if done.Error != nil {
			return done.Error
		}
		if done.RowsAffected != 1 {
			return errStale()
		}
		if err := remember(tx, was, is); err != nil {
			return err
		}
		if is.moves(was) {
			if err := task.Refresh(tx, was.Study, []int64{was.ID}, entry.At); err != nil {
				return err
			}
		}
		if is.Status == Withdrawn && was.Status != Withdrawn {
			if err := user.CloseAccount(tx, was.ID); err != nil {
				return err
			}
			if err := endConsents(tx, was.ID, is.Left, ended); err != nil {
				return err
			}
		}
		return audit.Append(tx, entry)
	})
	return db.Error("participant", err)
}

// remember writes what the histories of is have more than those of was.
func remember(tx *gorm.DB, was, is *Participant) error {
	for _, z := range is.Zones[len(was.Zones):] {
		if err := db.Insert(tx, "participant_zone", zoneColumns, [][]any{{was.ID, db.Micros(z.From), z.Zone}}); err != nil {
			return err
		}
	}
	for _, f := range is.Earlier[len(was.Earlier):] {
		anchors, err := anchorText(f.Anchors)
		if err != nil {
			return err
		}
		if err := db.Insert(tx, "participant_facts", factsColumns, [][]any{{was.ID, db.Micros(f.Until), f.Arm, anchors}}); err != nil {
			return err
		}
	}
	return nil
}

// Activate records in the transaction of a first sign-in that the participant takes part.
func Activate(tx *gorm.DB, participant int64) error {
	return tx.Exec("UPDATE participant SET status = ?, version = version + 1 WHERE id = ? AND status = ?", ActiveStatus, participant, Enrolled).Error
}

// Renew gives a participant a new activation code and records it; errs.NotFound if the account is closed.
func (s *Store) Renew(ctx context.Context, participant int64, hash [32]byte, entry audit.Entry) error {
	err := s.Shards.Write(ctx, db.Claim{Participant: participant}, func(tx *gorm.DB) error {
		if err := user.RenewActivation(tx, participant, hash); err != nil {
			return err
		}
		return audit.Append(tx, entry)
	})
	return db.Error("participant", err)
}

// maxIn is the most ids in one statement.
const maxIn = 512

// byShard calls read for the ids of each shard, in parallel and in pieces.
func (s *Store) byShard(ctx context.Context, ids []int64, read func(ctx context.Context, shard *db.DB, ids []int64) error) error {
	view, err := s.Shards.View(ctx)
	if err != nil {
		return err
	}
	parts := make(map[*db.DB][]int64)
	for _, id := range ids {
		shard := view.For(id)
		parts[shard] = append(parts[shard], id)
	}
	all, ctx := errgroup.WithContext(ctx)
	for shard, part := range parts {
		all.Go(func() error {
			for piece := range slices.Chunk(part, maxIn) {
				if err := read(ctx, shard, piece); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return all.Wait()
}

// padded repeats the last id until the list has one of few lengths, so that few statements are prepared.
func padded(ids []int64) []int64 {
	size := maxIn
	for _, n := range [...]int{1, 4, 16, 64, 128} {
		if len(ids) <= n {
			size = n
			break
		}
	}
	out := slices.Grow(slices.Clone(ids), size-len(ids))
	for len(out) < size {
		out = append(out, ids[len(ids)-1])
	}
	return out
}
