package safety

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/web"
)

// Catalog knows what studies are made of.
type Catalog interface {
	Study(ctx context.Context, id int64) (study.Study, error)
	Site(ctx context.Context, study int64, code string) (study.Site, error)
	SiteByID(ctx context.Context, study, id int64) (study.Site, error)
	Definition(ctx context.Context, study int64, canonical string) (*questionnaire.Definition, error)
	// Versions returns the active versions of a questionnaire.
	Versions(ctx context.Context, study int64, url string) ([]*questionnaire.Definition, error)
}

// People knows participants.
type People interface {
	Get(ctx context.Context, id int64) (*participant.Profile, error)
	// GetMany returns those that exist, with one read per shard for what is not in memory.
	GetMany(ctx context.Context, ids []int64) (map[int64]*participant.Profile, error)
}

// IDs gives ascending Snowflake ids.
type IDs interface {
	NextN(n int) ([]int64, error)
}

// Service is what staff do with rules and alerts. It is safe for concurrent use.
type Service struct {
	Store   *Store
	Catalog Catalog
	People  People
	Guard   auth.Guard
	Sealer  *keyring.DataKey // of rotas: the addresses of staff
	IDs     IDs
	Now     func() time.Time
}

func (s *Service) now() time.Time { return s.Now().UTC().Truncate(time.Microsecond) }

// entry is the audit entry of what a person has done.
func (s *Service) entry(ctx context.Context, who auth.Principal, at time.Time, action, record string, id, of int64, is any) (audit.Entry, error) {
	ids, err := s.IDs.NextN(1)
	if err != nil {
		return audit.Entry{}, err
	}
	value, err := json.Marshal(is)
	return audit.Entry{ID: ids[0], At: at, Zone: "UTC", ActorKind: string(who.Kind), Actor: who.ID, Action: action, Record: record, RecordID: id, Study: of, New: value,
		Source: web.RequestID(ctx)}, err
}

// knownTo shows a study's questionnaires to Check.
type knownTo func(url string) []*questionnaire.Definition

// Versions implements Known.
func (k knownTo) Versions(url string) []*questionnaire.Definition { return k(url) }

// PutRules publishes the next version of a study's rules: it applies to what is received from now on. With findings nothing is written.
func (s *Service) PutRules(ctx context.Context, of int64, rules []Rule) (Rules, error) {
	who, err := s.Guard.Study(ctx, of, auth.StudyDesign)
	if err != nil {
		return Rules{}, err
	}
	var failed error
	findings := Check(rules, knownTo(func(url string) []*questionnaire.Definition {
		versions, err := s.Catalog.Versions(ctx, of, url)
		failed = err
		return versions
	}))
	if failed != nil {
		return Rules{}, failed
	}
	if len(findings) > 0 {
		return Rules{}, errRules(findings)
	}
	was, err := s.Store.Rules(ctx, of, 0)
	if err != nil && errs.KindOf(err) != errs.NotFound {
		return Rules{}, err
	}
	is := Rules{Version: was.Version + 1, Rules: rules, By: who.ID, At: s.now()}
	e, err := s.entry(ctx, who, is.At, "safety.rules", "safety_rules", of, of, map[string]any{"version": is.Version, "rules": rules})
	if err != nil {
		return Rules{}, err
	}
	return is, s.Store.PutRules(ctx, of, is, e)
}

// Rules returns a version of a study's rules, 0 for the newest; one without a version where there are none.
func (s *Service) Rules(ctx context.Context, of, version int64) (Rules, error) {
	if _, err := s.Guard.Study(ctx, of, auth.StudyRead); err != nil {
		return Rules{}, err
	}
	r, err := s.Store.Rules(ctx, of, version)
	if version == 0 && errs.KindOf(err) == errs.NotFound {
		err = nil
	}
	return r, err
}

func rotaPlace(of int64) []byte { return fmt.Appendf(nil, "eprod/safety_rota/1/%d", of) }

// openRota reads a study's rota for whoever needs it.
func openRota(ctx context.Context, store *Store, key *keyring.DataKey, of int64) (Rota, error) {
	sealed, version, err := store.Rota(ctx, of)
	if err != nil || version == 0 {
		return Rota{}, err
	}
	plain, err := key.Open(sealed, rotaPlace(of))
	if err != nil {
		return Rota{}, fmt.Errorf("rota of study %d: %w", of, err)
	}
	r := Rota{Version: version}
	return r, json.Unmarshal(plain, &r)
}

