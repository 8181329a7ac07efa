package participant

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
)

const actionContact = "contact.update"

// consentTries bounds how often a participant's consents are set again because staff changed the contact data just then.
const consentTries = 5

// Contact returns how a participant can be reached; version 0 where nothing was ever stated.
func (s *Service) Contact(ctx context.Context, study, id int64) (Contact, error) {
	if _, err := s.reachable(ctx, study, id); err != nil {
		return Contact{}, err
	}
	return s.contact(ctx, id)
}

// PutContact replaces contact data whose version is still the one that the caller edited, else errs.Stale. A consent that is
// not stated is not given. Nobody can consent for a participant who has left: errs.Conflict.
func (s *Service) PutContact(ctx context.Context, study, id, version int64, is Contact, reason, source string) (Contact, error) {
	p, err := s.reachable(ctx, study, id)
	if err != nil {
		return Contact{}, err
	}
	d, err := s.desk(ctx, study, auth.ParticipantContact, source)
	if err != nil {
		return Contact{}, err
	}
	findings := is.findings()
	if len(reason) > maxReason {
		findings = append(findings, errs.Finding{Pointer: "/reason", Code: "too_long", Detail: fmt.Sprintf("must be at most %d bytes", maxReason)})
	}
	if len(findings) > 0 {
		return Contact{}, errs.InvalidField(findings...)
	}
	was, err := s.contact(ctx, id)
	if err != nil {
		return Contact{}, err
	}
	if was.Version != version {
		return Contact{}, errContactStale()
	}
	return s.writeContact(ctx, d, p, &was, is, reason)
}

// MyContact returns how the calling participant can be reached.
func (s *Service) MyContact(ctx context.Context) (Contact, error) {
	who, err := auth.Participant(ctx)
	if err != nil {
		return Contact{}, err
	}
	return s.contact(ctx, who.ID)
}

// Consent gives and withdraws the stated consents of the calling participant; the others stay as they are. It counts from the
// moment it returns.
func (s *Service) Consent(ctx context.Context, consents map[string]bool, source string) (Contact, error) {
	who, err := auth.Participant(ctx)
	if err != nil {
		return Contact{}, err
	}
	if findings := consentFindings(consents); len(findings) > 0 {
		return Contact{}, errs.InvalidField(findings...)
	}
	profile, err := s.Profiles.Get(ctx, who.ID)
	if err != nil {
		return Contact{}, err
	}
	about, err := s.Studies.Study(ctx, profile.Study)
	if err != nil {
		return Contact{}, err
	}
	d := &desk{by: who, about: about, source: source}
	for range consentTries {
		was, failed := s.contact(ctx, who.ID)
		if failed != nil {
			return Contact{}, failed
		}
		is := was
		is.Consents = maps.Clone(was.Consents)
		maps.Copy(is.Consents, consents)
		if maps.Equal(is.Consents, was.Consents) {
			return was, nil
		}
		if is, err = s.writeContact(ctx, d, &Participant{ID: who.ID, Study: profile.Study}, &was, is, ""); errs.KindOf(err) != errs.Stale {
			return is, err
		}
	}
	return Contact{}, err
}

// Contacts returns how those of the participants can be reached who have stated anything, as it is now: a consent that was
// withdrawn counts at once. One whose data do not open is left out, and told in the log.
func (s *Service) Contacts(ctx context.Context, ids []int64) (map[int64]Contact, error) {
	sealed, err := s.Shelf.Contacts(ctx, ids)
	if err != nil || len(sealed) == 0 {
		return nil, err
	}
	profiles, err := s.Profiles.GetMany(ctx, slices.Collect(maps.Keys(sealed)))
	if err != nil {
		return nil, err
	}
	out := make(map[int64]Contact, len(sealed))
	for id, c := range sealed {
		profile, known := profiles[id]
		if !known {
			continue
		}
		contact, err := c.open(profile.Key)
		if err != nil {
			s.Logger.ErrorContext(ctx, "contact data do not open", "participant", id, "error", err)
			continue
		}
		out[id] = contact
	}
	return out, nil
}

// reachable asks for the right to a participant's contact data.
func (s *Service) reachable(ctx context.Context, study, id int64) (*Participant, error) {
	p, err := s.visible(ctx, study, id, auth.ParticipantRead)
	if err != nil {
		return nil, err
	}
	_, err = s.Guard.Site(ctx, study, p.Site, auth.ParticipantContact)
	return p, err
}

func (s *Service) contact(ctx context.Context, id int64) (Contact, error) {
	sealed, err := s.Shelf.Contacts(ctx, []int64{id})
	if err != nil {
		return Contact{}, err
	}
	c, there := sealed[id]
	if !there {
		return Contact{Consents: agreed(nil)}, nil
	}
	key, err := s.Profiles.Key(ctx, id)
	if err != nil {
		return Contact{}, err
	}
	return c.open(key)
}

// writeContact writes the version after was, with its evidence.
func (s *Service) writeContact(ctx context.Context, d *desk, p *Participant, was *Contact, is Contact, reason string) (Contact, error) {
	is.Version, is.Consents = was.Version+1, agreed(is.Consents)
	key, err := s.Profiles.Key(ctx, p.ID)
	if err != nil {
		return Contact{}, err
	}
	sealed, err := is.seal(p.ID, key)
	if err != nil {
		return Contact{}, err
	}
	entry, err := s.entry(d, p, actionContact, reason)
	if err != nil {
		return Contact{}, err
	}
	entry.Record = "contact"
	if entry.Old, entry.New, err = contactChange(was, &is); err != nil {
		return Contact{}, err
	}
	return is, s.Shelf.PutContact(ctx, sealed, entry.At, entry)
}

// consentsEnd returns what makes the evidence of consents that end because their participant leaves.
func (s *Service) consentsEnd(d *desk, p *Participant, reason string) (func(given []string) (audit.Entry, error), error) {
	entry, err := s.entry(d, p, actionContact, reason)
	entry.Record = "contact"
	return func(given []string) (audit.Entry, error) {
		was := Contact{Consents: make(map[string]bool)}
		for _, channel := range given {
			was.Consents[channel] = true
		}
		out := entry
		out.Old, out.New, err = contactChange(&was, &Contact{})
		return out, err
	}, err
}
