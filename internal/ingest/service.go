package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/trace"
)

// Catalog knows what studies ask for. Its answers come from memory once warm, and survive the metadata database for a
// while.
type Catalog interface {
	Study(ctx context.Context, id int64) (study.Study, error)
	Plan(ctx context.Context, study int64) (task.Plan, error)
	// Definition refuses a canonical that is not an active version of the study with errs.Unprocessable.
	Definition(ctx context.Context, study int64, canonical string) (*questionnaire.Definition, error)
}

// People returns profiles.
type People interface {
	// Remembered returns a profile from memory, without waiting.
	Remembered(id int64) (*participant.Profile, bool)
	// Get reads it where it must. Unavailable means that the shard does not answer.
	Get(ctx context.Context, id int64) (*participant.Profile, error)
}

// Log makes a message durable: nil means that all in-sync replicas have it; an error means "unknown".
type Log interface {
	Send(ctx context.Context, m kafka.Message) error
}

// Guarded runs a call to the log with a time limit, unless the log failed too often lately.
type Guarded interface {
	Do(ctx context.Context, call func(ctx context.Context) error) error
}

// Spool makes a record durable on its participant's shard: nil means committed, an error means "unknown".
type Spool interface {
	Add(ctx context.Context, r *submission.Record) error
}

// Records is what the shards know of earlier submissions.
type Records interface {
	Receipt(ctx context.Context, participant int64, id uuid.UUID) (submission.Receipt, error)
}

// IDs gives Snowflake ids; it refuses rather than repeat one.
type IDs interface {
	Next() (int64, error)
}

// Memory tells other processes that the log has a record. Remember never blocks and may forget.
type Memory interface {
	Remember(r submission.Receipt)
	Receipt(ctx context.Context, participant int64, id uuid.UUID) (submission.Receipt, bool)
}

// Urgent looks at what was accepted for what cannot wait. It returns at once and keeps what it is given.
type Urgent interface {
	Accepted(r *submission.Record, d *questionnaire.Definition, response *questionnaire.Response)
}

// Meter counts outcomes at the door.
type Meter interface {
	Accepted(spooled bool)
	Refused(code string)
}

// Parts are what the door needs. All but Urgent are required.
type Parts struct {
	Catalog    Catalog
	People     People
	Engine     *task.Engine
	Log        Log
	Breaker    Guarded
	Spool      Spool
	Records    Records
	IDs        IDs
	Memory     Memory
	Intake     *keyring.DataKey // seals what the participant's own key cannot
	Partitions int
	Now        func() time.Time
	Meter      Meter
	Logger     *slog.Logger
	Urgent     Urgent
}

// Service is the door. It is safe for concurrent use.
type Service struct {
	Parts
	config Config
	recent *recent
}

// New returns a door.
func New(config Config, parts Parts) (*Service, error) {
	r, err := newRecent(config.Remembered)
	if err != nil {
		return nil, fmt.Errorf("remembered submissions: %w", err)
	}
	return &Service{Parts: parts, config: config, recent: r}, nil
}

// Accept takes one submission of the signed-in participant and returns its receipt once it is durable. Its errors are those
// of api.md; Unavailable means that nothing is known to be stored and that the same body may be sent again. The body is
// not kept after Accept returns.
func (s *Service) Accept(ctx context.Context, body []byte, source string) (submission.Receipt, error) {
	receipt, err := s.accept(ctx, body, source)
	if err != nil {
		code := "internal"
		if e, ok := errs.As(err); ok {
			code = e.Code
		}
		s.Meter.Refused(code)
	}
	return receipt, err
}

func (s *Service) accept(ctx context.Context, body []byte, source string) (submission.Receipt, error) {
	who, err := auth.Participant(ctx)
	if err != nil {
		return submission.Receipt{}, err
	}
	received := s.Now().UTC().Truncate(time.Microsecond)
	e, err := decode(body)
	if err != nil {
		return submission.Receipt{}, err
	}
	id := submission.Identity{Participant: who.ID, Submission: e.submission}
	hand, receipt, err := s.recent.claim(ctx, id, e.sum)
	if hand == nil {
		return receipt, err
	}
	durable := false
	defer func() { s.recent.settle(hand, id, receipt, durable) }()
	receipt, err = s.earlier(ctx, who, &e, received)
	if err == nil && receipt.ID == 0 {
		receipt, err = s.take(ctx, who, &e, received, source)
	}
	durable = err == nil
	return receipt, err
}

