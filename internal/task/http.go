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
	State         string    `json:"state" enum:"scheduled,open,completed,missed,cancelled,excused,unused"`
	Questionnaire reference `json:"questionnaire"`
	OpensAt       time.Time `json:"opensAt"`
	DueAt         time.Time `json:"dueAt"`
	ClosesAt      time.Time `json:"closesAt"`
	GraceUntil    time.Time `json:"graceUntil" doc:"an answer received by then counts, as late"`
	OfflineUntil  time.Time `json:"offlineUntil,omitzero" doc:"an answer given inside the window and received by then counts as in time"`
	Optional      bool      `json:"optional,omitempty" doc:"can be answered and need not be"`
	Zone          string    `json:"zone" doc:"IANA name"`
	CompletedAt   time.Time `json:"completedAt,omitzero" doc:"when the server received the answer"`
	CapturedAt    time.Time `json:"capturedAt,omitzero" doc:"when it was given, by the device's clock"`
	Late          bool      `json:"late,omitempty"`
}

func viewOf(l Listed) view {
	url, version := SplitCanonical(l.Questionnaire)
	v := view{ID: web.ID(l.ID), Rule: l.Rule, Date: l.Date.String(), State: string(l.State), Questionnaire: reference{web.ID(l.QuestionnaireID), url, version},
		OpensAt: l.OpensAt, DueAt: l.DueAt, ClosesAt: l.ClosesAt, GraceUntil: l.GraceUntil, Zone: l.Zone, CompletedAt: l.Done.ReceivedAt, CapturedAt: l.Done.CapturedAt, Late: l.Done.Late,
		Optional: l.Optional}
	if l.OfflineUntil.After(l.ClosesAt) {
		v.OfflineUntil = l.OfflineUntil
	}
	return v
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

type nearView struct {
	Event string `json:"event" doc:"the event that the rule counts from"`
	Date  string `json:"date,omitempty" format:"date"`
}

type ruleView struct {
	Rule          string   `json:"rule"`
	Version       int64    `json:"scheduleVersion" doc:"of the schedule that the rule is read from"`
	Questionnaire string   `json:"questionnaire" doc:"as the rule names it"`
	Due           bool     `json:"due"`
	Reason        string   `json:"reason" enum:"due,other_arm,no_anchor,before_first,after_last,between_repeats,other_weekday,left_study,recorded_later"`
	Detail        string   `json:"detail" doc:"the reason, for people"`
	Anchor        nearView `json:"anchor"`
	First         string   `json:"firstDay,omitempty" format:"date"`
	Last          string   `json:"lastDay,omitempty" format:"date" doc:"last possible day"`
	Previous      string   `json:"previous,omitempty" format:"date" doc:"nearest due date before"`
	Next          string   `json:"next,omitempty" format:"date" doc:"nearest due date after"`
	ZoneReason    string   `json:"zoneReason,omitempty" doc:"why the windows are in their zone, of a participant who has moved"`
	Tasks         []view   `json:"tasks"`
}

type explainOutput struct {
	Body struct {
		Date            string     `json:"date" format:"date"`
		ScheduleVersion int64      `json:"scheduleVersion"`
		Rules           []ruleView `json:"rules"`
	}
}

func explained(date Date, x Explained) *explainOutput {
	out := &explainOutput{}
	out.Body.Date, out.Body.ScheduleVersion, out.Body.Rules = date.String(), x.ScheduleVersion, make([]ruleView, 0, len(x.Rules))
	day := func(d Date) string {
		if d == (Date{}) {
			return ""
		}
		return d.String()
	}
	for i := range x.Rules {
		r := &x.Rules[i]
		v := ruleView{Rule: r.Rule.ID, Version: r.Version, Questionnaire: r.Rule.Questionnaire, Due: r.Why == WhyDue, Reason: r.Why, Detail: r.Detail,
			Anchor: nearView{r.Rule.Anchor, day(r.Anchor)}, First: day(r.First), Last: day(r.Last), Previous: day(r.Previous), Next: day(r.Next),
			ZoneReason: r.ZoneReason, Tasks: make([]view, 0, len(r.Tasks))}
		for _, t := range r.Tasks {
			v.Tasks = append(v.Tasks, viewOf(x.Listed[t.ID]))
		}
		out.Body.Rules = append(out.Body.Rules, v)
	}
	return out
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
	s.staffRoutes(api)
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
	web.Register(api, huma.Operation{OperationID: "explain-tasks", Method: http.MethodGet, Path: "/api/v1/studies/{id}/participants/{pid}/tasks/explain",
		Summary: "Why each rule gives a participant a task on a date, or why not", Tags: []string{"tasks"}},
		func(ctx context.Context, in *struct {
			Study       web.ID `path:"id"`
			Participant web.ID `path:"pid"`
			Date        string `query:"date" required:"true" doc:"local date of the participant" example:"2026-11-23"`
		}) (*explainOutput, error) {
			date, err := ParseDate(in.Date)
			if err != nil {
				return nil, errs.InvalidParameter("date", "must be a date as YYYY-MM-DD")
			}
			x, err := s.Explain(ctx, int64(in.Study), int64(in.Participant), date)
			if err != nil {
				return nil, err
			}
			return explained(date, x), nil
		})
}
