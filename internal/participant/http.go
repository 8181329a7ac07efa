package participant

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/web"
)

// enrolment is the body of an enrolment and of a line of an import.
type enrolment struct {
	Number   string            `json:"number" doc:"participant number, unique in the study"`
	Site     string            `json:"site" doc:"code of the site"`
	Arm      string            `json:"arm,omitempty" doc:"code of the arm; only a study without arms goes without"`
	Zone     string            `json:"zone,omitempty" doc:"IANA time zone; the study's if missing" example:"Europe/Berlin"`
	Language string            `json:"language,omitempty" doc:"a language of the study; its first if missing"`
	Anchors  map[string]string `json:"anchors,omitempty" doc:"event to local date; enrolment is today if missing"`
	Phone    string            `json:"phone,omitempty" doc:"E.164" example:"+8613800138000"`
	Email    string            `json:"email,omitempty" example:"name@example.org"`
	Consents *consents         `json:"consents,omitempty" doc:"to messages, by channel; what is not stated is not given"`
}

func (e *enrolment) enrolment() Enrolment {
	return Enrolment{Number: e.Number, Site: e.Site, Arm: e.Arm, Zone: e.Zone, Language: e.Language, Anchors: e.Anchors,
		Contact: Contact{Phone: e.Phone, Email: e.Email, Consents: e.Consents.stated()}}
}

type zoneView struct {
	From time.Time `json:"from"`
	Zone string    `json:"zone"`
}

type anchorView struct {
	Event      string     `json:"event"`
	Date       string     `json:"date"`
	RecordedAt time.Time  `json:"recordedAt" doc:"what was stated at enrolment applies from the beginning"`
	ReplacedAt *time.Time `json:"replacedAt,omitempty" doc:"when another date took its place or it was taken back; missing: it applies"`
}

type view struct {
	ID        web.ID            `json:"id"`
	Study     web.ID            `json:"study"`
	Number    string            `json:"number"`
	Site      string            `json:"site"`
	Arm       string            `json:"arm,omitempty"`
	Zone      string            `json:"zone"`
	Zones     []zoneView        `json:"zones" doc:"which zone applied from when; the first also before"`
	Language  string            `json:"language"`
	Status    string            `json:"status" enum:"enrolled,active,withdrawn"`
	Anchors   map[string]string `json:"anchors"`
	History   []anchorView      `json:"anchorHistory" doc:"every date that an event ever had, by event and time"`
	Version   int64             `json:"version"`
	CreatedAt time.Time         `json:"createdAt"`
	LeftAt    *time.Time        `json:"leftAt,omitempty" doc:"when the participant left the study"`
}

func viewOf(p *Participant, site string) view {
	v := view{
		ID: web.ID(p.ID), Study: web.ID(p.Study), Number: p.Number, Site: site, Arm: p.Arm, Zone: p.Zone, Language: p.Language, Status: p.Status,
		Zones: make([]zoneView, 0, len(p.Zones)), Anchors: auditedOf(p).Anchors, Version: p.Version, CreatedAt: p.CreatedAt.UTC(),
	}
	for _, z := range p.Zones {
		v.Zones = append(v.Zones, zoneView{From: z.From.UTC(), Zone: z.Zone})
	}
	if !p.Left.IsZero() {
		left := p.Left.UTC()
		v.LeftAt = &left
	}
	history := p.AnchorHistory()
	v.History = make([]anchorView, 0, len(history))
	for _, h := range history {
		entry := anchorView{Event: h.Event, Date: h.Date.String(), RecordedAt: h.Recorded.UTC()}
		if !h.Replaced.IsZero() {
			replaced := h.Replaced.UTC()
			entry.ReplacedAt = &replaced
		}
		v.History = append(v.History, entry)
	}
	return v
}

type one struct {
	Study       web.ID `path:"id"`
	Participant web.ID `path:"pid"`
}

type enrolInput struct {
	Study web.ID `path:"id"`
	Body  enrolment
}

type enrolOutput struct {
	Location string `header:"Location"`
	Body     activation
}

type activation struct {
	ID             web.ID `json:"id"`
	Number         string `json:"number"`
	ActivationCode string `json:"activationCode" doc:"works once; it is shown only here"`
	ActivationURL  string `json:"activationUrl"`
}

func activationOf(o Outcome) activation {
	return activation{ID: web.ID(o.ID), Number: o.Number, ActivationCode: o.Code, ActivationURL: o.Link}
}

type listInput struct {
	Study  web.ID `path:"id"`
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
	Cursor string `query:"cursor"`
}

type listOutput struct{ Body web.Page[view] }

type viewOutput struct {
	ETag string `header:"ETag"`
	Body view
}

type changeInput struct {
	Study       web.ID `path:"id"`
	Participant web.ID `path:"pid"`
	IfMatch     string `header:"If-Match"`
	Body        struct {
		Site     *string            `json:"site,omitempty"`
		Arm      *string            `json:"arm,omitempty" doc:"applies from now on"`
		Zone     *string            `json:"zone,omitempty" doc:"applies from now on"`
		Language *string            `json:"language,omitempty"`
		Status   *string            `json:"status,omitempty" doc:"only withdrawn, which is final and closes sign-in"`
		Anchors  map[string]*string `json:"anchors,omitempty" doc:"event to local date, set or replaced from now on; null takes a date back"`
		Reason   string             `json:"reason,omitempty"`
	}
}

