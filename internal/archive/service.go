package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/lock"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/web"
)

// Design is what a manifest says of how the study was made.
type Design struct {
	Protocol  string
	Versions  []VersionSum // published questionnaire versions
	Schedules []int64
}

// Studies says and sets where a study stands.
type Studies interface {
	// Locked returns the id of the locking that the study is under, and errs.Conflict with the code study_not_locked where it is not.
	Locked(ctx context.Context, study int64) (lock int64, err error)
	// Archived reports whether the study is archived.
	Archived(ctx context.Context, study int64) (bool, error)
	// Archive makes a study archived that is under a locking, with its evidence. One that is archived stays so, without another entry;
	// one that is not, or is about to be unlocked, is errs.Conflict.
	Archive(ctx context.Context, study, lock int64, entry audit.Entry) error
	// Relock makes an archived study locked; one that is locked stays so.
	Relock(ctx context.Context, study int64, entry audit.Entry) error
	// Design returns how the study was made.
	Design(ctx context.Context, study int64) (Design, error)
}

// Definitions knows compiled questionnaire versions; an unknown one is errs.Unprocessable or errs.NotFound.
type Definitions interface {
	Definition(ctx context.Context, study int64, canonical string) (*questionnaire.Definition, error)
}

// Attester signs documents; see auth.Signer.Attest.
type Attester interface {
	Attest(kind string, document []byte) (string, error)
}

// IDs gives ascending Snowflake ids.
type IDs interface {
	NextN(n int) ([]int64, error)
}

// Parts are what the service needs. Destination is nil where archiving is off, Attester where there is no signer, ClickHouse
// where none is configured; all others are required.
type Parts struct {
	Store       *Store
	Shards      *db.Shards
	Destination Destination
	ClickHouse  *ClickHouse
	Studies     Studies
	Definitions Definitions
	Keys        *keyring.Keyring
	Locks       lock.Locker
	IDs         IDs
	Guard       auth.Guard
	Attester    Attester
	Now         func() time.Time
	Log         *slog.Logger

	// hook is called at every place where a process may be killed; tests end the run there.
	hook func(at string) error
}

// Service archives and restores studies. It is safe for concurrent use.
type Service struct {
	Parts
	Config Config

	known   atomic.Pointer[shelved]
	looking sync.Mutex // one caller at a time asks which studies are archived
}

// New returns the service.
func New(c Config, parts Parts) *Service { return &Service{Parts: parts, Config: c} }

func (s *Service) now() time.Time { return s.Now().UTC().Truncate(time.Microsecond) }

func (s *Service) hit(at string) error {
	if s.hook == nil {
		return nil
	}
	return s.hook(at)
}

const maxReason = 1000 // characters; the column has room for them

// Request asks for the move of a study by the caller, who must have the right to it. A process that runs the part of the archive
// does the work. The same request while it is under way returns what is under way.
func (s *Service) Request(ctx context.Context, study int64, d Direction, reason string) (*Run, error) {
	who, err := s.Guard.Study(ctx, study, auth.StudyArchive)
	if err != nil {
		return nil, err
	}
	return s.Start(ctx, study, d, Actor{Kind: string(who.Kind), ID: who.ID, Source: web.RequestID(ctx)}, reason)
}

