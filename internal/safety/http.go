package safety

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/web"
)

type rulesBody struct {
	Version int64     `json:"version,omitempty" readOnly:"true"`
	Rules   []Rule    `json:"rules"`
	At      time.Time `json:"publishedAt,omitzero" readOnly:"true"`
	By      web.ID    `json:"publishedBy,omitzero" readOnly:"true"`
}

type rulesInput struct {
	ID   web.ID `path:"id"`
	Body struct {
		Rules []Rule `json:"rules"`
	}
}

type rulesQuery struct {
	ID      web.ID `path:"id"`
	Version int64  `query:"version" minimum:"0" doc:"an earlier version; the newest unless it is said"`
}

type out[T any] struct{ Body T }

type rotaInput struct {
	ID      web.ID `path:"id"`
	IfMatch string `header:"If-Match" doc:"the ETag that was read; \"0\" for the first one"`
	Body    Rota
}

type rotaOutput struct {
	ETag string `header:"ETag"`
	Body Rota
}

type studyPath struct {
	ID web.ID `path:"id"`
}

type alertPath struct {
	ID    web.ID `path:"id"`
	Alert web.ID `path:"aid"`
}

type noteInput struct {
	ID    web.ID `path:"id"`
	Alert web.ID `path:"aid"`
	Body  struct {
		Note string `json:"note,omitempty" doc:"kept encrypted; required to resolve"`
	}
}

type alertsInput struct {
	ID          web.ID `path:"id"`
	State       string `query:"state" enum:"open,acknowledged,resolved"`
	Rule        string `query:"rule"`
	Participant web.ID `query:"participant"`
	Site        web.ID `query:"site"`
	Limit       int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
	Cursor      string `query:"cursor"`
}

type alertItem struct {
	ID              web.ID    `json:"id"`
	Participant     web.ID    `json:"participant"`
	Number          string    `json:"number"`
	Site            web.ID    `json:"site"`
	Rule            string    `json:"rule"`
	RulesVersion    int64     `json:"rulesVersion"`
	Severity        string    `json:"severity" enum:"low,medium,high,critical"`
	State           string    `json:"state" enum:"open,acknowledged,resolved"`
	Urgent          bool      `json:"urgent" doc:"found when the submission was accepted"`
	Submission      string    `json:"submission" format:"uuid"`
	SubmissionState string    `json:"submissionState" enum:"received,stored,quarantined,conflict"`
	Response        web.ID    `json:"response"`
	RaisedAt        time.Time `json:"raisedAt"`
	AcknowledgedAt  time.Time `json:"acknowledgedAt,omitzero"`
	AcknowledgedBy  web.ID    `json:"acknowledgedBy,omitzero"`
	ResolvedAt      time.Time `json:"resolvedAt,omitzero"`
	ResolvedBy      web.ID    `json:"resolvedBy,omitzero"`
}

type alertBody struct {
	alertItem
	Evidence Evidence `json:"evidence"`
	Notes    []Note   `json:"notes"`
}

func itemOf(v AlertView) alertItem {
	a := v.Alert
	return alertItem{ID: web.ID(a.ID), Participant: web.ID(a.Participant), Number: v.Number, Site: web.ID(a.Site), Rule: a.Rule, RulesVersion: a.RulesVersion, Severity: a.Severity,
		State: a.State, Urgent: a.Urgent, Submission: uuid.UUID(a.Submission).String(), SubmissionState: a.SubmissionState, Response: web.ID(a.Response), RaisedAt: a.RaisedAt,
		AcknowledgedAt: a.AcknowledgedAt, AcknowledgedBy: web.ID(a.AcknowledgedBy), ResolvedAt: a.ResolvedAt, ResolvedBy: web.ID(a.ResolvedBy)}
}

func bodyOf(v AlertView, err error) (*out[alertBody], error) {
	if err != nil {
		return nil, err
	}
	return &out[alertBody]{alertBody{itemOf(v), v.Evidence, append([]Note{}, v.History...)}}, nil
}

func rulesOf(r Rules, err error) (*out[rulesBody], error) {
	if err != nil {
		return nil, err
	}
	return &out[rulesBody]{rulesBody{r.Version, append([]Rule{}, r.Rules...), r.At, web.ID(r.By)}}, nil
}

