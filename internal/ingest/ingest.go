// Package ingest decides when the door answers 202, 409, 422, 429 and 503, and what a 202 promises.
//
// A 202 means durable: every in-sync replica of the log has the record or, while the log is away, the participant's shard
// has it in the spool. Nothing else is awaited. The door checks what it can check without waiting for a store: the body
// against the compiled questionnaire version, and the task against the schedule computed in process. What only the
// stores know (another device completed the task a second ago) the processor decides later, and the receipt tells.
//
// A device that sends the same UUID again gets the same receipt as long as this process remembers it or, for answers that
// were not authored just now, as long as the shard answers; else it gets a 202 again and the processor keeps the first.
package ingest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/strictjson"
	"github.com/eprod/eprod/internal/submission"
)

// Config bounds the door.
type Config struct {
	MaxBodyBytes  int64         `koanf:"maxBodyBytes"`  // bytes of one submission; larger is 413 before it is read
	MaxInFlight   int           `koanf:"maxInFlight"`   // submissions inside the server at once; more is 503 before the body is read
	SpoolTimeout  time.Duration `koanf:"spoolTimeout"`  // least wait for the spool before answering 503; what is left of the request is used as well
	LookupTimeout time.Duration `koanf:"lookupTimeout"` // wait for a participant's profile or an earlier receipt
	MaxSkew       time.Duration `koanf:"maxSkew"`       // how far in the future "authored" may lie
	Fresh         time.Duration `koanf:"fresh"`         // answers authored longer ago are looked up as possible retries
	Remembered    int           `koanf:"remembered"`    // receipts and tasks remembered in process
	RelayInterval time.Duration `koanf:"relayInterval"` // how often the spools are looked at
	RelayBatch    int           `koanf:"relayBatch"`    // spooled records relayed in one transaction

	// Breaker guards the log. Its callTimeout is how long a submission waits for the acknowledgement before it is spooled.
	Breaker limit.BreakerConfig `koanf:"breaker"`
}

// DefaultConfig returns settings that hold the three-second bound of a request.
func DefaultConfig() Config {
	breaker := limit.DefaultBreakerConfig()
	breaker.CallTimeout = time.Second
	breaker.OpenFor = time.Second
	return Config{
		MaxBodyBytes: 256 << 10, MaxInFlight: 2048, SpoolTimeout: time.Second,
		LookupTimeout: 300 * time.Millisecond, MaxSkew: 10 * time.Minute, Fresh: 10 * time.Second,
		Remembered: 100_000, RelayInterval: time.Second, RelayBatch: 100, Breaker: breaker,
	}
}

// Validate names every setting that cannot work.
func (c Config) Validate() error {
	var problems []error
	positive := func(key string, ok bool, value any) {
		if !ok {
			problems = append(problems, fmt.Errorf("%s: %v: must be greater than zero", key, value))
		}
	}
	positive("maxBodyBytes", c.MaxBodyBytes > 0, c.MaxBodyBytes)
	positive("maxInFlight", c.MaxInFlight > 0, c.MaxInFlight)
	positive("spoolTimeout", c.SpoolTimeout > 0, c.SpoolTimeout)
	positive("lookupTimeout", c.LookupTimeout > 0, c.LookupTimeout)
	positive("remembered", c.Remembered > 0, c.Remembered)
	positive("relayInterval", c.RelayInterval > 0, c.RelayInterval)
	positive("relayBatch", c.RelayBatch > 0, c.RelayBatch)
	if err := c.Breaker.Validate(); err != nil {
		problems = append(problems, fmt.Errorf("breaker: %w", err))
	}
	if sum := c.Breaker.CallTimeout + c.SpoolTimeout + 2*c.LookupTimeout; sum > 3*time.Second {
		problems = append(problems, fmt.Errorf("breaker.callTimeout + spoolTimeout + 2 x lookupTimeout: %v: must not exceed 3s, the longest a request may last", sum))
	}
	return errors.Join(problems...)
}

// envelope is a decoded request: {"task": "…", "response": {…}}.
type envelope struct {
	task       int64
	raw        []byte // the response member, exactly as received; part of the request body
	sum        [32]byte
	response   *questionnaire.Response
	submission uuid.UUID
}

// decode reads a request body strictly: one JSON object, known members only, each once, valid UTF-8 throughout. It refuses
// with errs.Invalid what is not JSON of that shape and with errs.Unprocessable what is not a QuestionnaireResponse.
func decode(body []byte) (envelope, error) {
	var e envelope
	var in strictjson.Reader
	in.Reset(string(body)) // the response outlives the body, which is read into the same memory again
	if in.Peek() != '{' {
		in.Fail(errs.InvalidJSON("the body must be a JSON object with the members task and response"))
	}
	for in.Enter('{'); in.More(); {
		switch member := in.Name(); member {
		case "task":
			e.readTask(&in)
		case "response":
			in.Peek()
			start := in.Offset()
			e.response = questionnaire.ReadResponse(&in)
			e.raw = body[start:in.Offset()]
		default:
			in.Fail(errs.UnknownMember(strconv.QuoteToASCII(member)))
		}
	}
	if err := in.End(); err != nil {
		return envelope{}, err
	}
	if e.task == 0 {
		return envelope{}, missing("task", "the id of the task that is answered, as a string")
	}
	if e.raw == nil {
		return envelope{}, missing("response", "a FHIR QuestionnaireResponse")
	}
	var err error
	if e.submission, err = submission.ParseUUID(e.response.Identifier); err != nil {
		return envelope{}, err
	}
	e.sum = sha256.Sum256(e.raw)
	return e, nil
}

func (e *envelope) readTask(in *strictjson.Reader) {
	if text, ok := in.String(); ok {
		if id, err := strconv.ParseInt(text, 10, 64); err == nil && id > 0 {
			e.task = id
			return
		}
	}
	in.Fail(errs.InvalidField(errs.Finding{Pointer: "/task", Code: "invalid_id", Detail: "task must be an id: decimal digits in a JSON string"}))
}

func missing(member, what string) error {
	return errs.InvalidField(errs.Finding{Pointer: "/" + member, Code: "missing", Detail: member + " is required: " + what})
}