// earlier looks for a receipt of the same UUID on the shard when the answer was not authored just now: then it may be a
// retry of something that another process has taken. A zero receipt means that nothing is known.
func (s *Service) earlier(ctx context.Context, who auth.Principal, e *envelope, received time.Time) (submission.Receipt, error) {
	age := received.Sub(e.response.AuthoredAt)
	if !e.response.AuthoredAt.IsZero() && age.Abs() < s.config.Fresh {
		return submission.Receipt{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.LookupTimeout)
	defer cancel()
	r, err := s.Records.Receipt(ctx, who.ID, e.submission)
	if err != nil {
		return submission.Receipt{}, nil // absent or away: the processor decides
	}
	if r.SHA256 != e.sum {
		return submission.Receipt{}, errConflict()
	}
	return r, nil
}

func (s *Service) take(ctx context.Context, who auth.Principal, e *envelope, received time.Time, source string) (submission.Receipt, error) {
	definition, err := s.check(ctx, who, e, received)
	if err != nil {
		return submission.Receipt{}, err
	}
	profile, err := s.profile(ctx, who)
	if err != nil {
		return submission.Receipt{}, err
	}
	if profile != nil {
		if err := s.checkTask(ctx, profile, e, received); err != nil {
			return submission.Receipt{}, err
		}
	}
	record := submission.Record{
		Participant: who.ID, Study: who.Study, Task: e.task, Submission: e.submission,
		ReceivedAt: received, SHA256: e.sum, Key: submission.KeyIntake, Source: source,
	}
	key := s.Intake
	if profile != nil {
		key, record.Key = profile.Key, submission.KeyParticipant
	}
	if record.ID, err = s.IDs.Next(); err != nil {
		return submission.Receipt{}, fmt.Errorf("id of a submission: %w", err)
	}
	if err = record.Seal(key, e.raw); err != nil {
		return submission.Receipt{}, err
	}
	receipt, err := s.keep(ctx, &record)
	if err == nil && s.Urgent != nil {
		record.Trace = trace.Header(ctx)
		s.Urgent.Accepted(&record, definition, e.response)
	}
	return receipt, err
}

// check holds the body against the questionnaire version that it names.
func (s *Service) check(ctx context.Context, who auth.Principal, e *envelope, received time.Time) (*questionnaire.Definition, error) {
	about, err := s.Catalog.Study(ctx, who.Study)
	if err != nil {
		return nil, fmt.Errorf("study of the participant: %w", err)
	}
	if about.Status != study.Active {
		return nil, errs.New(errs.Conflict, "study_locked", "the study takes no submissions now")
	}
	definition, err := s.Catalog.Definition(ctx, who.Study, e.response.Questionnaire)
	if err != nil {
		return nil, err
	}
	findings := definition.Check(e.response, questionnaire.Context{Now: received, MaxSkew: s.config.MaxSkew})
	if len(findings) > 0 {
		for i := range findings {
			findings[i].Pointer = "/response" + findings[i].Pointer
		}
		return nil, errs.New(errs.Unprocessable, "invalid_response", "the response does not fit its questionnaire; see errors").WithFindings(findings)
	}
	return definition, nil
}

// profile returns nil without an error when the participant's shard does not answer: intake goes on, sealed with the
// door's key, and the processor checks what could not be checked here.
func (s *Service) profile(ctx context.Context, who auth.Principal) (*participant.Profile, error) {
	p, ok := s.People.Remembered(who.ID)
	if !ok {
		ctx, cancel := context.WithTimeout(ctx, s.config.LookupTimeout)
		defer cancel()
		var err error
		if p, err = s.People.Get(ctx, who.ID); err != nil {
			if errs.KindOf(err) == errs.Unavailable {
				return nil, nil
			}
			return nil, fmt.Errorf("profile: %w", err)
		}
	}
	if p.Status == participant.Withdrawn {
		return nil, errs.NotAllowed("the participant has left the study")
	}
	return p, nil
}

func (s *Service) checkTask(ctx context.Context, p *participant.Profile, e *envelope, received time.Time) error {
	plan, err := s.Catalog.Plan(ctx, p.Study)
	if err != nil {
		return fmt.Errorf("schedule of the study: %w", err)
	}
	due, ok := s.Engine.Find(plan, p.Person, e.task, received)
	if !ok {
		return errs.Absent("task")
	}
	if due.Questionnaire != e.response.Questionnaire {
		return errs.New(errs.Unprocessable, "invalid_response", "the response answers another questionnaire than the task asks for").
			WithFindings([]errs.Finding{{Pointer: "/response/questionnaire", Expression: "QuestionnaireResponse.questionnaire",
				Code: "questionnaire_mismatch", Detail: "the task asks for " + due.Questionnaire}})
	}
	if by, ok := s.recent.answered(p.ID, e.task); ok && by != e.submission {
		return errs.New(errs.Conflict, "task_completed", "the task was already answered by another submission")
	}
	return task.Acceptable(due, e.response.AuthoredAt, received)
}

// keep makes the record durable: in the log, else in the spool.
func (s *Service) keep(ctx context.Context, r *submission.Record) (submission.Receipt, error) {
	partition := submission.Partition(r.Participant, s.Partitions)
	message := r.Message(partition)
	err := s.Breaker.Do(ctx, func(ctx context.Context) error { return s.Log.Send(ctx, message) })
	spooled := err != nil
	if spooled {
		if ctx.Err() != nil {
			return submission.Receipt{}, errs.Away("intake", ctx.Err())
		}
		spooling, cancel := context.WithTimeout(ctx, s.spoolWait(ctx))
		defer cancel()
		spooling, span := trace.Start(spooling, "spool", trace.Internal)
		r.Trace = trace.Header(spooling)
		spoolErr := s.Spool.Add(spooling, r)
		span.End(spoolErr)
		if spoolErr != nil {
			s.Logger.ErrorContext(ctx, "neither log nor spool took a submission", "submission.id", r.ID, "error", errors.Join(err, spoolErr))
			return submission.Receipt{}, errs.Away("storage for submissions", errors.Join(err, spoolErr))
		}
	}
	receipt := r.Receipt()
	s.Memory.Remember(receipt)
	s.Meter.Accepted(spooled)
	return receipt, nil
}

// spoolWait is how long the spool may take: spoolTimeout, or what is left of the request where the log failed at once.
func (s *Service) spoolWait(ctx context.Context) time.Duration {
	const toAnswer = 200 * time.Millisecond
	if deadline, ok := ctx.Deadline(); ok {
		return max(s.config.SpoolTimeout, deadline.Sub(s.Now())-toAnswer)
	}
	return s.config.SpoolTimeout
}

// Receipt returns the receipt of a record that is durable and perhaps on no shard yet, as far as anybody remembers it.
func (s *Service) Receipt(ctx context.Context, participant int64, id uuid.UUID) (submission.Receipt, bool) {
	if r, ok := s.recent.receipt(submission.Identity{Participant: participant, Submission: id}); ok {
		return r, true
	}
	return s.Memory.Receipt(ctx, participant, id)
}
