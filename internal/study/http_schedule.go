package study

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/web"
)

type scheduleView struct {
	Version     int64          `json:"version"`
	Rules       []task.Rule    `json:"rules"`
	Policies    *task.Policies `json:"policies,omitempty"`
	Messages    *task.Messages `json:"messages,omitempty"`
	EffectiveAt time.Time      `json:"effectiveAt,omitzero" doc:"absent: from the beginning"`
	CreatedAt   time.Time      `json:"createdAt"`
	CreatedBy   web.ID         `json:"createdBy"`
}

func scheduleViewOf(v ScheduleVersion) scheduleView {
	return scheduleView{v.Version, v.Design.Rules, v.Design.Policies, v.Design.Messages, v.From, v.At, web.ID(v.By)}
}

type newSchedule struct {
	Rules       []task.Rule    `json:"rules"`
	Policies    *task.Policies `json:"policies,omitempty" doc:"where sponsors differ; what is absent has its default"`
	Messages    *task.Messages `json:"messages,omitempty" doc:"when reminders may go out"`
	EffectiveAt time.Time      `json:"effectiveAt,omitzero" required:"false" doc:"from when on it applies; absent: from now on, in a draft from the beginning"`
}

func (n *newSchedule) design() task.Design {
	return task.Design{Rules: n.Rules, Policies: n.Policies, Messages: n.Messages}
}

func (s *Service) putSchedule(ctx context.Context, in *struct {
	ID   web.ID `path:"id"`
	Body newSchedule
}) (*out[scheduleView], error) {
	v, err := s.PutSchedule(ctx, int64(in.ID), in.Body.design(), in.Body.EffectiveAt)
	return answer(scheduleViewOf(v), err)
}

type scheduleList struct {
	Items []scheduleView `json:"items"`
}

type imagined struct {
	Rules    []task.Rule       `json:"rules,omitempty" doc:"absent: the current schedule"`
	Policies *task.Policies    `json:"policies,omitempty" doc:"of the rules that are given"`
	Zone     string            `json:"zone"`
	Arm      string            `json:"arm,omitempty"`
	Anchors  map[string]string `json:"anchors" doc:"event → YYYY-MM-DD"`
	From     string            `json:"from" doc:"instant, or local date in the zone: from its start"`
	To       string            `json:"to" doc:"instant, or local date in the zone: to its end"`
}

type previewInput struct {
	ID   web.ID `path:"id"`
	Body imagined
}

type previewList struct {
	Tasks []previewTask `json:"tasks"`
}

type previewTask struct {
	Rule     string    `json:"rule"`
	Date     string    `json:"date" format:"date"`
	OpensAt  time.Time `json:"opensAt"`
	DueAt    time.Time `json:"dueAt"`
	ClosesAt time.Time `json:"closesAt"`
}

func (s *Service) scheduleRoutes(api huma.API) {
	web.Register(api, op("put-schedule", http.MethodPut, "/api/v1/studies/{id}/schedule", "Replace the schedule by a new version", 200), s.putSchedule)
	web.Register(api, op("get-schedule", http.MethodGet, "/api/v1/studies/{id}/schedule", "The current schedule", 200), func(ctx context.Context, in *studyID) (*out[scheduleView], error) {
		v, err := s.Schedule(ctx, int64(in.ID))
		return answer(scheduleViewOf(v), err)
	})
	web.Register(api, op("list-schedules", http.MethodGet, "/api/v1/studies/{id}/schedule/versions", "Every version of the schedule, the first first", 200), func(ctx context.Context, in *studyID) (*out[scheduleList], error) {
		list, err := s.Schedules(ctx, int64(in.ID))
		body := scheduleList{Items: make([]scheduleView, len(list))}
		for i, v := range list {
			body.Items[i] = scheduleViewOf(v)
		}
		return answer(body, err)
	})
	web.Register(api, op("preview-schedule", http.MethodPost, "/api/v1/studies/{id}/schedule/preview", "Tasks of an imagined participant", 200), s.preview)
}

func (s *Service) preview(ctx context.Context, in *previewInput) (*out[previewList], error) {
	p, from, to, findings := in.Body.person()
	if len(findings) > 0 {
		return nil, errs.InvalidField(findings...)
	}
	var design *task.Design
	if in.Body.Rules != nil {
		design = &task.Design{Rules: in.Body.Rules, Policies: in.Body.Policies}
	}
	tasks, err := s.Preview(ctx, int64(in.ID), design, p, from, to)
	body := previewList{Tasks: make([]previewTask, len(tasks))}
	for i, t := range tasks {
		body.Tasks[i] = previewTask{t.Rule, t.Date.String(), t.OpensAt, t.DueAt, t.ClosesAt}
	}
	return answer(body, err)
}

// person reads who is imagined, and when.
func (b *imagined) person() (p task.Person, from, to time.Time, findings []errs.Finding) {
	p = task.Person{Arm: b.Arm, Anchors: make(map[string]task.Date), Zones: []task.ZoneChange{{Zone: b.Zone}}}
	refuse := func(pointer, code, detail string) {
		findings = append(findings, errs.Finding{Pointer: pointer, Code: code, Detail: detail})
	}
	local, ok := zone(b.Zone)
	if !ok {
		refuse("/zone", "unknown_zone", "must be an IANA time zone such as Europe/Berlin")
		local = time.UTC
	}
	for _, event := range slices.Sorted(maps.Keys(b.Anchors)) {
		date, err := task.ParseDate(b.Anchors[event])
		if err != nil {
			refuse("/anchors/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(event), "invalid_date", "must be a date as YYYY-MM-DD")
		}
		p.Anchors[event] = date
	}
	const wanted = "must be an instant as 2026-11-23T00:00:00Z or a date as YYYY-MM-DD"
	if from, ok = moment(b.From, local, 0); !ok {
		refuse("/from", "invalid_date", wanted)
	}
	if to, ok = moment(b.To, local, 1); !ok {
		refuse("/to", "invalid_date", wanted)
	}
	return p, from, to, findings
}

// moment reads an instant (RFC 3339), or a local date and so many days more: its first instant.
func moment(text string, local *time.Location, days int) (time.Time, bool) {
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at.UTC(), true
	}
	date, err := task.ParseDate(text)
	return time.Date(date.Year, date.Month, date.Day+days, 0, 0, 0, 0, local).UTC(), err == nil
}
