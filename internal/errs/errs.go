// Package errs decides what kinds of failure exist and what each means to a client.
//
// A package that refuses something returns an *Error made by New; everything that is not an *Error counts as Internal
// and its text never leaves the process. The one table from kind to HTTP status stands here.
package errs

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Kind classifies a failure by what the caller can do about it.
type Kind uint8

// The kinds. A new kind needs a row in the table of Status and in the test beside it.
const (
	Internal             Kind = iota // our fault; the text is for the log only
	Invalid                          // the request itself is malformed
	Unauthenticated                  // no or no valid credentials
	Forbidden                        // known, but not allowed
	NotFound                         // absent, or not visible to this caller
	Conflict                         // true now, may change: the state of the record forbids it
	Stale                            // the caller edited an old version
	TooLarge                         // more bytes than the limit
	UnsupportedMedia                 // a content type that we do not read
	Unprocessable                    // well formed, but it breaks a rule; Findings name each
	PreconditionRequired             // If-Match is missing
	RateLimited                      // too often; RetryAfter says when
	Overloaded                       // we are full; RetryAfter says when
	Unavailable                      // something we depend on is away; the outcome may be unknown
)

// Finding is one broken rule in a request, in the words of RFC 9457's "errors" extension.
type Finding struct {
	Pointer    string `json:"pointer,omitempty"`    // RFC 6901 pointer into the request body
	LinkID     string `json:"linkId,omitempty"`     // the questionnaire item, where there is one
	Expression string `json:"expression,omitempty"` // FHIRPath of the element
	Code       string `json:"code"`                 // stable snake_case word
	Detail     string `json:"detail"`               // what is wrong and what would be right; never holds an answer
}

// Error is a failure that says what it means. Its Code is stable and may be branched on; its Detail is for people and must
// hold neither internals nor personal data. It is immutable after New and the With methods, and safe to share.
type Error struct {
	Kind       Kind
	Code       string
	Detail     string
	Findings   []Finding
	Members    map[string]any // further problem+json members, such as the holder of a lock
	RetryAfter time.Duration  // for RateLimited, Overloaded and Unavailable
	cause      error
}

// New returns an error of the given kind. Code is the stable snake_case word of the API.
func New(kind Kind, code, detail string) *Error {
	return &Error{Kind: kind, Code: code, Detail: detail}
}

// Error returns detail and cause; it is meant for logs, not for clients.
func (e *Error) Error() string {
	if e.cause == nil {
		return e.Code + ": " + e.Detail
	}
	return e.Code + ": " + e.Detail + ": " + e.cause.Error()
}

// Unwrap returns the cause, so that errors.Is sees context.Canceled and driver errors.
func (e *Error) Unwrap() error { return e.cause }

// Is makes two errors with the same kind and code equal, so that a refusal declared once can be tested for with errors.Is
// after With methods have added to a copy.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Kind == e.Kind && t.Code == e.Code
}

// WithCause returns a copy that remembers why.
func (e *Error) WithCause(cause error) *Error { c := *e; c.cause = cause; return &c }

// WithDetail returns a copy with another text for people.
func (e *Error) WithDetail(detail string) *Error { c := *e; c.Detail = detail; return &c }

// WithFindings returns a copy that lists broken rules.
func (e *Error) WithFindings(f []Finding) *Error { c := *e; c.Findings = f; return &c }

// WithMembers returns a copy with further problem+json members.
func (e *Error) WithMembers(m map[string]any) *Error { c := *e; c.Members = m; return &c }

// WithRetryAfter returns a copy that tells the client when to come back; jitter is added at the door.
func (e *Error) WithRetryAfter(d time.Duration) *Error { c := *e; c.RetryAfter = d; return &c }

// As returns the *Error inside err, if there is one.
func As(err error) (*Error, bool) {
	var e *Error
	ok := errors.As(err, &e)
	return e, ok
}

// KindOf returns the kind of err: its own where it carries one, Unavailable where a deadline ran out, else Internal.
func KindOf(err error) Kind {
	if e, ok := As(err); ok {
		return e.Kind
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return Unavailable
	}
	return Internal
}

// Permanent reports whether repeating the same call can never succeed, because the input itself is refused.
func Permanent(err error) bool {
	switch KindOf(err) {
	case Invalid, Forbidden, NotFound, Conflict, Stale, TooLarge, UnsupportedMedia, Unprocessable, PreconditionRequired:
		return true
	default:
		return false
	}
}

// Status returns the HTTP status of a kind.
func Status(k Kind) int {
	switch k {
	case Invalid:
		return http.StatusBadRequest
	case Unauthenticated:
		return http.StatusUnauthorized
	case Forbidden:
		return http.StatusForbidden
	case NotFound:
		return http.StatusNotFound
	case Conflict:
		return http.StatusConflict
	case Stale:
		return http.StatusPreconditionFailed
	case TooLarge:
		return http.StatusRequestEntityTooLarge
	case UnsupportedMedia:
		return http.StatusUnsupportedMediaType
	case Unprocessable:
		return http.StatusUnprocessableEntity
	case PreconditionRequired:
		return http.StatusPreconditionRequired
	case RateLimited:
		return http.StatusTooManyRequests
	case Overloaded, Unavailable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}
