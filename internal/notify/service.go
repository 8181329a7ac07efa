package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/limit"
)

// Deliveries keeps send rows; see Store for the promises.
type Deliveries interface {
	Add(ctx context.Context, d Delivery) (kept Delivery, fresh bool, err error)
	Change(ctx context.Context, was, is Delivery) (bool, error)
	Due(ctx context.Context, shard *db.DB, now, until time.Time, limit int) ([]Delivery, error)
	ByReceipt(ctx context.Context, r Receipt) (Delivery, error)
	Of(ctx context.Context, participant, before int64, limit int) ([]Delivery, error)
}

// People knows participants; errs.NotFound if there is no such one.
type People interface {
	Site(ctx context.Context, id int64) (study, site int64, err error)
	Key(ctx context.Context, id int64) (*keyring.DataKey, error)
	Language(ctx context.Context, id int64) (string, error)
}

// IDs gives ascending Snowflake ids.
type IDs interface {
	NextN(n int) ([]int64, error)
}

// Meter counts messages: outcome is a State, and refused where a sender certainly sent nothing.
type Meter interface {
	Message(provider, outcome string)
}

// ServiceParts are what the service needs. All are required.
type ServiceParts struct {
	Deliveries Deliveries
	Shards     *db.Shards
	People     People
	Guard      auth.Guard
	Senders    []Sender // in the order of asking; the settings' order
	Templates  *Templates
	IDs        IDs
	Now        func() time.Time
	Meter      Meter
	Gauge      limit.Gauge
	Logger     *slog.Logger
}

// Service sends messages. It is safe for concurrent use.
type Service struct {
	ServiceParts
	config  Config
	routes  []*gate
	inline  chan struct{} // one token per call on behalf of a request
	calls   sync.WaitGroup
	closing sync.RWMutex // read-held while a call begins; closed is then final
	closed  bool

	claiming sync.Mutex // one message at a time claims what a gateway found by its words
}

// gate is a sender behind its breaker and rate.
type gate struct {
	Sender
	breaker *limit.Breaker
	rate    *limit.Buckets
}

// NewService returns the service. Run must run in every process that sends.
func NewService(config Config, parts ServiceParts) *Service {
	s := &Service{ServiceParts: parts, config: config, inline: make(chan struct{}, config.Inline)}
	for _, sender := range parts.Senders {
		label := "sms_" + sender.Name()
		s.routes = append(s.routes, &gate{sender, limit.NewBreaker("the message gateway", config.Breaker, limit.Announce(label, parts.Gauge, parts.Logger)),
			limit.NewBuckets(config.Rate, config.Burst, 16, parts.Now)})
	}
	return s
}

// Request is a wish to send.
type Request struct {
	Study, Participant int64
	Purpose            string // at most 128 bytes: the same purpose again sends nothing
	Template           string
	Language           string // empty: the participant's
	To                 string
	Params             map[string]string
}

// Status is what a caller is told.
type Status struct {
	ID     int64
	State  State
	Detail string
}

// status never says more than whether somebody has to do anything.
func (d *Delivery) status() Status {
	s := Status{ID: d.ID, State: d.State}
	switch d.State {
	case Waiting, Sending, Unknown:
		s.Detail = "message is being sent, please wait"
	case Accepted:
		s.Detail = "the gateway has taken the message"
	case Delivered:
		s.Detail = "the message has arrived"
	case Failed:
		s.Detail = "the message could not be sent"
	case Gone:
		s.Detail = "the message was given up"
	}
	return s
}

func errNoSender() *errs.Error {
	return errs.New(errs.Unprocessable, "sms_not_configured", "no message gateway is set up: see notify in the settings")
}