// Start begins a run without asking for rights: for the operator's command. A run of the same direction that is under way is
// returned as it is; one of the other direction is errs.Conflict, and so is a study that is not locked, or not archived.
func (s *Service) Start(ctx context.Context, study int64, d Direction, by Actor, reason string) (*Run, error) {
	if s.Destination == nil {
		return nil, errOff()
	}
	if n := utf8.RuneCountInString(strings.TrimSpace(reason)); n == 0 || utf8.RuneCountInString(reason) > maxReason {
		return nil, errs.InvalidField(errs.Finding{Pointer: "/reason", Code: "missing", Detail: fmt.Sprintf("say why, in 1 to %d characters", maxReason)})
	}
	was, err := s.Store.Run(ctx, study)
	if errs.KindOf(err) == errs.NotFound {
		was, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	if was != nil && !was.Done() {
		if was.Direction == d {
			return was, nil
		}
		return nil, errBusy(was)
	}
	is := &Run{Study: study, Direction: d, Step: Steps(d)[0], Actor: by, Reason: reason, Requested: s.now(), Changed: s.now()}
	if d == Out {
		err = s.outgoing(ctx, is)
	} else {
		err = s.returning(was, is)
	}
	if err != nil {
		return nil, err
	}
	entry, err := s.entry(is, "study."+string(d)+"-request", map[string]any{"run": fmt.Sprint(is.ID)})
	if err != nil {
		return nil, err
	}
	return is, s.Store.Begin(ctx, was, is, entry)
}

// outgoing prepares a run that archives.
func (s *Service) outgoing(ctx context.Context, is *Run) error {
	var err error
	if is.Lock, err = s.Studies.Locked(ctx, is.Study); err != nil {
		return err
	}
	ids, err := s.IDs.NextN(1)
	if err != nil {
		return fmt.Errorf("ids: %w", err)
	}
	view, err := s.Shards.View(ctx)
	if err != nil {
		return err
	}
	is.ID, is.Layout = ids[0], layoutOf(view, s.Shards)
	is.Key, err = s.Keys.NewDataKey(is.Study)
	return err
}

// returning prepares a run that restores: it goes on with the archive that there is.
func (s *Service) returning(was, is *Run) error {
	if was == nil || was.Direction != Out {
		return errNotArchived()
	}
	is.ID, is.Key, is.Layout, is.Place, is.Manifest = was.ID, was.Key, was.Layout, was.Place, was.Manifest
	return nil
}

func (s *Service) entry(r *Run, action string, what map[string]any) (audit.Entry, error) {
	ids, err := s.IDs.NextN(1)
	if err != nil {
		return audit.Entry{}, fmt.Errorf("ids: %w", err)
	}
	after, err := json.Marshal(what)
	if err != nil {
		return audit.Entry{}, fmt.Errorf("audit: %w", err)
	}
	return audit.Entry{ID: ids[0], At: s.now(), Zone: "UTC", ActorKind: r.Actor.Kind, Actor: r.Actor.ID, Action: action, Record: "study",
		RecordID: r.Study, Study: r.Study, New: after, Reason: r.Reason, Source: r.Actor.Source}, nil
}

// State is a study's run with how far it is, and its manifest once there is one.
type State struct {
	Run      *Run
	Counts   Counts
	Manifest []byte // nil until it is written, or where the destination does not answer
}

// Show returns what became of a study, to those who may read it; errs.NotFound where it was never asked for.
func (s *Service) Show(ctx context.Context, study int64) (State, error) {
	if _, err := s.Guard.Study(ctx, study, auth.StudyRead); err != nil {
		return State{}, err
	}
	return s.State(ctx, study)
}

// State is Show without the question for rights.
func (s *Service) State(ctx context.Context, study int64) (State, error) {
	run, err := s.Store.Run(ctx, study)
	if err != nil {
		return State{}, err
	}
	counts, err := s.Store.Counts(ctx, study)
	if err != nil || run.Place == "" || s.Destination == nil {
		return State{Run: run, Counts: counts}, err
	}
	raw, err := s.get(ctx, manifestPath(study, run.ID))
	if err != nil || sum256(raw) != run.Manifest {
		s.Log.WarnContext(ctx, "a manifest is not where it was written", slog.Int64("study", study))
		return State{Run: run, Counts: counts}, nil
	}
	return State{Run: run, Counts: counts, Manifest: raw}, nil
}

// Readable returns nil where a study's data are on the shards, and ErrArchived where they are in the archive.
func (s *Service) Readable(ctx context.Context, study int64) error {
	run, err := s.Store.Run(ctx, study)
	switch {
	case errs.KindOf(err) == errs.NotFound:
		return nil
	case err != nil:
		return err
	case run.Archived():
		return ErrArchived(run)
	}
	return nil
}

// Run works on runs that nobody works on, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	if s.Destination == nil {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(s.Config.Poll)
	defer ticker.Stop()
	for {
		s.round(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

const perRound = 100 // runs that one round looks at

func (s *Service) round(ctx context.Context) {
	studies, err := s.Store.Unfinished(ctx, perRound)
	if err != nil {
		s.Log.WarnContext(ctx, "archives cannot be looked for", slog.String("error.message", err.Error()))
	}
	for _, study := range studies {
		if ctx.Err() != nil {
			return
		}
		err := s.Drive(ctx, study)
		var held *lock.HeldError
		if err != nil && !errors.As(err, &held) && ctx.Err() == nil {
			s.Log.WarnContext(ctx, "a study could not be moved", slog.Int64("study", study), slog.String("error.message", err.Error()))
		}
	}
}
