// Package auth decides who is calling and who may do what.
//
// A caller proves itself with a short-lived access token that this package signs and verifies. The Principal inside travels
// in the context; use cases ask Participant, Staff or a Guard for it and refuse from there. Rights stand in one table of
// roles and actions (rights.go). A record that the caller may not see does not exist for it: 404, not 403.
//
// Sessions live in SQL and end there at once: a refresh token of an ended session is refused. Access tokens are not looked
// up per request, so a signed-out or withdrawn caller's last access token works until it expires, at most MaxTTL later.
package auth

import (
	"context"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// Kind says what sort of caller a principal is.
type Kind string

// The kinds of callers.
const (
	KindStaff       Kind = "staff"
	KindParticipant Kind = "participant"
	KindService     Kind = "service"
)

// Principal is a caller whose identity is proven.
type Principal struct {
	Kind    Kind
	ID      int64 // staff account or participant
	Study   int64 // of a participant; 0 for others
	Role    Role  // global role of staff and services; empty for participants
	Session int64
	Expires time.Time // end of the proof, UTC
}

type contextKey struct{}

// With returns a context that carries p.
func With(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, contextKey{}, p)
}

// From returns the caller, and false for an anonymous one.
func From(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(contextKey{}).(Principal)
	return p, ok
}

// Participant returns the calling participant: errs.Unauthenticated if nobody signed in, errs.Forbidden for anybody else.
func Participant(ctx context.Context) (Principal, error) {
	return require(ctx, KindParticipant, "only a participant may do this")
}

// Staff returns the calling staff member: errs.Unauthenticated if nobody signed in, errs.Forbidden for anybody else.
func Staff(ctx context.Context) (Principal, error) {
	return require(ctx, KindStaff, "only staff may do this")
}

func require(ctx context.Context, kind Kind, refusal string) (Principal, error) {
	p, ok := From(ctx)
	if !ok {
		return Principal{}, errs.NoCredentials("sign in and send the access token as Authorization: Bearer")
	}
	if p.Kind != kind {
		return Principal{}, errs.NotAllowed(refusal)
	}
	return p, nil
}