// Send writes the wish down, then tries at once, for as long as a request may wait; whatever is open then goes on without the caller.
// The same purpose again returns the first message. It fails only where the message is wrong in itself, nothing could be written
// down, or no gateway is set up.
func (s *Service) Send(ctx context.Context, r Request) (Status, error) {
	if len(s.routes) == 0 {
		return Status{}, errNoSender()
	}
	d, err := s.write(ctx, r)
	if err != nil {
		return Status{}, err
	}
	kept, fresh, err := s.Deliveries.Add(ctx, d)
	if err != nil || !fresh {
		return kept.status(), err
	}
	outcome := make(chan Delivery, 1)
	if !s.begin(func() { outcome <- s.deliver(context.WithoutCancel(ctx), kept) }) {
		s.Logger.InfoContext(ctx, "a message waits: as many are being sent as may be", "message", kept.ID)
		was := kept
		kept.NextAt = s.instant() // for the worker
		s.change(ctx, was, kept)
		return kept.status(), nil
	}
	patience := time.NewTimer(s.config.InlineWait)
	defer patience.Stop()
	select {
	case d := <-outcome:
		return d.status(), nil
	case <-patience.C:
		s.Logger.InfoContext(ctx, "a message is being sent; its caller goes on", "message", kept.ID)
	case <-ctx.Done():
	}
	return kept.status(), nil
}

func (s *Service) write(ctx context.Context, r Request) (Delivery, error) {
	if r.Purpose == "" || len(r.Purpose) > 128 {
		return Delivery{}, errs.InvalidField(errs.Finding{Pointer: "/purpose", Code: "invalid_purpose", Detail: "must have 1 to 128 bytes"})
	}
	if r.Language == "" {
		language, err := s.People.Language(ctx, r.Participant)
		if err != nil {
			return Delivery{}, err
		}
		r.Language = language
	}
	ids, err := s.IDs.NextN(1)
	if err != nil {
		return Delivery{}, fmt.Errorf("id of a message: %w", err)
	}
	if err := s.Templates.Check(Message{ID: ids[0], To: r.To, Template: r.Template, Language: r.Language, Params: r.Params}); err != nil {
		return Delivery{}, err
	}
	key, err := s.People.Key(ctx, r.Participant)
	if err != nil {
		return Delivery{}, err
	}
	plain, err := json.Marshal(content{r.To, r.Params})
	if err != nil {
		return Delivery{}, fmt.Errorf("message: %w", err)
	}
	sealed, err := key.Seal(plain, place(r.Participant, ids[0]))
	now := s.instant()
	return Delivery{ID: ids[0], Study: r.Study, Participant: r.Participant, Purpose: r.Purpose, Template: r.Template, Language: r.Language, Sealed: sealed,
		State: Waiting, NextAt: now.Add(s.config.Lease), CreatedAt: now, UpdatedAt: now}, err
}

// place binds what is sealed to its row.
func place(participant, id int64) []byte {
	return fmt.Appendf(nil, "eprod/message/1/%d/%d", participant, id)
}

func (s *Service) instant() time.Time { return s.Now().UTC().Truncate(time.Microsecond) }

// begin runs a call that Run waits for, unless too many run or the process stops.
func (s *Service) begin(call func()) bool {
	s.closing.RLock()
	defer s.closing.RUnlock()
	if s.closed {
		return false
	}
	select {
	case s.inline <- struct{}{}:
	default:
		return false
	}
	s.calls.Go(func() {
		defer func() { <-s.inline }()
		call()
	})
	return true
}

// deliver asks the senders in order until one has taken the message, or may have. Each call is written down before it.
func (s *Service) deliver(ctx context.Context, d Delivery) Delivery {
	message, err := s.message(ctx, d)
	if err != nil {
		s.Logger.WarnContext(ctx, "a message waits: it cannot be opened now", "message", d.ID, "error", err)
		return d
	}
	asked, refused := 0, 0
	for _, g := range s.routes {
		if ok, _ := g.rate.Allow(ctx, ""); !ok {
			continue
		}
		was := d
		asked++
		d.State, d.Provider, d.Reference, d.Attempts, d.SentAt, d.UpdatedAt = Sending, g.Name(), "", was.Attempts+1, s.instant(), s.instant()
		d.NextAt = d.SentAt.Add(s.config.Lease)
		if !s.change(ctx, was, d) {
			return was
		}
		var reference string
		err := g.breaker.Do(ctx, func(ctx context.Context) (err error) {
			reference, err = g.Send(ctx, message)
			return err
		})
		sending := d
		d = d.called(reference, err, s.instant(), s.config)
		s.tell(ctx, g.Name(), d, err)
		if !s.change(ctx, sending, d) {
			return sending // a receipt was faster, or the database is away: then the worker asks the gateway
		}
		if d.State != Waiting {
			return d
		}
		if errs.KindOf(err) == errs.Unprocessable {
			refused++
		}
	}
	was := d
	switch {
	case refused == len(s.routes): // every gateway refuses this number or text: the next day they will, too
		d.State, d.UpdatedAt = Failed, s.instant()
	case asked == 0:
		d.Code, d.NextAt, d.UpdatedAt = "sms_throttled", s.instant().Add(s.config.RetryMin), s.instant()
	default:
		return d
	}
	if !s.change(ctx, was, d) {
		return was
	}
	return d
}

