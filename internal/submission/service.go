package submission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/questionnaire"
)

// Participants answers what a view needs to know about participants.
type Participants interface {
	// Numbers returns the participant numbers of those ids that exist.
	Numbers(ctx context.Context, ids []int64) (map[int64]string, error)
	// Key returns the participant's data key, or errs.NotFound.
	Key(ctx context.Context, participant int64) (*keyring.DataKey, error)
}

// Recent remembers receipts of records that the log has and no shard yet.
type Recent interface {
	// Receipt returns the receipt and whether it is remembered; forgetting one is allowed at any time.
	Receipt(ctx context.Context, participant int64, id uuid.UUID) (Receipt, bool)
}

// Definitions knows questionnaire versions.
type Definitions interface {
	// Definition refuses a canonical that is not a version of the study.
	Definition(ctx context.Context, study int64, canonical string) (*questionnaire.Definition, error)
}

// Service answers what became of submissions: to the device by receipt, to staff by views.
type Service struct {
	Store        *Store
	Participants Participants
	Recent       Recent
	Intake       *keyring.DataKey
	Guard        auth.Guard
	Definitions  Definitions
}

// receiptTimeout is how long a receipt waits for its shard before it is told from memory.
const receiptTimeout = 1500 * time.Millisecond

// Receipt returns the caller's own receipt. A UUID that the caller never sent is NotFound; so is, for a moment, a record
// that only the log knows when nobody remembers it: a device then sends the same body again, which is always safe.
func (s *Service) Receipt(ctx context.Context, id uuid.UUID) (Receipt, error) {
	who, err := auth.Participant(ctx)
	if err != nil {
		return Receipt{}, err
	}
	asking, cancel := context.WithTimeout(ctx, receiptTimeout)
	r, err := s.Store.Receipt(asking, who.ID, id)
	cancel()
	if err == nil {
		return r, nil
	}
	if k := errs.KindOf(err); k != errs.NotFound && k != errs.Unavailable {
		return Receipt{}, err
	}
	if r, ok := s.Recent.Receipt(ctx, who.ID, id); ok {
		return r, nil
	}
	return Receipt{}, err
}

// View is a response as staff see it.
type View struct {
	Response
	Number string // participant number
	Body   []byte // the QuestionnaireResponse as received; only in Open
	Scores []questionnaire.Score
}

// List returns one page of a study's responses, newest first, of the sites that the caller may see.
func (s *Service) List(ctx context.Context, f Filter) ([]View, error) {
	if err := s.narrow(ctx, &f, auth.ResponseRead); err != nil {
		return nil, err
	}
	f.Bodies = true // for the scores
	responses, err := s.Store.Responses(ctx, f)
	if err != nil {
		return nil, err
	}
	views := make([]View, len(responses))
	ids := make([]int64, len(responses))
	for i, r := range responses {
		if views[i].Scores, err = s.scores(ctx, &r); err != nil {
			return nil, err
		}
		r.Sealed = nil
		views[i].Response, ids[i] = r, r.Participant
	}
	numbers, err := s.Participants.Numbers(ctx, ids)
	for i := range views {
		views[i].Number = numbers[views[i].Participant]
	}
	return views, err
}

// Open returns one response with its body.
func (s *Service) Open(ctx context.Context, id int64) (View, error) {
	if _, err := auth.Staff(ctx); err != nil {
		return View{}, err
	}
	r, err := s.Store.Response(ctx, id)
	if err != nil {
		return View{}, err
	}
	if _, err := s.Guard.Site(ctx, r.Study, r.Site, auth.ResponseRead); err != nil {
		return View{}, err
	}
	body, err := s.open(ctx, &r.Record)
	if err != nil {
		return View{}, err
	}
	scores, err := s.scored(ctx, &r, body)
	if err != nil {
		return View{}, err
	}
	numbers, err := s.Participants.Numbers(ctx, []int64{r.Participant})
	return View{Response: r, Number: numbers[r.Participant], Body: body, Scores: scores}, err
}

// Quarantined returns one page of what waits for a person, newest first.
func (s *Service) Quarantined(ctx context.Context, f Filter) ([]Quarantine, error) {
	if err := s.narrow(ctx, &f, auth.QuarantineRead); err != nil {
		return nil, err
	}
	return s.Store.Quarantined(ctx, f)
}

// scores opens a stored response where its questionnaire declares scores.
func (s *Service) scores(ctx context.Context, r *Response) ([]questionnaire.Score, error) {
	d, err := s.Definitions.Definition(ctx, r.Study, r.Questionnaire+"|"+r.Version)
	if err != nil || len(d.ScoreRules()) == 0 {
		return nil, err
	}
	body, err := s.open(ctx, &r.Record)
	if err != nil {
		return nil, err
	}
	return s.scored(ctx, r, body)
}

// scored computes the scores of a stored response from its body: they are never kept apart from the answers, so they cannot differ.
func (s *Service) scored(ctx context.Context, r *Response, body []byte) ([]questionnaire.Score, error) {
	d, err := s.Definitions.Definition(ctx, r.Study, r.Questionnaire+"|"+r.Version)
	if err != nil || len(d.ScoreRules()) == 0 {
		return nil, err
	}
	parsed, err := questionnaire.ParseResponse(body)
	if err != nil {
		return nil, fmt.Errorf("stored response %d: %w", r.ID, err)
	}
	return d.Scores(parsed), nil
}

func (s *Service) narrow(ctx context.Context, f *Filter, a auth.Action) error {
	sites, all, err := s.Guard.Sites(ctx, f.Study, a)
	if !all {
		f.Sites = sites
	}
	return err
}

func (s *Service) open(ctx context.Context, r *Record) ([]byte, error) {
	key := s.Intake
	if r.Key == KeyParticipant {
		var err error
		if key, err = s.Participants.Key(ctx, r.Participant); err != nil {
			return nil, err
		}
	}
	body, err := r.Open(key)
	if err == nil && !json.Valid(body) {
		err = errors.New("stored response is not JSON")
	}
	return body, err
}

// Timestamp is how instants are written in JSON: RFC 3339 in UTC with microseconds as needed.
func Timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.999999Z07:00") }