// Rota returns who is told of a study's alerts, to one who may change that.
func (s *Service) Rota(ctx context.Context, of int64) (Rota, error) {
	if _, err := s.Guard.Study(ctx, of, auth.StudyDesign); err != nil {
		return Rota{}, err
	}
	return openRota(ctx, s.Store, s.Sealer, of)
}

// PutRota replaces the rota that has the version of r; else errs.Stale. The audit trail says that it was changed, not the addresses.
func (s *Service) PutRota(ctx context.Context, of int64, r Rota) (Rota, error) {
	who, err := s.Guard.Study(ctx, of, auth.StudyDesign)
	if err != nil {
		return Rota{}, err
	}
	var failed error
	findings := checkRota(&r, func(code string) bool {
		_, err := s.Catalog.Site(ctx, of, code)
		if err != nil && errs.KindOf(err) != errs.NotFound {
			failed = err
		}
		return err == nil
	})
	if failed != nil {
		return Rota{}, failed
	}
	if len(findings) > 0 {
		return Rota{}, errs.InvalidField(findings...)
	}
	plain, err := json.Marshal(r)
	if err != nil {
		return Rota{}, err
	}
	sealed, err := s.Sealer.Seal(plain, rotaPlace(of))
	if err != nil {
		return Rota{}, err
	}
	e, err := s.entry(ctx, who, s.now(), "safety.rota", "safety_rota", of, of, map[string]any{"version": r.Version + 1, "sites": len(r.Sites), "manager": len(r.Manager)})
	if err != nil {
		return Rota{}, err
	}
	err = s.Store.PutRota(ctx, of, r.Version, sealed, e)
	r.Version++
	return r, err
}

// AlertView is an alert as staff see it.
type AlertView struct {
	Alert
	Number   string   // participant number
	Evidence Evidence // only of one alert
	History  []Note   // only of one alert
}

// Alerts returns one page of a study's alerts, newest first, of the sites that the caller may see.
func (s *Service) Alerts(ctx context.Context, f AlertFilter) ([]AlertView, error) {
	sites, all, err := s.Guard.Sites(ctx, f.Study, auth.AlertRead)
	if err != nil {
		return nil, err
	}
	if !all {
		if f.Sites = narrowed(f.Sites, sites); len(f.Sites) == 0 {
			return nil, nil
		}
	}
	list, err := s.Store.Alerts(ctx, f)
	if err != nil {
		return nil, err
	}
	whose := make([]int64, len(list))
	for i := range list {
		whose[i] = list[i].Participant
	}
	people, err := s.People.GetMany(ctx, whose)
	if err != nil {
		return nil, err
	}
	views := make([]AlertView, len(list))
	for i, a := range list {
		p := people[a.Participant]
		if p == nil {
			return nil, errs.Absent("participant")
		}
		views[i] = AlertView{Alert: a, Number: p.Number}
	}
	return views, nil
}

// narrowed returns the wanted sites among those that are allowed; all of them where none is named.
func narrowed(wanted, allowed []int64) []int64 {
	if len(wanted) == 0 {
		return allowed
	}
	return slices.DeleteFunc(slices.Clone(wanted), func(id int64) bool { return !slices.Contains(allowed, id) })
}

// alert returns an alert to one who has a right at its site; to others it does not exist.
func (s *Service) alert(ctx context.Context, of, id int64, a auth.Action) (auth.Principal, Alert, *participant.Profile, error) {
	if _, err := auth.Staff(ctx); err != nil {
		return auth.Principal{}, Alert{}, nil, err
	}
	found, err := s.Store.Alert(ctx, of, id)
	if err != nil {
		return auth.Principal{}, Alert{}, nil, err
	}
	who, err := s.Guard.Site(ctx, of, found.Site, a)
	if err != nil {
		return auth.Principal{}, Alert{}, nil, err
	}
	p, err := s.People.Get(ctx, found.Participant)
	return who, found, p, err
}

// Alert returns one alert with its evidence.
func (s *Service) Alert(ctx context.Context, of, id int64) (AlertView, error) {
	_, a, p, err := s.alert(ctx, of, id, auth.AlertRead)
	if err != nil {
		return AlertView{}, err
	}
	return viewOf(a, p)
}