func (s *Service) tell(ctx context.Context, provider string, d Delivery, err error) {
	outcome := string(d.State)
	if d.State == Waiting {
		outcome = "refused"
	}
	s.Meter.Message(provider, outcome)
	if err != nil {
		s.Logger.WarnContext(ctx, "a message gateway did not take a message", "message", d.ID, "provider", provider, "state", string(d.State), "code", d.Code)
	}
}

func (s *Service) message(ctx context.Context, d Delivery) (Message, error) {
	key, err := s.People.Key(ctx, d.Participant)
	if err != nil {
		return Message{}, err
	}
	plain, err := key.Open(d.Sealed, place(d.Participant, d.ID))
	if err != nil {
		return Message{}, err
	}
	var c content
	if err := json.Unmarshal(plain, &c); err != nil {
		return Message{}, fmt.Errorf("message %d: %w", d.ID, err)
	}
	return Message{ID: d.ID, To: c.To, Template: d.Template, Language: d.Language, Params: c.Params}, nil
}

func (s *Service) change(ctx context.Context, was, is Delivery) bool {
	ok, err := s.Deliveries.Change(ctx, was, is)
	if err != nil {
		s.Logger.WarnContext(ctx, "the state of a message could not be written", "message", is.ID, "state", string(is.State), "error", err)
	}
	return ok && err == nil
}

// Receive verifies a gateway's delivery callback and settles what it reports. Receipts that come twice, late or in any order change
// nothing that is final. A receipt of no message of ours is passed over.
func (s *Service) Receive(ctx context.Context, provider string, r *http.Request, body []byte) error {
	for _, g := range s.routes {
		if g.Name() != provider {
			continue
		}
		receipts, err := g.Receipts(r, body)
		if err != nil {
			return err
		}
		for _, receipt := range receipts {
			if err := s.settle(ctx, receipt); err != nil && errs.KindOf(err) != errs.NotFound {
				return err
			}
		}
		return nil
	}
	return errs.Absent("gateway")
}

// settle applies a receipt, again when somebody else changed the row meanwhile.
func (s *Service) settle(ctx context.Context, r Receipt) error {
	for range 5 {
		d, err := s.Deliveries.ByReceipt(ctx, r)
		if err != nil {
			return err
		}
		next, changed := d.told(r, s.instant())
		if !changed {
			return nil
		}
		ok, err := s.Deliveries.Change(ctx, d, next)
		if err != nil {
			return err
		}
		if ok {
			s.Meter.Message(r.Provider, string(next.State))
			return nil
		}
	}
	return errs.Away("the message", nil)
}

// Messages lists a participant's messages for staff: states, never numbers.
func (s *Service) Messages(ctx context.Context, study, participant, before int64, limit int) ([]Delivery, error) {
	if err := s.Guard.Participant(ctx, s.People, study, participant, auth.ParticipantRead); err != nil {
		return nil, err
	}
	return s.Deliveries.Of(ctx, participant, before, limit)
}

// SendTo sends on behalf of staff who may change the participant.
func (s *Service) SendTo(ctx context.Context, r Request) (Status, error) {
	if err := s.Guard.Participant(ctx, s.People, r.Study, r.Participant, auth.ParticipantUpdate); err != nil {
		return Status{}, err
	}
	return s.Send(ctx, r)
}
