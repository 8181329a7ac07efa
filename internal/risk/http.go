package risk

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

type settingInput struct {
	ID      web.ID `path:"id"`
	IfMatch string `header:"If-Match" doc:"the ETag that was read; \"0\" for the first one"`
	Body    Setting
}

type settingOutput struct {
	ETag string `header:"ETag"`
	Body Setting
}

type studyPath struct {
	ID web.ID `path:"id"`
}

type listInput struct {
	ID          web.ID `path:"id"`
	Participant web.ID `query:"participant"`
	Limit       int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
	Cursor      string `query:"cursor"`
}

type item struct {
	ID          web.ID    `json:"id"`
	Participant web.ID    `json:"participant"`
	Number      string    `json:"number"`
	Response    web.ID    `json:"response"`
	Submission  string    `json:"submission" format:"uuid"`
	Model       string    `json:"model"`
	Version     string    `json:"version"`
	Outcome     string    `json:"outcome" enum:"assessed,refused"`
	Inputs      []web.ID  `json:"inputs" doc:"responses that the model has seen the scores of, the assessed one first"`
	Result      Result    `json:"result"`
	AssessedAt  time.Time `json:"assessedAt"`
}

type out[T any] struct{ Body T }

func answered(s Setting, err error) (*settingOutput, error) {
	if err != nil {
		return nil, err
	}
	return &settingOutput{web.ETag(s.Version), s}, nil
}

// Routes registers the setting and the list of assessments.
func (s *Service) Routes(api huma.API) {
	op := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: "/api/v1/studies/{id}" + path, Summary: summary, Tags: []string{"risk assessment"}, DefaultStatus: http.StatusOK}
	}
	web.Register(api, op("get-risk-setting", http.MethodGet, "/risk", "How the study's responses are assessed"),
		func(ctx context.Context, in *studyPath) (*settingOutput, error) {
			return answered(s.Setting(ctx, int64(in.ID)))
		})
	web.Register(api, op("put-risk-setting", http.MethodPut, "/risk", "Switch assessment on or off"),
		func(ctx context.Context, in *settingInput) (*settingOutput, error) {
			version, err := web.IfMatch(in.IfMatch)
			if err != nil {
				return nil, err
			}
			in.Body.Version = version
			return answered(s.PutSetting(ctx, int64(in.ID), in.Body))
		})
	web.Register(api, op("list-assessments", http.MethodGet, "/assessments", "What models have said, newest first"), s.list)
}

func (s *Service) list(ctx context.Context, in *listInput) (*out[web.Page[item]], error) {
	f := Filter{Study: int64(in.ID), Participant: int64(in.Participant), Limit: in.Limit + 1}
	if in.Cursor != "" {
		before, err := strconv.ParseInt(in.Cursor, 36, 64)
		if err != nil || before <= 0 {
			return nil, errs.InvalidParameter("cursor", "must be a nextCursor that this list returned")
		}
		f.Before = before
	}
	views, err := s.List(ctx, f)
	if err != nil {
		return nil, err
	}
	p := web.Page[item]{Items: make([]item, 0, min(len(views), in.Limit))}
	for _, v := range views[:min(len(views), in.Limit)] {
		one := item{ID: web.ID(v.ID), Participant: web.ID(v.Participant), Number: v.Number, Response: web.ID(v.Response), Submission: uuid.UUID(v.Submission).String(), Model: v.Model.Name,
			Version: v.Model.Version, Outcome: v.Outcome, Inputs: []web.ID{}, Result: v.Result, AssessedAt: v.At}
		for _, input := range v.Inputs {
			one.Inputs = append(one.Inputs, web.ID(input))
		}
		p.Items = append(p.Items, one)
	}
	if len(views) > in.Limit {
		next := strconv.FormatInt(views[in.Limit-1].ID, 36)
		p.NextCursor = &next
	}
	return &out[web.Page[item]]{p}, nil
}