// Routes registers rules, rota and alerts.
func (s *Service) Routes(api huma.API) {
	op := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: "/api/v1/studies/{id}" + path, Summary: summary, Tags: []string{"safety"}, DefaultStatus: http.StatusOK}
	}
	web.Register(api, op("put-safety-rules", http.MethodPut, "/safety/rules", "Publish the next version of the safety rules"),
		func(ctx context.Context, in *rulesInput) (*out[rulesBody], error) {
			return rulesOf(s.PutRules(ctx, int64(in.ID), in.Body.Rules))
		})
	web.Register(api, op("get-safety-rules", http.MethodGet, "/safety/rules", "The safety rules"),
		func(ctx context.Context, in *rulesQuery) (*out[rulesBody], error) {
			return rulesOf(s.Rules(ctx, int64(in.ID), in.Version))
		})
	web.Register(api, op("get-safety-rota", http.MethodGet, "/safety/rota", "Who is told of alerts"),
		func(ctx context.Context, in *studyPath) (*rotaOutput, error) {
			return rotaOf(s.Rota(ctx, int64(in.ID)))
		})
	web.Register(api, op("put-safety-rota", http.MethodPut, "/safety/rota", "State who is told of alerts"),
		func(ctx context.Context, in *rotaInput) (*rotaOutput, error) {
			version, err := web.IfMatch(in.IfMatch)
			if err != nil {
				return nil, err
			}
			in.Body.Version = version
			return rotaOf(s.PutRota(ctx, int64(in.ID), in.Body))
		})
	web.Register(api, op("list-alerts", http.MethodGet, "/alerts", "Alerts, newest first"), s.list)
	web.Register(api, op("get-alert", http.MethodGet, "/alerts/{aid}", "One alert with what it has found"),
		func(ctx context.Context, in *alertPath) (*out[alertBody], error) {
			return bodyOf(s.Alert(ctx, int64(in.ID), int64(in.Alert)))
		})
	web.Register(api, op("acknowledge-alert", http.MethodPost, "/alerts/{aid}/acknowledge", "Take care of an alert: nobody else is told"),
		func(ctx context.Context, in *noteInput) (*out[alertBody], error) {
			return bodyOf(s.Acknowledge(ctx, int64(in.ID), int64(in.Alert), in.Body.Note))
		})
	web.Register(api, op("resolve-alert", http.MethodPost, "/alerts/{aid}/resolve", "Say what became of an alert"),
		func(ctx context.Context, in *noteInput) (*out[alertBody], error) {
			return bodyOf(s.Resolve(ctx, int64(in.ID), int64(in.Alert), in.Body.Note))
		})
}

func rotaOf(r Rota, err error) (*rotaOutput, error) {
	if err != nil {
		return nil, err
	}
	r.Sites, r.Manager = append([]Site{}, r.Sites...), append([]Contact{}, r.Manager...)
	return &rotaOutput{web.ETag(r.Version), r}, nil
}

func (s *Service) list(ctx context.Context, in *alertsInput) (*out[web.Page[alertItem]], error) {
	f := AlertFilter{Study: int64(in.ID), Participant: int64(in.Participant), State: in.State, Rule: in.Rule, Limit: in.Limit + 1}
	if in.Site != 0 {
		f.Sites = []int64{int64(in.Site)}
	}
	if in.Cursor != "" {
		before, err := strconv.ParseInt(in.Cursor, 36, 64)
		if err != nil || before <= 0 {
			return nil, errs.InvalidParameter("cursor", "must be a nextCursor that this list returned")
		}
		f.Before = before
	}
	views, err := s.Alerts(ctx, f)
	if err != nil {
		return nil, err
	}
	p := web.Page[alertItem]{Items: make([]alertItem, 0, min(len(views), in.Limit))}
	for _, v := range views[:min(len(views), in.Limit)] {
		p.Items = append(p.Items, itemOf(v))
	}
	if len(views) > in.Limit {
		next := strconv.FormatInt(views[in.Limit-1].ID, 36)
		p.NextCursor = &next
	}
	return &out[web.Page[alertItem]]{p}, nil
}
