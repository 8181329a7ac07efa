package task

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/web"
)

type reference struct {
	ID      web.ID `json:"id"`
	URL     string `json:"url"`
	Version string `json:"version"`
}

type view struct {
	ID            web.ID    `json:"id"`
	Rule          string    `json:"rule"`
	Date          string    `json:"date" format:"date"`
	State         string    `json:"state" enum:"scheduled,open,completed,missed"`
	Questionnaire reference `json:"questionnaire"`
	OpensAt       time.Time `json:"opensAt"`
	DueAt         time.Time `json:"dueAt"`
	ClosesAt      time.Time `json:"closesAt"`
	GraceUntil    time.Time `json:"graceUntil" doc:"an answer received by then counts, as late"`
	Zone          string    `json:"zone" doc:"IANA name"`
	CompletedAt   time.Time `json:"completedAt,omitzero"`
	Late          bool      `json:"late,omitempty"`
}

func viewOf(l Listed) view {
	url, version := SplitCanonical(l.Questionnaire)
	return view{ID: web.ID(l.ID), Rule: l.Rule, Date: l.Date.String(), State: string(l.State), Questionnaire: reference{web.ID(l.QuestionnaireID), url, version},
		OpensAt: l.OpensAt, DueAt: l.DueAt, ClosesAt: l.ClosesAt, GraceUntil: l.GraceUntil, Zone: l.Zone, CompletedAt: l.Done.CompletedAt, Late: l.Done.Late}
}

// ListInput is the part of a request that chooses tasks. It is exported because huma fills only exported fields of an input.
type ListInput struct {
	From   time.Time `query:"from" doc:"default: a week ago"`
	To     time.Time `query:"to" doc:"default: two weeks after from"`
	Limit  int       `query:"limit" minimum:"1" maximum:"1000" default:"200"`
	Cursor string    `query:"cursor"`
}

type listOutput struct{ Body web.Page[view] }

// page cuts one page out of a list that is sorted by opening and id; the cursor names the last task of the page before.
func (in *ListInput) page(tasks []Listed) (*listOutput, error) {
	start := 0
	if in.Cursor != "" {
		opens, id, err := readCursor(in.Cursor)
		if err != nil {
			return nil, err
		}
		for start < len(tasks) {
			t := &tasks[start]
			if at := t.OpensAt.UnixMicro(); at > opens || at == opens && t.ID > id {
				break
			}
			start++
		}
	}
	rest := tasks[start:]
	out := &listOutput{Body: web.Page[view]{Items: make([]view, 0, min(len(rest), in.Limit))}}
	for _, t := range rest[:min(len(rest), in.Limit)] {
		out.Body.Items = append(out.Body.Items, viewOf(t))
	}
	if len(rest) > in.Limit {
		last := rest[in.Limit-1]
		next := fmt.Sprintf("%d.%d", last.OpensAt.UnixMicro(), last.ID)
		out.Body.NextCursor = &next
	}
	return out, nil
}

func readCursor(cursor string) (opens, id int64, err error) {
	a, b, ok := strings.Cut(cursor, ".")
	opens, errA := strconv.ParseInt(a, 10, 64)
	id, errB := strconv.ParseInt(b, 10, 64)
	if !ok || errA != nil || errB != nil {
		return 0, 0, errs.InvalidParameter("cursor", "must be a nextCursor that this list returned")
	}
	return opens, id, nil
}

// Routes registers the task lists.
func (s *Service) Routes(api huma.API) {
	web.Register(api, huma.Operation{OperationID: "list-my-tasks", Method: http.MethodGet, Path: "/api/v1/me/tasks",
		Summary: "The signed-in participant's tasks", Tags: []string{"tasks"}},
		func(ctx context.Context, in *ListInput) (*listOutput, error) {
			tasks, err := s.Mine(ctx, in.From, in.To)
			if err != nil {
				return nil, err
			}
			return in.page(tasks)
		})
	web.Register(api, huma.Operation{OperationID: "list-tasks", Method: http.MethodGet, Path: "/api/v1/studies/{id}/participants/{pid}/tasks",
		Summary: "A participant's tasks, for staff", Tags: []string{"tasks"}},
		func(ctx context.Context, in *struct {
			Study       web.ID `path:"id"`
			Participant web.ID `path:"pid"`
			ListInput
		}) (*listOutput, error) {
			tasks, err := s.Of(ctx, int64(in.Study), int64(in.Participant), in.From, in.To)
			if err != nil {
				return nil, err
			}
			return in.page(tasks)
		})
}
