package notify

import (
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// The states of a send row beside those that gateways report.
const (
	Waiting State = "waiting" // no call is under way; it will be sent
	Sending State = "sending" // a call may be under way: the row was written before it
	Gone    State = "gone"    // given up: too old to be of use, or nobody could say what became of it
)

// Delivery is one message to one participant, from the wish to its end. Treat it as immutable.
type Delivery struct {
	ID, Study, Participant int64
	Purpose                string // what it is for; one message for each participant and purpose
	Channel                Channel
	Template, Language     string
	Sealed                 []byte // address and parameters, see content
	State                  State
	Provider, Reference    string // of the last call
	Code                   string // the gateway's word for the outcome
	Attempts               int
	SentAt                 time.Time // of the last call; zero before it
	NextAt                 time.Time // when somebody must look at it again; for Sending and Unknown, no sooner
	CreatedAt, UpdatedAt   time.Time
	Trace                  string // W3C traceparent of what wished for it; may be empty
}

// content is what is sealed of a delivery: addresses and parameters are personal data.
type content struct {
	To     string            `json:"to"`
	Params map[string]string `json:"params,omitempty"`
}

// told applies what a gateway reports. A final state stays, and a message that was delivered is not accepted again.
func (d Delivery) told(r Receipt, at time.Time) (Delivery, bool) {
	if d.State.Final() || d.State == Waiting || r.State == Unknown || r.State == Accepted && d.State == Accepted && (r.Reference == "" || r.Reference == d.Reference) {
		return d, false
	}
	d.State, d.UpdatedAt, d.Code = r.State, at, r.Code
	if r.Reference != "" {
		d.Reference = r.Reference
	}
	return d, true
}

// never is when somebody must look again at what nobody will hear of again.
func never(at time.Time) time.Time { return at.AddDate(100, 0, 0) }

// called applies the outcome of one call to a sender. Where the gateway reports nothing, what it took or may have taken is final.
func (d Delivery) called(reference string, err error, at time.Time, c Config, reports bool) Delivery {
	d.UpdatedAt = at
	ask := at.Add(c.AskAfter)
	if !reports {
		ask = never(at)
	}
	switch {
	case err == nil:
		d.State, d.Reference, d.Code, d.NextAt = Accepted, reference, "", ask
	case Undeliverable(err):
		d.State, d.Code = Failed, codeOfError(err)
	case Unsent(err):
		d.State, d.Code, d.NextAt = Waiting, codeOfError(err), at.Add(c.pause(d.Attempts))
	default: // it may have been sent: only a receipt or a query tells, never another call
		d.State, d.Code, d.NextAt = Unknown, codeOfError(err), ask
	}
	return d
}

func codeOfError(err error) string {
	if e, ok := errs.As(err); ok {
		return e.Code
	}
	return "internal"
}

// pause is how long a message waits after so many attempts that sent nothing.
func (c Config) pause(attempts int) time.Duration {
	p := c.RetryMin
	for range min(attempts, 20) {
		if p *= 2; p >= c.RetryMax {
			return c.RetryMax
		}
	}
	return p
}
