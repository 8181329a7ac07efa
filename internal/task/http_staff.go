package task

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/web"
)

type adherenceInput struct {
	Study       web.ID `path:"id"`
	From        string `query:"from" doc:"local date of the participants; default: 30 days before to" example:"2026-11-01"`
	To          string `query:"to" doc:"local date, which counts; default: today (UTC)" example:"2026-11-30"`
	By          string `query:"by" enum:"study,site,participant,day,window" default:"study"`
	Participant web.ID `query:"participant" doc:"only this participant"`
	Limit       int    `query:"limit" minimum:"1" maximum:"5000" default:"1000"`
	Cursor      string `query:"cursor"`
}

type adherenceView struct {
	Site          web.ID  `json:"site,omitempty"`
	Participant   web.ID  `json:"participant,omitempty"`
	Number        string  `json:"number,omitempty"`
	Date          string  `json:"date,omitempty" format:"date"`
	Rule          string  `json:"rule,omitempty"`
	Window        *int    `json:"window,omitempty" doc:"of the rule, counted from 0"`
	Expected      int     `json:"expected" doc:"completed and missed"`
	Completed     int     `json:"completed"`
	CompletedLate int     `json:"completedLate" doc:"of those, in the grace"`
	Missed        int     `json:"missed"`
	Excused       int     `json:"excused" doc:"missed, and not expected any more"`
	Waiting       int     `json:"waiting" doc:"not over yet"`
	Rate          float64 `json:"rate" doc:"completed of expected, from 0 to 1"`
}

func adherenceViewOf(a *Adherence, by Grouping) adherenceView {
	v := adherenceView{Site: web.ID(a.Site), Participant: web.ID(a.Participant), Date: a.Date, Rule: a.Rule, Expected: a.Expected(), Completed: a.InTime + a.Late,
		CompletedLate: a.Late, Missed: a.Missed, Excused: a.Excused, Waiting: a.Waiting, Rate: a.Rate()}
	if by == ByWindow {
		v.Window = &a.Window
	}
	return v
}

type adherenceOutput struct {
	Body struct {
		From       string          `json:"from" format:"date"`
		To         string          `json:"to" format:"date"`
		By         string          `json:"by"`
		Total      adherenceView   `json:"total" doc:"of all pages"`
		Items      []adherenceView `json:"items"`
		NextCursor *string         `json:"nextCursor"`
	}
}

