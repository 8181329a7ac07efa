package participant

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/eprod/eprod/internal/web"
)

// consents is what a body says of each channel.
type consents struct {
	SMS   *bool `json:"sms,omitempty"`
	Email *bool `json:"email,omitempty"`
}

// stated returns what was said; nil for nothing.
func (c *consents) stated() map[string]bool {
	out := make(map[string]bool)
	if c != nil && c.SMS != nil {
		out[ChannelSMS] = *c.SMS
	}
	if c != nil && c.Email != nil {
		out[ChannelEmail] = *c.Email
	}
	return out
}

type consentView struct {
	SMS   bool `json:"sms"`
	Email bool `json:"email"`
}

func consentViewOf(c Contact) consentView {
	return consentView{SMS: c.Consents[ChannelSMS], Email: c.Consents[ChannelEmail]}
}

type contactView struct {
	Version  int64       `json:"version" doc:"0: nothing was ever stated"`
	Phone    string      `json:"phone" doc:"E.164; empty: not known"`
	Email    string      `json:"email" doc:"empty: not known"`
	Consents consentView `json:"consents" doc:"nothing is sent on a channel without"`
}

func contactViewOf(c Contact) contactView {
	return contactView{Version: c.Version, Phone: c.Phone, Email: c.Email, Consents: consentViewOf(c)}
}

type contactOutput struct {
	ETag string `header:"ETag"`
	Body contactView
}

type putContactInput struct {
	Study       web.ID `path:"id"`
	Participant web.ID `path:"pid"`
	IfMatch     string `header:"If-Match"`
	Body        struct {
		Phone    string    `json:"phone,omitempty" doc:"E.164" example:"+8613800138000"`
		Email    string    `json:"email,omitempty" example:"name@example.org"`
		Consents *consents `json:"consents,omitempty" doc:"what is not stated is not given"`
		Reason   string    `json:"reason,omitempty"`
	}
}

type consentInput struct{ Body consents }

type consentOutput struct {
	Body struct {
		Consents consentView `json:"consents"`
	}
}

func (s *Service) contactRoutes(api huma.API) {
	const path = base + "/{pid}/contact"
	op := func(method, path, id, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"participants"}}
	}
	web.Register(api, op(http.MethodGet, path, "get-contact", "How a participant can be reached"), s.getContact)
	web.Register(api, op(http.MethodPut, path, "put-contact", "Replace contact data and consents; needs If-Match"), s.putContact)
	web.Register(api, op(http.MethodGet, "/api/v1/me/contact", "my-contact", "How the calling participant can be reached"), s.myContact)
	web.Register(api, op(http.MethodPut, "/api/v1/me/consents", "put-my-consents", "Give or withdraw the consent to messages, with effect at once"), s.putConsents)
}

func (s *Service) getContact(ctx context.Context, in *one) (*contactOutput, error) {
	c, err := s.Contact(ctx, int64(in.Study), int64(in.Participant))
	if err != nil {
		return nil, err
	}
	return &contactOutput{ETag: web.ETag(c.Version), Body: contactViewOf(c)}, nil
}

func (s *Service) putContact(ctx context.Context, in *putContactInput) (*contactOutput, error) {
	version, err := web.IfMatch(in.IfMatch)
	if err != nil {
		return nil, err
	}
	b := in.Body
	is := Contact{Phone: b.Phone, Email: b.Email, Consents: b.Consents.stated()}
	c, err := s.PutContact(ctx, int64(in.Study), int64(in.Participant), version, is, b.Reason, web.RequestID(ctx))
	if err != nil {
		return nil, err
	}
	return &contactOutput{ETag: web.ETag(c.Version), Body: contactViewOf(c)}, nil
}

func (s *Service) myContact(ctx context.Context, _ *struct{}) (*contactOutput, error) {
	c, err := s.MyContact(ctx)
	if err != nil {
		return nil, err
	}
	return &contactOutput{ETag: web.ETag(c.Version), Body: contactViewOf(c)}, nil
}

func (s *Service) putConsents(ctx context.Context, in *consentInput) (*consentOutput, error) {
	c, err := s.Consent(ctx, in.Body.stated(), web.RequestID(ctx))
	if err != nil {
		return nil, err
	}
	out := &consentOutput{}
	out.Body.Consents = consentViewOf(c)
	return out, nil
}
