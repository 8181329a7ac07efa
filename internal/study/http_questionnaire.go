package study

import (
	"bytes"
	"context"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/web"
)

type questionnaireView struct {
	ID       web.ID         `json:"id"`
	URL      string         `json:"url"`
	Version  string         `json:"version"`
	Title    string         `json:"title"`
	Status   string         `json:"status" enum:"draft,active"`
	Findings []errs.Finding `json:"findings"`
}

func questionnaireOf(q Questionnaire) questionnaireView {
	return questionnaireView{web.ID(q.ID), q.URL, q.Version, q.Title, q.Status, []errs.Finding{}}
}

type importOutput struct {
	Status int
	Body   questionnaireView
}

type servedOutput struct {
	Status       int
	ContentType  string `header:"Content-Type"`
	ETag         string `header:"ETag"`
	CacheControl string `header:"Cache-Control"`
	Body         []byte
}

// questionnaireRoutes registers import, publishing and serving of questionnaires.
func (s *Service) questionnaireRoutes(api huma.API) {
	web.Register(api, op("import-questionnaire", http.MethodPost, "/api/v1/studies/{id}/questionnaires", "Import a FHIR R4 Questionnaire as a draft version; 200 where the version was there already", 201),
		func(ctx context.Context, in *struct {
			ID      web.ID `path:"id"`
			RawBody []byte `contentType:"application/json"`
		}) (*importOutput, error) {
			q, created, err := s.importVersion(ctx, int64(in.ID), bytes.Clone(in.RawBody))
			if err != nil {
				return nil, err
			}
			o := &importOutput{Status: http.StatusOK, Body: questionnaireOf(q)}
			if created {
				o.Status = http.StatusCreated
			}
			return o, nil
		})
	web.Register(api, op("list-questionnaires", http.MethodGet, "/api/v1/studies/{id}/questionnaires", "Questionnaire versions of a study", 200),
		func(ctx context.Context, in *studyID) (*out[web.Page[questionnaireView]], error) {
			list, err := s.Questionnaires(ctx, int64(in.ID))
			return whole(list, questionnaireOf, err)
		})
	web.Register(api, op("publish-questionnaire", http.MethodPost, "/api/v1/studies/{id}/questionnaires/{qid}/publish", "Publish a version; it never changes afterwards", 200),
		func(ctx context.Context, in *struct {
			ID            web.ID `path:"id"`
			Questionnaire web.ID `path:"qid"`
		}) (*out[questionnaireView], error) {
			q, err := s.PublishQuestionnaire(ctx, int64(in.ID), int64(in.Questionnaire))
			return answer(questionnaireOf(q), err)
		})
	serve := func(ctx context.Context, id int64, ifNoneMatch string) (*servedOutput, error) {
		p, err := s.Served(ctx, id)
		if err != nil {
			return nil, err
		}
		o := &servedOutput{Status: http.StatusOK, ContentType: "application/fhir+json", ETag: p.ETag, CacheControl: "private, no-cache", Body: p.Body}
		if web.NoneMatch(ifNoneMatch, p.ETag) {
			o.Status, o.Body = http.StatusNotModified, nil
		}
		return o, nil
	}
	web.Register(api, op("get-questionnaire", http.MethodGet, "/api/v1/questionnaires/{id}", "A published questionnaire; staff may read drafts", 200),
		func(ctx context.Context, in *struct {
			ID          web.ID `path:"id"`
			IfNoneMatch string `header:"If-None-Match"`
		}) (*servedOutput, error) {
			return serve(ctx, int64(in.ID), in.IfNoneMatch)
		})
	web.Register(api, op("get-study-questionnaire", http.MethodGet, "/api/study/questionnaire", "A published questionnaire; staff may read drafts", 200),
		func(ctx context.Context, in *struct {
			ID          string `query:"id" doc:"id of the version"`
			IfNoneMatch string `header:"If-None-Match"`
		}) (*servedOutput, error) {
			id, err := strconv.ParseInt(in.ID, 10, 64)
			if err != nil || id <= 0 {
				return nil, errs.InvalidParameter("id", "must be the id of a questionnaire version")
			}
			return serve(ctx, id, in.IfNoneMatch)
		})
}