type renewOutput struct{ Body activation }

type meOutput struct {
	Body struct {
		Participant web.ID `json:"participant"`
		Study       web.ID `json:"study"`
		Protocol    string `json:"protocol"`
		Title       string `json:"title"`
		Number      string `json:"number"`
		Zone        string `json:"zone"`
		Language    string `json:"language"`
		Status      string `json:"status"`
	}
}

const base = "/api/v1/studies/{id}/participants"

// Routes adds the routes of participants to the server.
func (s *Service) Routes(server *web.Server) {
	api := server.API()
	op := func(method, path, id, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"participants"}}
	}
	create := op(http.MethodPost, base, "enrol-participant", "Enrol a participant")
	create.DefaultStatus = http.StatusCreated
	web.Register(api, create, s.enrolOne)
	web.Register(api, op(http.MethodGet, base, "list-participants", "List participants of the sites that the caller may see"), s.list)
	web.Register(api, op(http.MethodGet, base+"/{pid}", "get-participant", "One participant"), s.get)
	web.Register(api, op(http.MethodPatch, base+"/{pid}", "change-participant", "Change a participant; needs If-Match"), s.change)
	renew := op(http.MethodPost, base+"/{pid}/activation", "renew-activation", "Replace a lost device or PIN: a new activation code, which ends what the old ones opened")
	renew.DefaultStatus = http.StatusCreated
	web.Register(api, renew, s.renew)
	web.Register(api, op(http.MethodGet, "/api/v1/me", "me", "The calling participant"), s.me)
	s.recordRoutes(api)
	s.contactRoutes(api)
	s.importRoute(server)
}

func (s *Service) enrolOne(ctx context.Context, in *enrolInput) (*enrolOutput, error) {
	o, err := s.Enrol(ctx, int64(in.Study), in.Body.enrolment(), web.RequestID(ctx))
	if err != nil {
		return nil, err
	}
	return &enrolOutput{
		Location: "/api/v1/studies/" + in.Study.String() + "/participants/" + web.ID(o.ID).String(),
		Body:     activationOf(o),
	}, nil
}

func (s *Service) list(ctx context.Context, in *listInput) (*listOutput, error) {
	var after web.ID
	if in.Cursor != "" {
		if err := after.UnmarshalText([]byte(in.Cursor)); err != nil {
			return nil, errs.InvalidParameter("cursor", "must be a nextCursor of an earlier page")
		}
	}
	page, sites, more, err := s.List(ctx, int64(in.Study), int64(after), in.Limit)
	if err != nil {
		return nil, err
	}
	out := &listOutput{}
	out.Body.Items = make([]view, 0, len(page))
	for _, p := range page {
		out.Body.Items = append(out.Body.Items, viewOf(p, sites[p.Site]))
	}
	if more {
		cursor := web.ID(page[len(page)-1].ID).String()
		out.Body.NextCursor = &cursor
	}
	return out, nil
}

func (s *Service) get(ctx context.Context, in *one) (*viewOutput, error) {
	p, site, err := s.Get(ctx, int64(in.Study), int64(in.Participant))
	if err != nil {
		return nil, err
	}
	return &viewOutput{ETag: web.ETag(p.Version), Body: viewOf(p, site)}, nil
}

func (s *Service) change(ctx context.Context, in *changeInput) (*viewOutput, error) {
	version, err := web.IfMatch(in.IfMatch)
	if err != nil {
		return nil, err
	}
	b := in.Body
	c := Change{Site: b.Site, Arm: b.Arm, Zone: b.Zone, Language: b.Language, Status: b.Status, Anchors: make(map[string]string), Reason: b.Reason}
	for event, date := range b.Anchors {
		if date == nil {
			c.Taken = append(c.Taken, event)
		} else {
			c.Anchors[event] = *date
		}
	}
	p, site, err := s.Update(ctx, int64(in.Study), int64(in.Participant), version, c, web.RequestID(ctx))
	if err != nil {
		return nil, err
	}
	return &viewOutput{ETag: web.ETag(p.Version), Body: viewOf(p, site)}, nil
}

func (s *Service) renew(ctx context.Context, in *one) (*renewOutput, error) {
	o, err := s.Renew(ctx, int64(in.Study), int64(in.Participant), web.RequestID(ctx))
	if err != nil {
		return nil, err
	}
	return &renewOutput{Body: activationOf(o)}, nil
}

func (s *Service) me(ctx context.Context, _ *struct{}) (*meOutput, error) {
	self, err := s.Me(ctx)
	if err != nil {
		return nil, err
	}
	out := &meOutput{}
	p := self.Profile
	out.Body.Participant, out.Body.Study, out.Body.Number = web.ID(p.ID), web.ID(p.Study), p.Number
	out.Body.Protocol, out.Body.Title = self.Study.Protocol, self.Study.Title
	out.Body.Zone, out.Body.Language, out.Body.Status = self.Zone, p.Language, p.Status
	return out, nil
}
