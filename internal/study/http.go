package study

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/web"
)

type settings struct {
	ParticipantPin string `json:"participantPin,omitempty" enum:"required,optional" doc:"whether activation needs a PIN; required unless said otherwise"`
}

type studyView struct {
	ID              web.ID    `json:"id"`
	Protocol        string    `json:"protocol"`
	Title           string    `json:"title"`
	Zone            string    `json:"zone"`
	Languages       []string  `json:"languages"`
	Status          string    `json:"status" enum:"draft,active,locking,locked,archived"`
	Settings        settings  `json:"settings"`
	ScheduleVersion int64     `json:"scheduleVersion"`
	CreatedAt       time.Time `json:"createdAt"`
}

func viewOf(s Study) studyView {
	return studyView{ID: web.ID(s.ID), Protocol: s.Protocol, Title: s.Title, Zone: s.Zone, Languages: s.Languages, Status: s.Status,
		Settings: settings{s.ParticipantPin}, ScheduleVersion: s.ScheduleVersion, CreatedAt: s.CreatedAt}
}

type studyOutput struct {
	ETag     string `header:"ETag"`
	Location string `header:"Location"`
	Body     studyView
}

func outputOf(s Study, err error) (*studyOutput, error) {
	if err != nil {
		return nil, err
	}
	return &studyOutput{ETag: web.ETag(s.Version), Body: viewOf(s)}, nil
}

type newStudy struct {
	Protocol  string   `json:"protocol" doc:"protocol number, unique"`
	Title     string   `json:"title"`
	Zone      string   `json:"zone" doc:"IANA name; default of the participants"`
	Languages []string `json:"languages" doc:"language tags, the default first"`
	Settings  settings `json:"settings,omitempty"`
}

type createInput struct{ Body newStudy }

type studyChange struct {
	Title     *string   `json:"title,omitempty"`
	Zone      *string   `json:"zone,omitempty"`
	Languages []string  `json:"languages,omitempty"`
	Settings  *settings `json:"settings,omitempty"`
}

type changeInput struct {
	ID      web.ID `path:"id"`
	IfMatch string `header:"If-Match"`
	Body    studyChange
}

type studyID struct {
	ID web.ID `path:"id"`
}

type codedView struct {
	ID   web.ID `json:"id"`
	Code string `json:"code"`
	Name string `json:"name"`
}

type coded struct {
	Code string `json:"code"`
	Name string `json:"name"`
}

type codedInput struct {
	ID   web.ID `path:"id"`
	Body coded
}

type staffView struct {
	User     web.ID `json:"user"`
	Username string `json:"username"`
	Role     string `json:"role"`
	Site     web.ID `json:"site,omitzero" doc:"absent: every site"`
}

type out[T any] struct{ Body T }

type pageInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
	Cursor string `query:"cursor"`
}

func op(id, method, path, summary string, status int) huma.Operation {
	return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"study design"}, DefaultStatus: status}
}

type siteView struct {
	ID    web.ID `json:"id"`
	Code  string `json:"code"`
	Name  string `json:"name"`
	Email string `json:"email,omitempty"`
	Phone string `json:"phone,omitempty"`
}

func siteViewOf(v Site) siteView { return siteView{web.ID(v.ID), v.Code, v.Name, v.Email, v.Phone} }

type siteContactInput struct {
	ID   web.ID `path:"id"`
	Site web.ID `path:"sid"`
	Body struct {
		Email string `json:"email" doc:"empty: none" example:"clinic@example.org"`
		Phone string `json:"phone,omitempty" doc:"E.164; empty: none"`
	}
}

