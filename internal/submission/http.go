package submission

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/web"
)

// ReceiptBody is a receipt as clients see it.
type ReceiptBody struct {
	ID         web.ID         `json:"id"`
	Submission string         `json:"submission" format:"uuid" doc:"the UUID that the device made"`
	SHA256     string         `json:"sha256" doc:"hex digest of the exact bytes of the response member as received"`
	ReceivedAt string         `json:"receivedAt" format:"date-time"`
	State      string         `json:"state" enum:"received,stored,quarantined,conflict"`
	StoredAt   string         `json:"storedAt,omitempty" format:"date-time"`
	Findings   []errs.Finding `json:"findings,omitempty" doc:"why a submission is quarantined"`
}

// Body returns the receipt as clients see it.
func (r Receipt) Body() ReceiptBody {
	b := ReceiptBody{ID: web.ID(r.ID), Submission: r.Submission.String(), SHA256: r.Hash(), ReceivedAt: Timestamp(r.ReceivedAt),
		State: string(r.State), Findings: r.Findings}
	if !r.ProcessedAt.IsZero() {
		b.StoredAt = Timestamp(r.ProcessedAt)
	}
	return b
}

type responseItem struct {
	ID            web.ID      `json:"id"`
	Study         web.ID      `json:"study"`
	Participant   web.ID      `json:"participant"`
	Number        string      `json:"number" doc:"participant number"`
	Task          web.ID      `json:"task"`
	Submission    string      `json:"submission" format:"uuid"`
	SHA256        string      `json:"sha256"`
	Questionnaire string      `json:"questionnaire" doc:"canonical url"`
	Version       string      `json:"version"`
	Status        string      `json:"status"`
	Authored      string      `json:"authored" doc:"device time with the device's offset, as written by the device"`
	Zone          string      `json:"zone" doc:"the zone of the task's window"`
	Late          bool        `json:"late"`
	ReceivedAt    string      `json:"receivedAt" format:"date-time"`
	StoredAt      string      `json:"storedAt" format:"date-time"`
	Scores        []scoreView `json:"scores"`
}

type scoreView struct {
	Name      string   `json:"name"`
	Version   string   `json:"version" doc:"of the algorithm"`
	Algorithm string   `json:"algorithm" doc:"SHA-256 over the algorithm and the weights"`
	Method    string   `json:"method" enum:"sum,mean"`
	Value     *float64 `json:"value" doc:"null where too few items are answered"`
	Used      []string `json:"used" doc:"linkIds that are answered"`
	Missing   []string `json:"missing" doc:"linkIds that are not; they never count as zero"`
}

func scoreViews(scores []questionnaire.Score) []scoreView {
	out := make([]scoreView, len(scores))
	for i, s := range scores {
		out[i] = scoreView{Name: s.Rule.Name, Version: s.Rule.Version, Algorithm: s.Rule.Hash, Method: s.Rule.Method,
			Used: append([]string{}, s.Used...), Missing: append([]string{}, s.Missing...)}
		if s.Valid {
			out[i].Value = &s.Value
		}
	}
	return out
}

type responseBody struct {
	responseItem
	Response json.RawMessage `json:"response" doc:"the QuestionnaireResponse, byte for byte as received"`
	History  []struct{}      `json:"history" doc:"corrections, oldest first"`
}

func item(v View) responseItem {
	return responseItem{ID: web.ID(v.ID), Study: web.ID(v.Study), Participant: web.ID(v.Participant), Number: v.Number, Task: web.ID(v.Task),
		Submission: v.Submission.String(), SHA256: v.Record.Receipt().Hash(), Questionnaire: v.Questionnaire, Version: v.Version, Status: v.Status,
		Authored: v.Authored, Zone: v.Zone, Late: v.Late, ReceivedAt: Timestamp(v.ReceivedAt), StoredAt: Timestamp(v.StoredAt), Scores: scoreViews(v.Scores)}
}

type quarantineItem struct {
	ID            web.ID         `json:"id"`
	Participant   web.ID         `json:"participant,omitzero"`
	Task          web.ID         `json:"task,omitzero"`
	Submission    string         `json:"submission" format:"uuid"`
	SHA256        string         `json:"sha256"`
	Reason        string         `json:"reason"`
	Findings      []errs.Finding `json:"findings"`
	ReceivedAt    string         `json:"receivedAt" format:"date-time"`
	QuarantinedAt string         `json:"quarantinedAt" format:"date-time"`
}

