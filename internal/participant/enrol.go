package participant

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/user"
)

// Outcome is what becomes of one enrolment. The activation code exists only here; the server keeps its hash.
type Outcome struct {
	Line   int // of the import
	ID     int64
	Number string
	Code   string
	Link   string // opens the participant's page with the code, which stays on the device: it is a fragment (RFC 3986, 3.5)
	Err    error  // then nobody was enrolled by this line; ID is the participant who has the number already, if any
}

// Line is one line of an import.
type Line struct {
	Line int // counted from 1, blank lines included
	Enrolment
	Err error // why the line could not be read
}

// Enrol adds one participant. A number that is taken is errs.Conflict; a number that was only reserved when an earlier
// call failed half-way is completed.
func (s *Service) Enrol(ctx context.Context, study int64, e Enrolment, source string) (Outcome, error) {
	d, err := s.desk(ctx, study, auth.ParticipantEnrol, source)
	if err != nil {
		return Outcome{}, err
	}
	out := s.enrol(ctx, d, []Line{{Line: 1, Enrolment: e}})[0]
	return out, out.Err
}

// importStep bounds each step of an import, its beginning and every batch of lines, as the work of any other request is bounded: while a
// database hangs, what can be told is told after it, though the import as a whole may take minutes.
const importStep = 2500 * time.Millisecond

