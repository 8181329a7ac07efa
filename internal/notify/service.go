package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/trace"
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

// Gate is asked right before a message is given to a gateway whether it is still wanted.
type Gate interface {
	Wanted(ctx context.Context, d Delivery) (bool, error)
}

// ServiceParts are what the service needs. All but Gate are required.
type ServiceParts struct {
	Deliveries Deliveries
	Shards     *db.Shards
	People     People
	Guard      auth.Guard
	Gate       Gate     // nil: every message is wanted
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
	routes  map[Channel][]*gate
	inline  chan struct{} // one token per call on behalf of a request
	calls   sync.WaitGroup
	closing sync.RWMutex // read-held while a call begins; closed is then final
	closed  bool

	claiming sync.Mutex // one message at a time claims what a gateway found by its words
}

// gate is a sender behind its breaker and rate.
type gate struct {
	Sender
	reporter Reporter // nil: it cannot be asked
	breaker  *limit.Breaker
	rate     *limit.Buckets
}

// NewService returns the service. Run must run in every process that sends.
func NewService(config Config, parts ServiceParts) *Service {
	s := &Service{ServiceParts: parts, config: config, routes: make(map[Channel][]*gate), inline: make(chan struct{}, config.Inline)}
	for _, sender := range parts.Senders {
		channel := sender.Channel()
		reporter, _ := sender.(Reporter)
		announce := limit.Announce(channel.code(sender.Name()), parts.Gauge, parts.Logger)
		s.routes[channel] = append(s.routes[channel], &gate{sender, reporter, limit.NewBreaker("the message gateway", config.Breaker, announce),
			limit.NewBuckets(config.Rate, config.Burst, 16, parts.Now)})
	}
	return s
}

// gate returns the named sender's, or nil.
func (s *Service) gate(name string) *gate {
	for _, routes := range s.routes {
		for _, g := range routes {
			if g.Name() == name {
				return g
			}
		}
	}
	return nil
}

// Request is a wish to send.
type Request struct {
	Study, Participant int64
	Purpose            string  // at most 128 bytes: the same purpose again sends nothing
	Channel            Channel // empty: SMS
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

// Send writes the wish down, then tries at once, for as long as a request may wait; whatever is open then goes on without the caller.
// The same purpose again returns the first message. It fails only where the message is wrong in itself, nothing could be written
// down, or no gateway of the channel is set up.
func (s *Service) Send(ctx context.Context, r Request) (Status, error) {
	kept, fresh, err := s.keep(ctx, r, s.config.Lease)
	if err != nil || !fresh {
		return kept.status(), err
	}
	outcome := make(chan Delivery, 1)
	if !s.begin(func() { outcome <- s.deliver(context.WithoutCancel(ctx), kept, nil) }) {
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

// Queue only writes the wish down; a worker sends it, at once if it is idle. The same purpose again returns the first message, and fresh is
// false. It fails as Send does.
func (s *Service) Queue(ctx context.Context, r Request) (status Status, fresh bool, err error) {
	kept, fresh, err := s.keep(ctx, r, 0)
	return kept.status(), fresh, err
}

// keep writes a message down that is nobody's but the caller's for a time, and then the worker's.
func (s *Service) keep(ctx context.Context, r Request, mine time.Duration) (kept Delivery, fresh bool, err error) {
	d, err := s.write(ctx, r)
	if err != nil {
		return Delivery{}, false, err
	}
	d.NextAt = d.CreatedAt.Add(mine)
	return s.Deliveries.Add(ctx, d)
}

func (s *Service) write(ctx context.Context, r Request) (Delivery, error) {
	if r.Purpose == "" || len(r.Purpose) > 128 {
		return Delivery{}, errs.InvalidField(errs.Finding{Pointer: "/purpose", Code: "invalid_purpose", Detail: "must have 1 to 128 bytes"})
	}
	if r.Channel == "" {
		r.Channel = SMS
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
	if err := s.Templates.Check(Message{ID: ids[0], Channel: r.Channel, To: r.To, Template: r.Template, Language: r.Language, Params: r.Params}); err != nil {
		return Delivery{}, err
	}
	if len(s.routes[r.Channel]) == 0 {
		return Delivery{}, errNoSender(r.Channel)
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
	return Delivery{ID: ids[0], Study: r.Study, Participant: r.Participant, Purpose: r.Purpose, Channel: r.Channel, Template: r.Template, Language: r.Language, Sealed: sealed,
		State: Waiting, NextAt: now.Add(s.config.Lease), CreatedAt: now, UpdatedAt: now, Trace: trace.Header(ctx)}, err
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
