package participant

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/web"
)

type lockView struct {
	Holder string    `json:"holder" doc:"username"`
	Until  time.Time `json:"until" doc:"the lock ends by itself then"`
}

type recordView struct {
	Version  int64                      `json:"version" doc:"0 before the first PUT"`
	Sections map[string]json.RawMessage `json:"sections"`
	Lock     *lockView                  `json:"lock" doc:"who edits the record now; null: nobody"`
}

type recordInput struct {
	Participant web.ID `path:"pid"`
}

type recordOutput struct {
	ETag string `header:"ETag"`
	Body recordView
}

type putRecordInput struct {
	Participant web.ID `path:"pid"`
	IfMatch     string `header:"If-Match"`
	Body        struct {
		Sections map[string]json.RawMessage `json:"sections" doc:"name to JSON object; replaces all sections"`
		Reason   string                     `json:"reason,omitempty"`
	}
}

type recordVersionView struct {
	Version  int64                      `json:"version"`
	Sections map[string]json.RawMessage `json:"sections"`
	At       time.Time                  `json:"at"`
	By       web.ID                     `json:"by" doc:"staff account"`
	Reason   string                     `json:"reason,omitempty"`
}

type historyInput struct {
	Participant web.ID `path:"pid"`
	Limit       int    `query:"limit" minimum:"1" maximum:"100" default:"20"`
	Cursor      string `query:"cursor"`
}

type historyOutput struct{ Body web.Page[recordVersionView] }

type lockBody struct {
	TTL   string `json:"ttl,omitempty" doc:"ISO 8601 duration from PT1S to PT5M; PT60S if missing" example:"PT60S"`
	Token string `json:"token,omitempty" doc:"of the session to extend"`
}

type lockInput struct {
	Participant web.ID    `path:"pid"`
	Body        *lockBody `required:"false"`
}

type lockOutput struct {
	Body struct {
		Token string    `json:"token" doc:"names this session"`
		Until time.Time `json:"until"`
	}
}

func (s *Service) recordRoutes(api huma.API) {
	const path = "/api/v1/participants/{pid}/record"
	op := func(method, path, id, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"participants"}}
	}
	web.Register(api, op(http.MethodGet, path, "get-record", "The patient record, and who edits it now"), s.getRecord)
	web.Register(api, op(http.MethodPut, path, "put-record", "Replace the patient record; needs If-Match"), s.putRecord)
	web.Register(api, op(http.MethodGet, path+"/history", "list-record-versions", "Every version of the patient record, youngest first"), s.recordHistory)
	begin := op(http.MethodPost, path+"/lock", "lock-record", "Begin an editing session, so that colleagues see it at once")
	begin.DefaultStatus = http.StatusCreated
	web.Register(api, begin, s.lockRecord)
	web.Register(api, op(http.MethodPut, path+"/lock", "extend-record-lock", "Extend an editing session"), s.lockRecord)
	end := op(http.MethodDelete, path+"/lock", "unlock-record", "End an editing session")
	end.DefaultStatus = http.StatusNoContent
	web.Register(api, end, s.unlockRecord)
}

func (s *Service) getRecord(ctx context.Context, in *recordInput) (*recordOutput, error) {
	r, editor, err := s.Record(ctx, int64(in.Participant))
	if err != nil {
		return nil, err
	}
	out := &recordOutput{ETag: web.ETag(r.Version), Body: recordView{Version: r.Version, Sections: r.Sections}}
	if editor != nil {
		out.Body.Lock = &lockView{Holder: editor.Holder, Until: editor.Until.UTC()}
	}
	return out, nil
}

func (s *Service) putRecord(ctx context.Context, in *putRecordInput) (*recordOutput, error) {
	version, err := web.IfMatch(in.IfMatch)
	if err != nil {
		return nil, err
	}
	r, err := s.PutRecord(ctx, int64(in.Participant), version, in.Body.Sections, in.Body.Reason, web.RequestID(ctx))
	if err != nil {
		return nil, err
	}
	return &recordOutput{ETag: web.ETag(r.Version), Body: recordView{Version: r.Version, Sections: r.Sections}}, nil
}

func (s *Service) recordHistory(ctx context.Context, in *historyInput) (*historyOutput, error) {
	var before int64
	if in.Cursor != "" {
		var err error
		if before, err = strconv.ParseInt(in.Cursor, 10, 64); err != nil || before < 1 {
			return nil, errs.InvalidParameter("cursor", "must be a nextCursor of an earlier page")
		}
	}
	versions, err := s.RecordHistory(ctx, int64(in.Participant), before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	out := &historyOutput{Body: web.Page[recordVersionView]{Items: make([]recordVersionView, 0, len(versions))}}
	for _, r := range versions[:min(len(versions), in.Limit)] {
		out.Body.Items = append(out.Body.Items, recordVersionView{Version: r.Version, Sections: r.Sections, At: r.At.UTC(), By: web.ID(r.By), Reason: r.Reason})
	}
	if len(versions) > in.Limit {
		next := strconv.FormatInt(versions[in.Limit-1].Version, 10)
		out.Body.NextCursor = &next
	}
	return out, nil
}

func (s *Service) lockRecord(ctx context.Context, in *lockInput) (*lockOutput, error) {
	var ttl time.Duration
	var token string
	if in.Body != nil {
		token = in.Body.Token
		if in.Body.TTL != "" {
			var ok bool
			if ttl, ok = isoSeconds(in.Body.TTL); !ok {
				return nil, errs.InvalidField(errs.Finding{Pointer: "/ttl", Code: "invalid_ttl", Detail: "must be a duration from PT1S to PT5M"})
			}
		}
	}
	hold, err := s.LockRecord(ctx, int64(in.Participant), ttl, token)
	if err != nil {
		return nil, err
	}
	out := &lockOutput{}
	out.Body.Token, out.Body.Until = strconv.FormatInt(hold.Fence, 10), hold.Until.UTC()
	return out, nil
}

func (s *Service) unlockRecord(ctx context.Context, in *recordInput) (*struct{}, error) {
	return nil, s.UnlockRecord(ctx, int64(in.Participant))
}