// Import adds many participants, a batch at a time. Each line's fate is given to emit in order, after its batch is durable; a
// line that fails does not stop the others. Importing the same lines again is safe: numbers that are there answer with
// already_exists and their id. It ends early with an error only when emit fails, the context ends or nothing could begin.
func (s *Service) Import(ctx context.Context, study int64, lines iter.Seq[Line], source string, emit func([]Outcome) error) error {
	beginning, begun := context.WithTimeout(ctx, importStep)
	d, err := s.desk(beginning, study, auth.ParticipantEnrol, source)
	begun()
	if err != nil {
		return err
	}
	batch := make([]Line, 0, s.config.ImportBatch)
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		if err := ctx.Err(); errors.Is(err, context.Canceled) {
			return fmt.Errorf("import: %w", err) // nobody reads on; a time that has run out, however, is told line by line
		}
		step, done := context.WithTimeout(ctx, importStep)
		out := s.enrol(step, d, batch)
		done()
		batch = batch[:0]
		return emit(out)
	}
	for line := range lines {
		if batch = append(batch, line); len(batch) == cap(batch) {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// admitImport takes a place for an import, or refuses at once when all are taken.
func (s *Service) admitImport() (release func(), err error) {
	select {
	case s.imports <- struct{}{}:
		return func() { <-s.imports }, nil
	default:
		return nil, errs.New(errs.Overloaded, "overloaded", "other imports are running; try again").WithRetryAfter(importRetry)
	}
}

// enrol decides about a batch of lines and writes those that are good.
func (s *Service) enrol(ctx context.Context, d *desk, lines []Line) []Outcome {
	out := make([]Outcome, len(lines))
	first := make(map[string]*Newcomer, len(lines)) // the first line of a number wins
	newcomers := make([]*Newcomer, 0, len(lines))
	for i, line := range lines {
		out[i] = Outcome{Line: line.Line, Number: line.Number, Err: line.Err}
		if line.Err != nil || first[line.Number] != nil {
			continue
		}
		n, err := s.newcomer(ctx, d, line.Enrolment)
		if err != nil {
			out[i].Err = err
			continue
		}
		n.line, first[n.Number] = line.Line, n
		newcomers = append(newcomers, n)
	}
	failed, err := s.place(ctx, d.about.ID, newcomers)
	for i := range out {
		o := &out[i]
		if o.Err != nil {
			continue
		}
		n := first[o.Number]
		if o.Err = cmp.Or(err, failed[n]); o.Err == nil && n.line != o.Line {
			o.Err = errEnrolled(n.ID)
		}
		switch {
		case o.Err == nil:
			o.ID, o.Code, o.Link = n.ID, n.code, s.link(n.code)
		case errs.KindOf(o.Err) == errs.Conflict:
			o.ID = n.ID
		}
	}
	return out
}

const importRetry = 10 * time.Second

// newcomer checks one enrolment and fills what follows from the study, everything but the id.
func (s *Service) newcomer(ctx context.Context, d *desk, e Enrolment) (*Newcomer, error) {
	now := s.instant()
	if e.Zone == "" {
		e.Zone = d.about.Zone
	}
	if e.Language == "" && len(d.about.Languages) > 0 {
		e.Language = d.about.Languages[0]
	}
	findings := numberFindings(e.Number)
	findings = append(findings, zoneFindings(e.Zone)...)
	findings = append(findings, languageFindings(e.Language, d.about.Languages)...)
	anchors, findings := readAnchors(nil, e.Anchors, findings)
	if _, stated := anchors[EnrolmentAnchor]; !stated {
		anchors[EnrolmentAnchor] = today(now, e.Zone)
	}
	findings = append(findings, e.Contact.findings()...)
	site, findings, err := s.site(ctx, d, e.Site, findings)
	if err == nil {
		findings, err = s.arm(ctx, d, e.Arm, findings)
	}
	if err == nil && len(findings) > 0 {
		err = errs.InvalidField(findings...)
	}
	if err != nil {
		return nil, err
	}
	n := &Newcomer{Participant: Participant{
		Study: d.about.ID, Site: site, Number: e.Number, Arm: e.Arm, Zone: e.Zone, Language: e.Language, Status: Enrolled,
		Anchors: anchors, Zones: []task.ZoneChange{{From: now, Zone: e.Zone}}, Version: 1, CreatedAt: now,
	}}
	n.Entry.At, n.Entry.Zone, n.Entry.ActorKind, n.Entry.Actor = now, d.about.Zone, string(d.by.Kind), d.by.ID
	n.Entry.Action, n.Entry.Record, n.Entry.Study, n.Entry.Source = actionEnrol, "participant", d.about.ID, d.source
	n.contact = e.Contact
	n.contact.Version = 1
	evidence := auditedOf(&n.Participant)
	evidence.Contact, evidence.Consents = e.Contact.members(), e.Contact.Consents
	n.Entry.New, err = json.Marshal(evidence)
	return n, err
}

// place gives newcomers their ids and writes them. It returns who failed and why; its error means that nobody was placed.
func (s *Service) place(ctx context.Context, study int64, newcomers []*Newcomer) (map[*Newcomer]error, error) {
	if len(newcomers) == 0 {
		return nil, nil
	}
	ids, err := s.IDs.NextN(2 * len(newcomers))
	if err != nil {
		return nil, fmt.Errorf("ids of participants: %w", err)
	}
	proposed := make(map[string]int64, len(newcomers))
	for i, n := range newcomers {
		n.ID, n.Entry.ID = ids[i], ids[len(newcomers)+i]
		proposed[n.Number] = n.ID
	}
	reserved, err := s.Shelf.Reserve(ctx, study, proposed)
	if err != nil {
		return nil, err
	}
	var known []int64 // ids of numbers that were reserved before
	for _, n := range newcomers {
		if n.ID != reserved[n.Number] {
			n.ID = reserved[n.Number]
			known = append(known, n.ID)
		}
	}
	there, err := s.Shelf.Existing(ctx, known)
	if err != nil {
		return nil, err
	}
	return s.write(ctx, newcomers, there)
}

// write completes newcomers and puts them on their shards, except those who are there.
func (s *Service) write(ctx context.Context, newcomers []*Newcomer, there map[int64]bool) (map[*Newcomer]error, error) {
	failed := make(map[*Newcomer]error)
	batch := make([]*Newcomer, 0, len(newcomers))
	for _, n := range newcomers {
		if there[n.ID] {
			failed[n] = errEnrolled(n.ID)
			continue
		}
		if err := s.complete(n); err != nil {
			return nil, err
		}
		batch = append(batch, n)
	}
	result := s.Shelf.Enrol(ctx, batch)
	for _, n := range batch {
		err := result[n.ID]
		if errs.KindOf(err) == errs.Conflict && len(batch) > 1 {
			// Somebody else completed one of this shard's numbers just now. One by one shows which.
			err = s.Shelf.Enrol(ctx, []*Newcomer{n})[n.ID]
		}
		if errs.KindOf(err) == errs.Conflict {
			err = errEnrolled(n.ID)
		}
		if err != nil {
			failed[n] = err
		}
	}
	return failed, nil
}

// complete makes what only a real enrolment needs: data key, what is sealed with it, and activation code.
func (s *Service) complete(n *Newcomer) (err error) {
	n.Entry.RecordID, n.Entry.Participant = n.ID, n.ID
	if n.WrappedKey, err = s.Keys.NewDataKey(n.ID); err != nil {
		return fmt.Errorf("data key: %w", err)
	}
	if n.contact.stated() {
		key, err := s.Keys.DataKey(n.ID, n.WrappedKey)
		if err != nil {
			return fmt.Errorf("data key: %w", err)
		}
		sealed, err := n.contact.seal(n.ID, key)
		if err != nil {
			return err
		}
		n.Contact = &sealed
	}
	n.code, n.Activation, err = user.NewActivation(n.ID, s.Random)
	return err
}

// Renew gives a participant who lost device or PIN a new activation code, and ends what the old ones opened.
func (s *Service) Renew(ctx context.Context, study, id int64, source string) (Outcome, error) {
	d, err := s.desk(ctx, study, auth.ParticipantUpdate, source)
	if err != nil {
		return Outcome{}, err
	}
	p, err := s.visible(ctx, study, id, auth.ParticipantUpdate)
	if err != nil {
		return Outcome{}, err
	}
	if p.Status == Withdrawn {
		return Outcome{}, errLeft()
	}
	entry, err := s.entry(d, p, actionRenew, "")
	if err != nil {
		return Outcome{}, err
	}
	code, hash, err := user.NewActivation(id, s.Random)
	if err != nil {
		return Outcome{}, err
	}
	if err := s.Shelf.Renew(ctx, id, hash, entry); err != nil {
		return Outcome{}, err
	}
	return Outcome{ID: id, Number: p.Number, Code: code, Link: s.link(code)}, nil
}