type listInput struct {
	Study         web.ID    `path:"id"`
	Participant   web.ID    `query:"participant"`
	Questionnaire string    `query:"questionnaire" doc:"canonical url"`
	From          time.Time `query:"from" doc:"received at or after"`
	To            time.Time `query:"to" doc:"received before"`
	Limit         int       `query:"limit" minimum:"1" maximum:"500" default:"100"`
	Cursor        string    `query:"cursor"`
}

func (in *listInput) filter() (Filter, error) {
	f := Filter{Study: int64(in.Study), Participant: int64(in.Participant), Questionnaire: in.Questionnaire, From: in.From, To: in.To, Limit: in.Limit + 1}
	if in.Cursor != "" {
		before, err := strconv.ParseInt(in.Cursor, 36, 64)
		if err != nil || before <= 0 {
			return Filter{}, errs.InvalidParameter("cursor", "must be a nextCursor that this list returned")
		}
		f.Before = before
	}
	return f, nil
}

// page cuts the extra row off that tells whether there is a next page.
func page[T, B any](rows []T, limit int, id func(T) int64, body func(T) B) web.Page[B] {
	p := web.Page[B]{Items: make([]B, 0, min(len(rows), limit))}
	for _, row := range rows[:min(len(rows), limit)] {
		p.Items = append(p.Items, body(row))
	}
	if len(rows) > limit {
		next := strconv.FormatInt(id(rows[limit-1]), 36)
		p.NextCursor = &next
	}
	return p
}

type bodyOf[T any] struct{ Body T }

// Routes registers receipts, the response view and the quarantine view.
func Routes(api huma.API, s *Service) {
	web.Register(api, huma.Operation{OperationID: "get-receipt", Method: http.MethodGet, Path: "/api/v1/submissions/{uuid}",
		Summary: "What became of a submission", Tags: []string{"submissions"}},
		func(ctx context.Context, in *struct {
			UUID string `path:"uuid"`
		}) (*bodyOf[ReceiptBody], error) {
			id, err := uuid.Parse(in.UUID)
			if err != nil {
				return nil, errs.InvalidParameter("uuid", "must be the UUID that the device made")
			}
			r, err := s.Receipt(ctx, id)
			if err != nil {
				return nil, err
			}
			return &bodyOf[ReceiptBody]{r.Body()}, nil
		})
	web.Register(api, huma.Operation{OperationID: "list-responses", Method: http.MethodGet, Path: "/api/v1/studies/{id}/responses",
		Summary: "Stored responses of a study, newest first", Tags: []string{"responses"}},
		func(ctx context.Context, in *listInput) (*bodyOf[web.Page[responseItem]], error) {
			f, err := in.filter()
			if err != nil {
				return nil, err
			}
			views, err := s.List(ctx, f)
			if err != nil {
				return nil, err
			}
			return &bodyOf[web.Page[responseItem]]{page(views, in.Limit, func(v View) int64 { return v.ID }, item)}, nil
		})
	web.Register(api, huma.Operation{OperationID: "get-response", Method: http.MethodGet, Path: "/api/v1/responses/{id}",
		Summary: "One response with its answers", Tags: []string{"responses"}},
		func(ctx context.Context, in *struct {
			ID web.ID `path:"id"`
		}) (*bodyOf[responseBody], error) {
			v, err := s.Open(ctx, int64(in.ID))
			if err != nil {
				return nil, err
			}
			return &bodyOf[responseBody]{responseBody{item(v), v.Body, []struct{}{}}}, nil
		})
	web.Register(api, huma.Operation{OperationID: "list-quarantine", Method: http.MethodGet, Path: "/api/v1/studies/{id}/quarantine",
		Summary: "Submissions that wait for a person, newest first", Tags: []string{"responses"}},
		func(ctx context.Context, in *listInput) (*bodyOf[web.Page[quarantineItem]], error) {
			f, err := in.filter()
			if err != nil {
				return nil, err
			}
			waiting, err := s.Quarantined(ctx, f)
			if err != nil {
				return nil, err
			}
			return &bodyOf[web.Page[quarantineItem]]{page(waiting, in.Limit, func(q Quarantine) int64 { return q.ID }, waitingItem)}, nil
		})
}

func waitingItem(q Quarantine) quarantineItem {
	item := quarantineItem{ID: web.ID(q.ID), Participant: web.ID(q.Participant), Task: web.ID(q.Task), Submission: q.Submission.String(),
		SHA256: q.Record.Receipt().Hash(), Reason: q.Reason, Findings: q.Findings, ReceivedAt: Timestamp(q.ReceivedAt), QuarantinedAt: Timestamp(q.At)}
	if item.Findings == nil {
		item.Findings = []errs.Finding{}
	}
	return item
}
