package archive

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/eprod/eprod/internal/web"
)

type wish struct {
	Reason string `json:"reason" doc:"why, for the audit trail and the manifest; 1 to 1000 characters" minLength:"1" maxLength:"1000"`
}

type wishInput struct {
	ID   web.ID `path:"id"`
	Body wish
}

type progressView struct {
	Files    int64 `json:"files"`
	Bytes    int64 `json:"bytes"`
	Rows     int64 `json:"rows" doc:"of the shards, in evidence files"`
	Verified int64 `json:"verified" doc:"files that were read back from the destination"`
	Loaded   int64 `json:"loaded" doc:"files that were loaded into ClickHouse and read back"`
}

type runView struct {
	Study       web.ID          `json:"study"`
	Run         web.ID          `json:"run"`
	Direction   string          `json:"direction" enum:"archive,restore"`
	Step        string          `json:"step" enum:"write,verify,load,list,close,remove,check,insert,compare,reopen,done"`
	Archived    bool            `json:"archived" doc:"whether the data are in the archive: their reads are answered with study_archived"`
	Reason      string          `json:"reason"`
	Problem     string          `json:"problem,omitempty" doc:"why the last try ended; it is repeated by itself"`
	RequestedAt time.Time       `json:"requestedAt"`
	ChangedAt   time.Time       `json:"changedAt"`
	FinishedAt  *time.Time      `json:"finishedAt,omitempty"`
	Progress    progressView    `json:"progress"`
	Place       string          `json:"place,omitempty" doc:"where the manifest is"`
	SHA256      string          `json:"sha256,omitempty" doc:"of the manifest's bytes"`
	Manifest    json.RawMessage `json:"manifest,omitempty" doc:"the manifest as it was written"`
}

func viewOf(s State) runView {
	r := s.Run
	v := runView{Study: web.ID(r.Study), Run: web.ID(r.ID), Direction: string(r.Direction), Step: string(r.Step), Archived: r.Archived(), Reason: r.Reason,
		Problem: r.Problem, RequestedAt: r.Requested, ChangedAt: r.Changed, Place: r.Place, Manifest: s.Manifest,
		Progress: progressView{Files: s.Counts.Files, Bytes: s.Counts.Bytes, Rows: s.Counts.Rows, Verified: s.Counts.Verified, Loaded: s.Counts.Loaded}}
	if !r.Finished.IsZero() {
		v.FinishedAt = &r.Finished
	}
	if r.Place != "" {
		v.SHA256 = fmt.Sprintf("%x", r.Manifest)
	}
	return v
}

type out[T any] struct{ Body T }

// Routes registers the archive of a study.
func (s *Service) Routes(api huma.API) {
	op := func(id, method, path, summary string, status int) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"archive"}, DefaultStatus: status}
	}
	web.Register(api, op("archive-study", http.MethodPost, "/api/v1/studies/{id}/archive", "Move a locked study into the archive", http.StatusAccepted), s.wished(Out))
	web.Register(api, op("restore-study", http.MethodPost, "/api/v1/studies/{id}/archive/restore", "Bring an archived study back; it is locked then", http.StatusAccepted), s.wished(Back))
	web.Register(api, op("read-study-archive", http.MethodGet, "/api/v1/studies/{id}/archive", "How far the move is, and the manifest", http.StatusOK),
		func(ctx context.Context, in *struct {
			ID web.ID `path:"id"`
		}) (*out[runView], error) {
			state, err := s.Show(ctx, int64(in.ID))
			if err != nil {
				return nil, err
			}
			return &out[runView]{viewOf(state)}, nil
		})
}

func (s *Service) wished(d Direction) func(ctx context.Context, in *wishInput) (*out[runView], error) {
	return func(ctx context.Context, in *wishInput) (*out[runView], error) {
		run, err := s.Request(ctx, int64(in.ID), d, in.Body.Reason)
		if err != nil {
			return nil, err
		}
		return &out[runView]{viewOf(State{Run: run})}, nil
	}
}