func viewOf(a Alert, p *participant.Profile) (AlertView, error) {
	v := AlertView{Alert: a, Number: p.Number}
	plain, err := p.Key.Open(a.Sealed, evidencePlace(a.Participant, a.ID))
	if err != nil {
		return v, fmt.Errorf("evidence of alert %d: %w", a.ID, err)
	}
	if err := json.Unmarshal(plain, &v.Evidence); err != nil {
		return v, err
	}
	v.History, err = notesOf(&a, p)
	return v, err
}

func evidencePlace(participant, id int64) []byte {
	return fmt.Appendf(nil, "eprod/alert/1/%d/%d", participant, id)
}
func notesPlace(participant, id int64) []byte {
	return fmt.Appendf(nil, "eprod/alert_notes/1/%d/%d", participant, id)
}

func notesOf(a *Alert, p *participant.Profile) ([]Note, error) {
	if len(a.Notes) == 0 {
		return nil, nil
	}
	plain, err := p.Key.Open(a.Notes, notesPlace(a.Participant, a.ID))
	if err != nil {
		return nil, fmt.Errorf("notes of alert %d: %w", a.ID, err)
	}
	var notes []Note
	return notes, json.Unmarshal(plain, &notes)
}

// Acknowledge says that somebody takes care of an alert: the escalation ends.
func (s *Service) Acknowledge(ctx context.Context, of, id int64, note string) (AlertView, error) {
	return s.handle(ctx, of, id, note, StateAcknowledged)
}

// Resolve says what became of an alert; the note must say it.
func (s *Service) Resolve(ctx context.Context, of, id int64, note string) (AlertView, error) {
	return s.handle(ctx, of, id, note, StateResolved)
}

func (s *Service) handle(ctx context.Context, of, id int64, text, to string) (AlertView, error) {
	who, was, p, err := s.alert(ctx, of, id, auth.AlertHandle)
	if err != nil {
		return AlertView{}, err
	}
	if n := utf8.RuneCountInString(text); n > maxNote || to == StateResolved && strings.TrimSpace(text) == "" {
		return AlertView{}, errs.InvalidField(errs.Finding{Pointer: "/note", Code: "invalid_length", Detail: fmt.Sprintf("must have 1 to %d characters and say what was done", maxNote)})
	}
	if was.State == to || was.State == StateResolved {
		return AlertView{}, errState(was.State)
	}
	is := was
	is.State, is.UpdatedAt, is.NextAt = to, s.now(), time.Time{}
	if to == StateResolved {
		is.ResolvedBy, is.ResolvedAt = who.ID, is.UpdatedAt
	}
	if was.State == StateOpen {
		is.AcknowledgedBy, is.AcknowledgedAt = who.ID, is.UpdatedAt
	}
	notes, err := notesOf(&was, p)
	if err != nil {
		return AlertView{}, err
	}
	plain, err := json.Marshal(append(notes, Note{By: who.ID, At: is.UpdatedAt, What: to, Text: text}))
	if err != nil {
		return AlertView{}, err
	}
	if is.Notes, err = p.Key.Seal(plain, notesPlace(was.Participant, was.ID)); err != nil {
		return AlertView{}, err
	}
	e, err := s.entry(ctx, who, is.UpdatedAt, "alert."+verbOf(to), "alert", id, of, map[string]string{"state": to, "rule": was.Rule})
	if err != nil {
		return AlertView{}, err
	}
	e.Participant, e.Old = was.Participant, fmt.Appendf(nil, `{"state":%q}`, was.State)
	event, err := s.event(&is, "alert."+verbOf(to), is.UpdatedAt)
	if err != nil {
		return AlertView{}, err
	}
	if err := s.Store.Change(ctx, was, is, e, event); err != nil {
		return AlertView{}, err
	}
	return viewOf(is, p)
}

func verbOf(state string) string {
	if state == StateResolved {
		return "resolve"
	}
	return "acknowledge"
}

func (s *Service) event(a *Alert, kind string, at time.Time) (outbox.Event, error) {
	ids, err := s.IDs.NextN(1)
	if err != nil {
		return outbox.Event{}, err
	}
	return eventOf(ids[0], a, kind, at), nil
}

// eventOf tells others of an alert, by ids and words only.
func eventOf(id int64, a *Alert, kind string, at time.Time) outbox.Event {
	payload := fmt.Sprintf(`{"id":"%d","study":"%d","participant":"%d","response":"%d","severity":%q,"state":%q}`, a.ID, a.Study, a.Participant, a.Response, a.Severity, a.State)
	return outbox.Event{ID: id, Topic: submission.Events, Type: kind, Study: a.Study, Participant: a.Participant, At: at, Payload: []byte(payload)}
}
