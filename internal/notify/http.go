package notify

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/web"
)

type sendInput struct {
	Study       web.ID `path:"id"`
	Participant web.ID `path:"pid"`
	Body        struct {
		Template string            `json:"template" doc:"key of a template, such as invitation" example:"invitation"`
		Channel  string            `json:"channel,omitempty" enum:"sms,email" doc:"sms where it is missing"`
		To       string            `json:"to" doc:"E.164 number, or a mail address for the channel email" example:"+8613800138000"`
		Params   map[string]string `json:"params,omitempty" doc:"exactly the template's parameters"`
		Purpose  string            `json:"purpose,omitempty" doc:"the same purpose again sends nothing; without it every request is its own"`
	}
}

type statusView struct {
	ID     web.ID `json:"id"`
	State  string `json:"state" enum:"waiting,sending,accepted,delivered,failed,unknown,gone"`
	Detail string `json:"detail"`
}

type sendOutput struct{ Body statusView }

type messageView struct {
	ID        web.ID    `json:"id"`
	Purpose   string    `json:"purpose"`
	Channel   string    `json:"channel" enum:"sms,email"`
	Template  string    `json:"template"`
	Language  string    `json:"language"`
	State     string    `json:"state" enum:"waiting,sending,accepted,delivered,failed,unknown,gone"`
	Code      string    `json:"code,omitempty" doc:"the gateway's word for the outcome"`
	Provider  string    `json:"provider,omitempty"`
	Attempts  int       `json:"attempts"`
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`
}

type messagesInput struct {
	Study       web.ID `path:"id"`
	Participant web.ID `path:"pid"`
	Limit       int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
	Cursor      string `query:"cursor"`
}

type messagesOutput struct{ Body web.Page[messageView] }

// Routes adds the routes of messages, and the callbacks of the gateways, to the server.
func (s *Service) Routes(server *web.Server) {
	const path = "/api/v1/studies/{id}/participants/{pid}/messages"
	api := server.API()
	send := huma.Operation{OperationID: "send-message", Method: http.MethodPost, Path: path, DefaultStatus: http.StatusAccepted, Tags: []string{"messages"},
		Summary: "Send a participant a text message or mail from a template"}
	web.Register(api, send, s.postMessage)
	web.Register(api, huma.Operation{OperationID: "list-messages", Method: http.MethodGet, Path: path, Tags: []string{"messages"},
		Summary: "What became of a participant's messages, youngest first"}, s.getMessages)
	s.reminderRoutes(api)
	const callback = "/api/v1/sms/receipts/{provider}"
	server.Gin().POST("/api/v1/sms/receipts/:provider", s.callback)
	web.Describe(api, huma.Operation{OperationID: "message-receipt", Method: http.MethodPost, Path: callback, Security: web.Public(), Tags: []string{"messages"},
		Summary:      "Delivery callbacks of the message gateways, proven by their signature or token",
		MaxBodyBytes: maxCallback,
		Parameters:   []*huma.Param{{Name: "provider", In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{AliyunName, TencentName, TwilioName}}}},
		Responses:    map[string]*huma.Response{"200": {Description: "Taken, in the gateway's own words"}}})
}

func (s *Service) postMessage(ctx context.Context, in *sendInput) (*sendOutput, error) {
	purpose := in.Body.Purpose
	if purpose == "" {
		purpose = "request:" + web.RequestID(ctx)
	}
	status, err := s.SendTo(ctx, Request{Study: int64(in.Study), Participant: int64(in.Participant), Purpose: purpose, Channel: Channel(in.Body.Channel), Template: in.Body.Template, To: in.Body.To, Params: in.Body.Params})
	if err != nil {
		return nil, err
	}
	return &sendOutput{statusView{web.ID(status.ID), string(status.State), status.Detail}}, nil
}

func (s *Service) getMessages(ctx context.Context, in *messagesInput) (*messagesOutput, error) {
	var before web.ID
	if in.Cursor != "" {
		if err := before.UnmarshalText([]byte(in.Cursor)); err != nil {
			return nil, errs.InvalidParameter("cursor", "must be a nextCursor of an earlier page")
		}
	}
	list, err := s.Messages(ctx, int64(in.Study), int64(in.Participant), int64(before), in.Limit+1)
	if err != nil {
		return nil, err
	}
	out := &messagesOutput{web.Page[messageView]{Items: make([]messageView, 0, len(list))}}
	for _, d := range list[:min(len(list), in.Limit)] {
		out.Body.Items = append(out.Body.Items, messageView{ID: web.ID(d.ID), Purpose: d.Purpose, Channel: string(d.Channel), Template: d.Template, Language: d.Language, State: string(d.State),
			Code: d.Code, Provider: d.Provider, Attempts: d.Attempts, CreatedAt: d.CreatedAt, UpdatedAt: d.UpdatedAt})
	}
	if len(list) > in.Limit {
		next := strconv.FormatInt(list[in.Limit-1].ID, 10)
		out.Body.NextCursor = &next
	}
	return out, nil
}

func (s *Service) callback(c *gin.Context) {
	provider := c.Param("provider")
	body, err := io.ReadAll(io.LimitReader(c.Request.Body, maxCallback))
	if err != nil {
		web.WriteProblem(c, errs.New(errs.Invalid, "sms_receipt", "the callback could not be read").WithCause(err))
		return
	}
	if err := s.Receive(c.Request.Context(), provider, c.Request, body); err != nil {
		web.WriteProblem(c, err)
		return
	}
	kind, text := Acknowledgement(provider)
	c.Data(http.StatusOK, kind, text)
}
