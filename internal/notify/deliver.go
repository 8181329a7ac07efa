package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/trace"
)

// deliver asks the senders of the channel in order until one has taken the message, or may have. Each call is written down before it.
// A message for which no sender may be asked yet waits here until patience is over; without patience (nil) it waits in the database.
func (s *Service) deliver(ctx context.Context, d Delivery, patience <-chan struct{}) Delivery {
	ctx, span := trace.Start(ctx, "send message", trace.Client)
	if !span.On() {
		ctx, span = trace.Continue(ctx, "send message", trace.Client, d.Trace)
	}
	d = s.try(ctx, d, patience)
	if span.On() {
		span.Set(trace.String("messaging.system", d.Provider), trace.String("messaging.destination.name", string(d.Channel)),
			trace.String("messaging.message.id", strconv.FormatInt(d.ID, 10)), trace.String("eprod.message.state", string(d.State)))
		if d.State == Failed || d.State == Unknown {
			span.Fail(d.Code)
		}
		span.End(nil)
	}
	return d
}

func (s *Service) try(ctx context.Context, d Delivery, patience <-chan struct{}) Delivery {
	routes := s.routes[d.Channel]
	free := turn(ctx, routes, patience)
	if still, err := s.wanted(ctx, d); err != nil || !still {
		return s.unwanted(ctx, d, err)
	}
	message, err := s.message(ctx, d)
	if err != nil {
		s.Logger.WarnContext(ctx, "a message waits: it cannot be opened now", "message", d.ID, "error", err)
		return d
	}
	asked, refused := 0, 0
	for i, g := range routes[free:] {
		if i > 0 {
			if ok, _ := g.rate.Allow(ctx, ""); !ok {
				continue
			}
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
		d = d.called(reference, err, s.instant(), s.config, g.reporter != nil)
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
	case len(routes) == 0: // until the settings have one again
		d.Code, d.NextAt, d.UpdatedAt = d.Channel.code("not_configured"), s.instant().Add(s.config.RetryMax), s.instant()
	case refused == len(routes): // every gateway refuses this address or text: the next day they will, too
		d.State, d.UpdatedAt = Failed, s.instant()
	case asked == 0:
		d.Code, d.NextAt, d.UpdatedAt = d.Channel.code("throttled"), s.instant().Add(s.config.RetryMin), s.instant()
	default:
		return d
	}
	if !s.change(ctx, was, d) {
		return was
	}
	return d
}

// turn takes a token of the first sender that has one and returns its place; that of none is behind the last.
func turn(ctx context.Context, routes []*gate, patience <-chan struct{}) int {
	for len(routes) > 0 {
		soonest := time.Minute
		for i, g := range routes {
			ok, again := g.rate.Allow(ctx, "")
			if ok {
				return i
			}
			soonest = min(soonest, again)
		}
		if patience == nil {
			break
		}
		select {
		case <-patience:
			return len(routes)
		case <-time.After(soonest):
		}
	}
	return len(routes)
}

func (s *Service) wanted(ctx context.Context, d Delivery) (bool, error) {
	if s.Gate == nil {
		return true, nil
	}
	return s.Gate.Wanted(ctx, d)
}

// unwanted gives a message up that nobody wants any more; one of which that could not be found out waits.
func (s *Service) unwanted(ctx context.Context, d Delivery, err error) Delivery {
	was := d
	if err != nil {
		s.Logger.WarnContext(ctx, "a message waits: whether it is still wanted cannot be found out now", "message", d.ID, "error", err)
		return d
	}
	d.State, d.Code, d.UpdatedAt = Gone, "not_wanted", s.instant()
	s.Meter.Message("", "not_wanted")
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
		s.Logger.WarnContext(ctx, "a message gateway did not take a message", "message", d.ID, "provider", provider, "state", string(d.State), "code", d.Code, "error", err)
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
	return Message{ID: d.ID, Channel: d.Channel, To: c.To, Template: d.Template, Language: d.Language, Params: c.Params}, nil
}

func (s *Service) change(ctx context.Context, was, is Delivery) bool {
	ok, err := s.Deliveries.Change(ctx, was, is)
	if err != nil {
		s.Logger.WarnContext(ctx, "the state of a message could not be written", "message", is.ID, "state", string(is.State), "error", err)
	}
	return ok && err == nil
}
