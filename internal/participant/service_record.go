package participant

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/lock"
)

// Locks keep two people from editing one thing at once; see lock.Reentrant for the promise. They save double work; that no
// write is lost is the database's doing.
type Locks interface {
	Hold(ctx context.Context, name, owner, taking string, ttl time.Duration) (lock.Hold, error)
	Release(ctx context.Context, name, owner, taking string) error
	Holder(ctx context.Context, name string) (hold lock.Hold, held bool, err error)
}

// Names knows the usernames of staff accounts; an id without an account is absent from the map.
type Names interface {
	Usernames(ctx context.Context, ids []int64) (map[int64]string, error)
}

// Editor is who holds a record, as people are told.
type Editor struct {
	Holder string // username
	Until  time.Time
}

const (
	actionRecord = "record.update"
	editing      = "edit" // the taking of an editing session: one per account
)

// Record returns a participant's record, and who is editing it, if anybody is.
func (s *Service) Record(ctx context.Context, id int64) (Record, *Editor, error) {
	p, _, err := s.recordOf(ctx, id, auth.ParticipantRead)
	if err != nil {
		return Record{}, nil, err
	}
	sealed, err := s.Shelf.Record(ctx, id)
	if err != nil {
		return Record{}, nil, err
	}
	record, err := opened(sealed, p.Key)
	if err != nil {
		return Record{}, nil, err
	}
	hold, held, err := s.Locks.Holder(ctx, recordLock(id))
	if err != nil {
		s.Logger.WarnContext(ctx, "who edits a record is not known", "error", err)
		return record, nil, nil // what is only good to know must not hide the record
	}
	if !held {
		return record, nil, nil
	}
	return record, s.editor(ctx, hold), nil
}

