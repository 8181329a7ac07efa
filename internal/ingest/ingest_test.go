package ingest

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/submission"
)

const goodResponse = `{"resourceType":"QuestionnaireResponse","identifier":{"value":"6f1c3a5e-8d6e-4b62-9c5c-1a2b3c4d5e6f"},` +
	`"questionnaire":"https://example.org/q/x|1.0.0","status":"completed","authored":"2026-11-23T20:00:00+01:00","item":[]}`

func TestDecode(t *testing.T) {
	with := func(old, new string) string {
		return strings.Replace(`{"task":"42","response":`+goodResponse+`}`, old, new, 1)
	}
	cases := []struct{ name, body, code string }{
		{"Good", with("", ""), ""},
		{"MembersSwapped", `{"response":` + goodResponse + `,"task":"42"}`, ""},
		{"Spaces", " \n" + with(`"task":`, ` "task" : `) + " \r\n", ""},
		{"Empty", "", "invalid_json"},
		{"NotAnObject", `[]`, "invalid_json"},
		{"Cut", with("", "")[:80], "invalid_json"},
		{"Garbage", with("", "") + "x", "invalid_json"},
		{"SecondValue", with("", "") + "{}", "invalid_json"},
		{"TaskTwice", with(`"task":"42"`, `"task":"42","task":"42"`), "invalid_json"},
		{"DeepDuplicate", with(`"value":`, `"value":"x","value":`), "invalid_json"},
		{"BadUTF8", with("completed", "compl\xffeted"), "invalid_json"},
		{"UnknownMember", with(`"task"`, `"x":1,"task"`), "unknown_member"},
		{"NoTask", `{"response":` + goodResponse + `}`, "invalid_field"},
		{"NoResponse", `{"task":"42"}`, "invalid_field"},
		{"TaskIsNumber", with(`"42"`, `42`), "invalid_field"},
		{"TaskIsZero", with(`"42"`, `"0"`), "invalid_field"},
		{"NotAUUID", with("6f1c3a5e-8d6e-4b62-9c5c-1a2b3c4d5e6f", "one"), "invalid_response"},
		{"NilUUID", with("6f1c3a5e-8d6e-4b62-9c5c-1a2b3c4d5e6f", uuid.Nil.String()), "invalid_response"},
		{"Deep", `{"task":"42","response":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, "invalid_json"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			e, err := decode([]byte(c.body))
			if c.code == "" {
				if err != nil {
					t.Fatal(err)
				}
				if e.task != 42 || string(e.raw) != goodResponse {
					t.Errorf("task %d, response %q", e.task, e.raw)
				}
				return
			}
			refusal, ok := errs.As(err)
			if !ok || refusal.Code != c.code {
				t.Fatalf("got %v, want %s", err, c.code)
			}
			if strings.Contains(refusal.Detail, "6f1c3a5e") {
				t.Errorf("the refusal repeats the body: %s", refusal.Detail)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"task":"42","response":` + goodResponse + `}`))
	f.Add([]byte(`{"task":"42"`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := decode(body)
		if err == nil && (e.task <= 0 || len(e.raw) == 0 || e.submission == uuid.Nil) {
			t.Fatalf("accepted without task, response or UUID: %q", body)
		}
		if err != nil && errs.KindOf(err) == errs.Internal {
			t.Fatalf("a body must never be our failure: %v", err)
		}
	})
}

// TestRecentOneOwner: of many copies in flight one is taken and all get its receipt.
func TestRecentOneOwner(t *testing.T) {
	r, err := newRecent(10)
	if err != nil {
		t.Fatal(err)
	}
	id := submission.Identity{Participant: 1, Submission: uuid.UUID{1}}
	var owners, copies sync.Map
	var devices sync.WaitGroup
	for i := range 50 {
		devices.Go(func() {
			a, receipt, err := r.claim(t.Context(), id, [32]byte{1})
			if err != nil {
				t.Error(err)
				return
			}
			if a != nil {
				owners.Store(i, true)
				r.settle(a, id, submission.Receipt{ID: 99, Participant: 1, Task: 5}, true)
				return
			}
			copies.Store(i, receipt.ID)
		})
	}
	devices.Wait()
	count := func(m *sync.Map) (n int) { m.Range(func(_, _ any) bool { n++; return true }); return n }
	if count(&owners) != 1 || count(&copies) != 49 {
		t.Fatalf("%d owners and %d copies, want 1 and 49", count(&owners), count(&copies))
	}
	copies.Range(func(_, receipt any) bool {
		if receipt != int64(99) {
			t.Errorf("a copy got receipt %v, want 99", receipt)
		}
		return true
	})
	if by, ok := r.answered(1, 5); !ok || by != id.Submission {
		t.Errorf("task answered by %v, %v", by, ok)
	}
}

func TestRecentConflictAndFailure(t *testing.T) {
	r, err := newRecent(10)
	if err != nil {
		t.Fatal(err)
	}
	id := submission.Identity{Participant: 1, Submission: uuid.UUID{1}}
	a, _, err := r.claim(t.Context(), id, [32]byte{1})
	if err != nil || a == nil {
		t.Fatalf("first claim: %v %v", a, err)
	}
	r.settle(a, id, submission.Receipt{}, false)
	b, _, err := r.claim(t.Context(), id, [32]byte{2})
	if err != nil || b == nil {
		t.Fatalf("after a failed attempt another body must be free to claim: %v %v", b, err)
	}
	r.settle(b, id, submission.Receipt{ID: 1}, true)
	if _, _, err := r.claim(t.Context(), id, [32]byte{1}); !errors.Is(err, errConflict()) {
		t.Errorf("got %v, want submission_conflict", err)
	}
	if got, ok := r.receipt(id); !ok || got.ID != 1 {
		t.Errorf("receipt %+v %v", got, ok)
	}
}
