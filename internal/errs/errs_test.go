package errs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"
)

func TestStatusOfEveryKind(t *testing.T) {
	want := map[Kind]int{
		Internal: 500, Invalid: 400, Unauthenticated: 401, Forbidden: 403, NotFound: 404, Conflict: 409, Stale: 412, TooLarge: 413,
		UnsupportedMedia: 415, Unprocessable: 422, PreconditionRequired: 428, RateLimited: 429, Overloaded: 503, Unavailable: 503,
	}
	for kind := Internal; kind <= Unavailable; kind++ {
		if got, ok := want[kind]; !ok || Status(kind) != got || http.StatusText(got) == "" {
			t.Errorf("kind %d has status %d, want %d", kind, Status(kind), got)
		}
	}
	if Status(Kind(200)) != 500 {
		t.Error("an unknown kind must count as our failure")
	}
}

func TestKindSurvivesWrapping(t *testing.T) {
	cause := errors.New("driver")
	e := Away("the shard", cause)
	wrapped := fmt.Errorf("load: %w", fmt.Errorf("again: %w", e))
	if KindOf(wrapped) != Unavailable || !errors.Is(wrapped, cause) || Permanent(wrapped) {
		t.Errorf("%v lost its kind or its cause", wrapped)
	}
	if got, ok := As(wrapped); !ok || got.RetryAfter != 2*time.Second {
		t.Errorf("got %+v", got)
	}
	if KindOf(errors.New("plain")) != Internal || KindOf(context.DeadlineExceeded) != Unavailable {
		t.Error("errors without a kind count as internal, deadlines as unavailable")
	}
	for _, e := range []*Error{InvalidJSON("x"), Absent("x"), Exists("x"), InvalidField()} {
		if !Permanent(e) {
			t.Errorf("%v can never succeed by repeating", e)
		}
	}
}

func TestIsComparesKindAndCode(t *testing.T) {
	base := New(Conflict, "record_locked", "held")
	changed := base.WithDetail("other").WithMembers(map[string]any{"holder": "x"}).WithCause(errors.New("x")).WithRetryAfter(1).WithFindings([]Finding{{Code: "x"}})
	if !errors.Is(changed, base) || errors.Is(changed, New(Conflict, "stale", "")) {
		t.Error("a refusal must be recognised by kind and code")
	}
	if base.Detail != "held" || base.Members != nil || base.Findings != nil || base.RetryAfter != 0 || base.Unwrap() != nil {
		t.Errorf("the With methods changed their receiver: %+v", base)
	}
}