// Routes registers study design.
func (s *Service) Routes(api huma.API) {
	s.questionnaireRoutes(api)
	web.Register(api, op("create-study", http.MethodPost, "/api/v1/studies", "Create a draft study", 201), s.postStudy)
	web.Register(api, op("list-studies", http.MethodGet, "/api/v1/studies", "The studies that the caller has a right in", 200), s.getStudies)
	web.Register(api, op("get-study", http.MethodGet, "/api/v1/studies/{id}", "One study", 200), func(ctx context.Context, in *studyID) (*studyOutput, error) {
		return outputOf(s.Get(ctx, int64(in.ID)))
	})
	web.Register(api, op("update-study", http.MethodPatch, "/api/v1/studies/{id}", "Change a study", 200), s.patchStudy)
	web.Register(api, op("publish-study", http.MethodPost, "/api/v1/studies/{id}/publish", "Make a study active", 200), func(ctx context.Context, in *studyID) (*studyOutput, error) {
		return outputOf(s.Publish(ctx, int64(in.ID)))
	})
	web.Register(api, op("add-site", http.MethodPost, "/api/v1/studies/{id}/sites", "Add a site", 201), func(ctx context.Context, in *codedInput) (*out[codedView], error) {
		v, err := s.AddSite(ctx, int64(in.ID), in.Body.Code, in.Body.Name)
		return answer(codedView{web.ID(v.ID), v.Code, v.Name}, err)
	})
	web.Register(api, op("list-sites", http.MethodGet, "/api/v1/studies/{id}/sites", "Sites of a study", 200), func(ctx context.Context, in *studyID) (*out[web.Page[siteView]], error) {
		list, err := s.Sites(ctx, int64(in.ID))
		return whole(list, siteViewOf, err)
	})
	web.Register(api, op("set-site-contact", http.MethodPut, "/api/v1/studies/{id}/sites/{sid}/contact", "Where a site is told of what its participants have missed", 200), func(ctx context.Context, in *siteContactInput) (*out[siteView], error) {
		v, err := s.SetSiteContact(ctx, int64(in.ID), int64(in.Site), in.Body.Email, in.Body.Phone)
		return answer(siteViewOf(v), err)
	})
	web.Register(api, op("add-arm", http.MethodPost, "/api/v1/studies/{id}/arms", "Add an arm", 201), func(ctx context.Context, in *codedInput) (*out[codedView], error) {
		v, err := s.AddArm(ctx, int64(in.ID), in.Body.Code, in.Body.Name)
		return answer(codedView{web.ID(v.ID), v.Code, v.Name}, err)
	})
	web.Register(api, op("list-arms", http.MethodGet, "/api/v1/studies/{id}/arms", "Arms of a study", 200), func(ctx context.Context, in *studyID) (*out[web.Page[codedView]], error) {
		list, err := s.Arms(ctx, int64(in.ID))
		return whole(list, func(v Arm) codedView { return codedView{web.ID(v.ID), v.Code, v.Name} }, err)
	})
	web.Register(api, op("grant-role", http.MethodPost, "/api/v1/studies/{id}/staff", "Give a staff member a role in the study", 201), s.postStaff)
	web.Register(api, op("list-staff", http.MethodGet, "/api/v1/studies/{id}/staff", "Rights in a study", 200), func(ctx context.Context, in *studyID) (*out[web.Page[staffView]], error) {
		list, err := s.Staff(ctx, int64(in.ID))
		return whole(list, staffOf, err)
	})
	s.scheduleRoutes(api)
}

func answer[T any](v T, err error) (*out[T], error) {
	if err != nil {
		return nil, err
	}
	return &out[T]{v}, nil
}

// whole is a list that fits on one page.
func whole[T, V any](list []T, view func(T) V, err error) (*out[web.Page[V]], error) {
	if err != nil {
		return nil, err
	}
	page := web.Page[V]{Items: make([]V, len(list))}
	for i, v := range list {
		page.Items[i] = view(v)
	}
	return &out[web.Page[V]]{page}, nil
}

func staffOf(g StaffGrant) staffView {
	return staffView{web.ID(g.User), g.Username, string(g.Role), web.ID(g.Site)}
}

func (s *Service) postStudy(ctx context.Context, in *createInput) (*studyOutput, error) {
	pin := in.Body.Settings.ParticipantPin
	if pin == "" {
		pin = PinRequired
	}
	st, err := s.Create(ctx, Study{Protocol: in.Body.Protocol, Title: in.Body.Title, Zone: in.Body.Zone, Languages: in.Body.Languages, ParticipantPin: pin})
	o, err := outputOf(st, err)
	if err == nil {
		o.Location = "/api/v1/studies/" + strconv.FormatInt(st.ID, 10)
	}
	return o, err
}

func (s *Service) getStudies(ctx context.Context, in *pageInput) (*out[web.Page[studyView]], error) {
	var after int64
	if in.Cursor != "" {
		var err error
		if after, err = strconv.ParseInt(in.Cursor, 36, 64); err != nil {
			return nil, errs.InvalidParameter("cursor", "must be a nextCursor that this list returned")
		}
	}
	list, err := s.List(ctx, after, in.Limit+1)
	more := len(list) > in.Limit
	if more {
		list = list[:in.Limit]
	}
	o, err := whole(list, viewOf, err)
	if err == nil && more {
		next := strconv.FormatInt(list[len(list)-1].ID, 36)
		o.Body.NextCursor = &next
	}
	return o, err
}

func (s *Service) patchStudy(ctx context.Context, in *changeInput) (*studyOutput, error) {
	version, err := web.IfMatch(in.IfMatch)
	if err != nil {
		return nil, err
	}
	c := Change{Title: in.Body.Title, Zone: in.Body.Zone, Languages: in.Body.Languages}
	if in.Body.Settings != nil && in.Body.Settings.ParticipantPin != "" {
		c.ParticipantPin = &in.Body.Settings.ParticipantPin
	}
	return outputOf(s.Update(ctx, int64(in.ID), version, c))
}

type newGrant struct {
	Username string `json:"username"`
	Role     string `json:"role"`
	Site     string `json:"site,omitempty" doc:"code; absent: every site"`
}

func (s *Service) postStaff(ctx context.Context, in *struct {
	ID   web.ID `path:"id"`
	Body newGrant
}) (*out[staffView], error) {
	g, err := s.AddStaff(ctx, int64(in.ID), in.Body.Username, auth.Role(in.Body.Role), in.Body.Site)
	return answer(staffOf(g), err)
}