// RecordHistory returns up to limit versions of a record below before (0: all), youngest first.
func (s *Service) RecordHistory(ctx context.Context, id, before int64, limit int) ([]Record, error) {
	p, _, err := s.recordOf(ctx, id, auth.ParticipantRead)
	if err != nil {
		return nil, err
	}
	versions, err := s.Shelf.RecordHistory(ctx, id, before, limit)
	if err != nil {
		return nil, err
	}
	out := make([]Record, len(versions))
	for i := range versions {
		if out[i], err = opened(versions[i], p.Key); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// PutRecord replaces the sections of a record whose version is still the one that the caller edited, else errs.Stale. Held by
// somebody else it is errs.Conflict record_locked with the members holder and until. Without the lock service the database's
// own check of the version decides alone.
func (s *Service) PutRecord(ctx context.Context, id, version int64, sections map[string]json.RawMessage, reason, source string) (Record, error) {
	p, d, err := s.recordOf(ctx, id, auth.ParticipantUpdate)
	if err != nil {
		return Record{}, err
	}
	findings := sectionFindings(sections)
	if len(reason) > maxReason {
		findings = append(findings, errs.Finding{Pointer: "/reason", Code: "too_long", Detail: fmt.Sprintf("must be at most %d bytes", maxReason)})
	}
	if len(findings) > 0 {
		return Record{}, errs.InvalidField(findings...)
	}
	d.source = source
	taking := "put:" + source
	hold, err := s.hold(ctx, id, d.by.ID, taking, writeHold)
	switch {
	case err == nil:
		defer func() {
			if err := s.Locks.Release(context.WithoutCancel(ctx), recordLock(id), owner(d.by.ID), taking); err != nil {
				s.Logger.WarnContext(ctx, "the lock of a record ends by itself", "error", err)
			}
		}()
	case errs.KindOf(err) == errs.Unavailable:
		s.Logger.WarnContext(ctx, "a record is written without a lock", "error", err)
		hold = lock.Hold{}
	default:
		return Record{}, err
	}
	if err := s.Shelf.FenceRecord(ctx, id, hold.Fence); err != nil {
		return Record{}, err
	}
	return s.writeRecord(ctx, p, d, version, Record{Participant: id, Version: version + 1, Sections: sections, At: s.instant(), By: d.by.ID, Reason: reason}, hold.Fence)
}

func (s *Service) writeRecord(ctx context.Context, p *Profile, d *desk, version int64, is Record, fence int64) (Record, error) {
	sealed, err := s.Shelf.Record(ctx, p.ID)
	if err != nil {
		return Record{}, err
	}
	if sealed.Version != version {
		return Record{}, errRecordStale()
	}
	was, err := opened(sealed, p.Key)
	if err != nil {
		return Record{}, err
	}
	next, err := closed(is, p.Key)
	if err != nil {
		return Record{}, err
	}
	entry, err := s.entry(d, &Participant{ID: p.ID, Study: p.Study}, actionRecord, is.Reason)
	if err != nil {
		return Record{}, err
	}
	entry.Record = "record"
	before, after := changedSections(was.Sections, is.Sections)
	if entry.Old, err = sealedChange(version, before, p); err == nil {
		entry.New, err = sealedChange(is.Version, after, p)
	}
	if err != nil {
		return Record{}, err
	}
	return is, s.Shelf.PutRecord(ctx, version, next, fence, entry)
}

// LockRecord begins or extends the caller's editing session, so that colleagues see at once that somebody edits. Token, where
// it is given, must be that of the session, which must not have ended: else errs.Conflict record_lock_lost.
func (s *Service) LockRecord(ctx context.Context, id int64, asked time.Duration, token string) (lock.Hold, error) {
	_, d, err := s.recordOf(ctx, id, auth.ParticipantUpdate)
	if err != nil {
		return lock.Hold{}, err
	}
	ttl, err := session(asked)
	if err != nil {
		return lock.Hold{}, err
	}
	if token != "" {
		hold, held, err := s.Locks.Holder(ctx, recordLock(id))
		if err != nil {
			return lock.Hold{}, err
		}
		if !held || hold.Owner != owner(d.by.ID) || strconv.FormatInt(hold.Fence, 10) != token {
			return lock.Hold{}, errs.New(errs.Conflict, "record_lock_lost", "the editing session has ended; read the record again and begin a new one")
		}
	}
	hold, err := s.hold(ctx, id, d.by.ID, editing, ttl)
	if err != nil {
		return lock.Hold{}, err
	}
	return hold, s.Shelf.FenceRecord(ctx, id, hold.Fence)
}

// UnlockRecord ends the caller's editing session; there being none is no error.
func (s *Service) UnlockRecord(ctx context.Context, id int64) error {
	_, d, err := s.recordOf(ctx, id, auth.ParticipantUpdate)
	if err != nil {
		return err
	}
	return s.Locks.Release(ctx, recordLock(id), owner(d.by.ID), editing)
}

// recordOf asks for the right to a participant's record; for a change the study must take changes, too.
func (s *Service) recordOf(ctx context.Context, id int64, a auth.Action) (*Profile, *desk, error) {
	if _, err := auth.Staff(ctx); err != nil {
		return nil, nil, err
	}
	p, err := s.Profiles.Get(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	if _, err := s.Guard.Site(ctx, p.Study, p.Site, auth.ParticipantRead); err != nil {
		if errs.KindOf(err) == errs.NotFound {
			err = errs.Absent("participant")
		}
		return nil, nil, err
	}
	if a == auth.ParticipantRead {
		return p, nil, nil
	}
	if _, err := s.Guard.Site(ctx, p.Study, p.Site, a); err != nil {
		return nil, nil, err
	}
	d, err := s.desk(ctx, p.Study, a, "")
	return p, d, err
}

func (s *Service) hold(ctx context.Context, id, account int64, taking string, ttl time.Duration) (lock.Hold, error) {
	hold, err := s.Locks.Hold(ctx, recordLock(id), owner(account), taking, ttl)
	var held *lock.HeldError
	if !errors.As(err, &held) {
		return hold, err
	}
	e := s.editor(ctx, held.Hold)
	return lock.Hold{}, errRecordLocked().WithMembers(map[string]any{"holder": e.Holder, "until": e.Until.UTC().Format(time.RFC3339Nano)})
}

func (s *Service) editor(ctx context.Context, hold lock.Hold) *Editor {
	e := &Editor{Holder: hold.Owner, Until: hold.Until}
	if account, ok := holder(hold.Owner); ok {
		if names, err := s.Staff.Usernames(ctx, []int64{account}); err == nil && names[account] != "" {
			e.Holder = names[account]
		}
	}
	return e
}

func closed(r Record, key *keyring.DataKey) (SealedRecord, error) {
	plain, err := json.Marshal(r.Sections)
	if err != nil {
		return SealedRecord{}, fmt.Errorf("record: %w", err)
	}
	sealed, err := key.Seal(plain, recordPlace(r.Participant, r.Version))
	return SealedRecord{Participant: r.Participant, Version: r.Version, Sealed: sealed, At: r.At, By: r.By, Reason: r.Reason}, err
}

func opened(r SealedRecord, key *keyring.DataKey) (Record, error) {
	out := Record{Participant: r.Participant, Version: r.Version, Sections: map[string]json.RawMessage{}, At: r.At, By: r.By, Reason: r.Reason}
	if r.Version == 0 {
		return out, nil
	}
	plain, err := key.Open(r.Sealed, recordPlace(r.Participant, r.Version))
	if err != nil {
		return Record{}, fmt.Errorf("record of participant %d, version %d: %w", r.Participant, r.Version, err)
	}
	return out, json.Unmarshal(plain, &out.Sections)
}

// sealedChange is one side of a change as the audit trail keeps it: names and contents of sections are health data.
func sealedChange(version int64, sections map[string]json.RawMessage, p *Profile) ([]byte, error) {
	plain, err := json.Marshal(sections)
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	sealed, err := p.Key.Seal(plain, auditPlace(p.ID, version))
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]string{"version": strconv.FormatInt(version, 10), "sealed": base64.StdEncoding.EncodeToString(sealed)})
}

// auditPlace binds the sealed side of an audit entry to its record and version.
func auditPlace(participant, version int64) []byte {
	return fmt.Appendf(nil, "eprod/record-audit/1/%d/%d", participant, version)
}