func (s *Service) adherence(ctx context.Context, in *adherenceInput) (*adherenceOutput, error) {
	q := Query{Study: int64(in.Study), Participant: int64(in.Participant), By: Grouping(in.By), To: dateOf(s.Now().UTC())}
	var err error
	if in.To != "" {
		if q.To, err = ParseDate(in.To); err != nil {
			return nil, errs.InvalidParameter("to", err.Error())
		}
	}
	q.From = q.To.AddDays(-30)
	if in.From != "" {
		if q.From, err = ParseDate(in.From); err != nil {
			return nil, errs.InvalidParameter("from", err.Error())
		}
	}
	after := 0
	if in.Cursor != "" {
		if after, err = strconv.Atoi(in.Cursor); err != nil || after < 0 {
			return nil, errs.InvalidParameter("cursor", "must be a nextCursor that this list returned")
		}
	}
	r, err := s.Adherence(ctx, q, after, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &adherenceOutput{}
	out.Body.From, out.Body.To, out.Body.By, out.Body.Total = q.From.String(), q.To.String(), in.By, adherenceViewOf(&r.Total, ByStudy)
	out.Body.Items = make([]adherenceView, len(r.Lines))
	var ids []int64
	for i := range r.Lines {
		out.Body.Items[i] = adherenceViewOf(&r.Lines[i], q.By)
		if q.By == ByParticipant {
			ids = append(ids, r.Lines[i].Participant)
		}
	}
	numbers, err := s.Numbers.Numbers(ctx, ids)
	if err != nil {
		return nil, err
	}
	for i := range out.Body.Items {
		out.Body.Items[i].Number = numbers[int64(out.Body.Items[i].Participant)]
	}
	if r.More {
		next := strconv.Itoa(after + in.Limit)
		out.Body.NextCursor = &next
	}
	return out, nil
}

type excuseInput struct {
	Study       web.ID `path:"id"`
	Participant web.ID `path:"pid"`
	Task        web.ID `path:"tid"`
	Body        struct {
		Reason string `json:"reason" doc:"kept in the audit trail" minLength:"1" maxLength:"500"`
	}
}

type newAmendment struct {
	Rules       []Rule    `json:"rules"`
	Policies    *Policies `json:"policies,omitempty"`
	Messages    *Messages `json:"messages,omitempty"`
	EffectiveAt time.Time `json:"effectiveAt,omitzero" required:"false" doc:"from when on it would apply; absent: from now on"`
}

type amendmentInput struct {
	Study  web.ID `path:"id"`
	Days   int    `query:"days" minimum:"1" maximum:"400" default:"90" doc:"how far to look ahead"`
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"participants"`
	Cursor web.ID `query:"cursor"`
	Body   newAmendment
}

type changedView struct {
	Task    web.ID    `json:"task"`
	Rule    string    `json:"rule"`
	Date    string    `json:"date" format:"date"`
	OpensAt time.Time `json:"opensAt"`
}

type amendedView struct {
	Participant web.ID        `json:"participant"`
	Number      string        `json:"number"`
	Kept        int           `json:"kept"`
	Moved       int           `json:"moved"`
	Created     int           `json:"created"`
	Cancelled   int           `json:"cancelled"`
	Changes     []changedView `json:"changes" doc:"the first of those that would be moved, created or cancelled, in that order"`
}

type amendmentOutput struct {
	Body struct {
		EffectiveAt time.Time     `json:"effectiveAt"`
		Until       time.Time     `json:"until" doc:"how far was looked ahead"`
		Kept        int           `json:"kept" doc:"of this page"`
		Moved       int           `json:"moved"`
		Created     int           `json:"created"`
		Cancelled   int           `json:"cancelled"`
		Items       []amendedView `json:"items"`
		NextCursor  *string       `json:"nextCursor"`
	}
}

const maxChanges = 20 // shown of one participant

func (s *Service) amendment(ctx context.Context, in *amendmentInput) (*amendmentOutput, error) {
	design := Design{Rules: in.Body.Rules, Policies: in.Body.Policies, Messages: in.Body.Messages}
	a, err := s.Amend(ctx, int64(in.Study), design, in.Body.EffectiveAt, in.Days, int64(in.Cursor), in.Limit)
	if err != nil {
		return nil, err
	}
	out := &amendmentOutput{}
	out.Body.EffectiveAt, out.Body.Until, out.Body.Items = a.EffectiveAt, a.Until, make([]amendedView, len(a.Participants))
	for i := range a.Participants {
		p := &a.Participants[i]
		v := amendedView{web.ID(p.Participant), p.Number, p.Kept, len(p.Moved), len(p.Created), len(p.Cancelled), []changedView{}}
		for _, list := range [][]Task{p.Moved, p.Created, p.Cancelled} {
			for _, t := range list[:min(len(list), maxChanges-len(v.Changes))] {
				v.Changes = append(v.Changes, changedView{web.ID(t.ID), t.Rule, t.Date.String(), t.OpensAt})
			}
		}
		out.Body.Items[i] = v
		out.Body.Kept, out.Body.Moved, out.Body.Created, out.Body.Cancelled = out.Body.Kept+v.Kept, out.Body.Moved+v.Moved, out.Body.Created+v.Created, out.Body.Cancelled+v.Cancelled
	}
	if a.More {
		next := strconv.FormatInt(a.Participants[len(a.Participants)-1].Participant, 10)
		out.Body.NextCursor = &next
	}
	return out, nil
}

func (s *Service) staffRoutes(api huma.API) {
	web.Register(api, huma.Operation{OperationID: "get-adherence", Method: http.MethodGet, Path: "/api/v1/studies/{id}/adherence",
		Summary: "How many tasks were completed, in time and late, missed and excused", Tags: []string{"tasks"}}, s.adherence)
	web.Register(api, huma.Operation{OperationID: "amend-schedule", Method: http.MethodPost, Path: "/api/v1/studies/{id}/schedule/amendment",
		Summary: "Dry run of a new version of the schedule: what it would do to each participant", Tags: []string{"tasks"}}, s.amendment)
	path := "/api/v1/studies/{id}/participants/{pid}/tasks/{tid}/excusal"
	web.Register(api, huma.Operation{OperationID: "excuse-task", Method: http.MethodPut, Path: path, DefaultStatus: http.StatusNoContent,
		Summary: "Say that a task which was not answered does not count against the participant", Tags: []string{"tasks"}},
		func(ctx context.Context, in *excuseInput) (*struct{}, error) {
			return nil, s.Excuse(ctx, int64(in.Study), int64(in.Participant), int64(in.Task), true, in.Body.Reason, web.RequestID(ctx))
		})
	web.Register(api, huma.Operation{OperationID: "unexcuse-task", Method: http.MethodPost, Path: path + "/withdraw", DefaultStatus: http.StatusNoContent,
		Summary: "Take an excusal back", Tags: []string{"tasks"}},
		func(ctx context.Context, in *excuseInput) (*struct{}, error) {
			return nil, s.Excuse(ctx, int64(in.Study), int64(in.Participant), int64(in.Task), false, in.Body.Reason, web.RequestID(ctx))
		})
}
