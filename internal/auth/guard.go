package auth

import (
	"context"
	"fmt"
	"slices"

	"github.com/eprod/eprod/internal/errs"
)

// Grant is one role in one study.
type Grant struct {
	Role Role
	Site int64 // 0 means every site
}

// Grants reads rights from where they are kept. They are never cached: a right that was taken away is gone at once.
type Grants interface {
	// Grants returns the user's roles in the study, and none for a study that does not exist.
	Grants(ctx context.Context, user, study int64) ([]Grant, error)
}

// Guard answers whether the caller may do something. Its refusals are errs.Unauthenticated (nobody signed in),
// errs.NotFound (the caller has no right at all in that study, so it does not exist for it) and errs.Forbidden. An
// administrator may do everything, also in a study that does not exist: the read that follows says so.
type Guard struct{ Grants Grants }

// Global asks for an action outside any study; the account's own role decides.
func (g Guard) Global(ctx context.Context, a Action) (Principal, error) {
	p, ok := From(ctx)
	if !ok {
		return require(ctx, KindStaff, "")
	}
	if p.Kind == KindParticipant || !p.Role.May(a) {
		return Principal{}, refused(a)
	}
	return p, nil
}

// Study asks for an action on the whole study. A grant for one site covers only StudyRead.
func (g Guard) Study(ctx context.Context, study int64, a Action) (Principal, error) {
	p, sites, all, err := g.grants(ctx, study, a)
	if err != nil {
		return Principal{}, err
	}
	if !all && (a != StudyRead || len(sites) == 0) {
		return Principal{}, refused(a)
	}
	return p, nil
}

// Site asks for an action at one site of the study. A caller with rights in the study, but none at this site, learns
// nothing about what is there: errs.NotFound.
func (g Guard) Site(ctx context.Context, study, site int64, a Action) (Principal, error) {
	p, ok := From(ctx)
	if ok && p.Kind == KindStaff && p.Role != Administrator {
		return g.atSite(ctx, p, study, site, a)
	}
	p, _, _, err := g.grants(ctx, study, a)
	return p, err
}

func (g Guard) atSite(ctx context.Context, p Principal, study, site int64, a Action) (Principal, error) {
	granted, err := g.Grants.Grants(ctx, p.ID, study)
	if err != nil {
		return Principal{}, fmt.Errorf("grants: %w", err)
	}
	here := false
	for _, grant := range granted {
		if grant.Site != 0 && grant.Site != site {
			continue
		}
		if here = true; grant.Role.May(a) {
			return p, nil
		}
	}
	if !here {
		return Principal{}, errs.Absent("record")
	}
	return Principal{}, refused(a)
}

// Places tells where participants are: their study and site, or errs.NotFound.
type Places interface {
	Site(ctx context.Context, participant int64) (study, site int64, err error)
}

// Participant asks staff's right to an action on a participant of the study, at its site. A participant of another study does not
// exist in this one.
func (g Guard) Participant(ctx context.Context, places Places, study, participant int64, a Action) error {
	if _, err := Staff(ctx); err != nil {
		return err
	}
	in, site, err := places.Site(ctx, participant)
	if err != nil {
		return err
	}
	if in != study {
		return errs.Absent("participant")
	}
	_, err = g.Site(ctx, study, site, a)
	return err
}

// Sites returns the sites of the study at which the caller may do something; all means every site, and sites is empty then.
// Nowhere is a refusal.
func (g Guard) Sites(ctx context.Context, study int64, a Action) (sites []int64, all bool, err error) {
	_, sites, all, err = g.grants(ctx, study, a)
	if err == nil && !all && len(sites) == 0 {
		err = refused(a)
	}
	return sites, all, err
}

func (g Guard) grants(ctx context.Context, study int64, a Action) (p Principal, sites []int64, all bool, err error) {
	if p, err = Staff(ctx); err != nil {
		return Principal{}, nil, false, err
	}
	if p.Role == Administrator {
		return p, nil, true, nil
	}
	granted, err := g.Grants.Grants(ctx, p.ID, study)
	if err != nil {
		return Principal{}, nil, false, fmt.Errorf("grants: %w", err)
	}
	if len(granted) == 0 {
		return Principal{}, nil, false, errs.Absent("study")
	}
	for _, grant := range granted {
		switch {
		case !grant.Role.May(a):
		case grant.Site == 0:
			return p, nil, true, nil
		case !slices.Contains(sites, grant.Site):
			sites = append(sites, grant.Site)
		}
	}
	return p, sites, false, nil
}

func refused(a Action) error {
	return errs.NotAllowed("this needs the right " + string(a))
}
