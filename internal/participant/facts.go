package participant

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/task"
)

// maxChanges bounds the history of zones, and that of arm and anchors: both are read with the participant.
const maxChanges = 100

// follows returns now, or the first instant after the participant's last change where another process's clock was ahead of
// ours: a history only goes forward.
func (p *Participant) follows(now time.Time) time.Time {
	if n := len(p.Zones); n > 0 && !p.Zones[n-1].From.Before(now) {
		now = p.Zones[n-1].From.Add(time.Microsecond)
	}
	if n := len(p.Earlier); n > 0 && !p.Earlier[n-1].Until.Before(now) {
		now = p.Earlier[n-1].Until.Add(time.Microsecond)
	}
	return now
}

// since completes the participant by the histories that lead from was to it: what another zone, arm or date replaces applied
// until at, and who leaves has left then.
func (p *Participant) since(was *Participant, at time.Time) []errs.Finding {
	var findings []errs.Finding
	if p.Zone != was.Zone {
		p.Zones = append(slices.Clone(was.Zones), task.ZoneChange{From: at, Zone: p.Zone})
		findings = append(findings, historyFindings("/zone", len(p.Zones))...)
	}
	if p.Arm != was.Arm || !maps.Equal(p.Anchors, was.Anchors) {
		p.Earlier = append(slices.Clone(was.Earlier), task.Facts{Until: at, Arm: was.Arm, Anchors: was.Anchors})
		findings = append(findings, historyFindings("/anchors", len(p.Earlier))...)
	}
	if p.Status == Withdrawn && was.Status != Withdrawn {
		p.Left = at
	}
	return findings
}

func historyFindings(pointer string, changes int) []errs.Finding {
	if changes <= maxChanges {
		return nil
	}
	return []errs.Finding{{Pointer: pointer, Code: "too_many", Detail: fmt.Sprintf("can be changed at most %d times", maxChanges)}}
}

// moves reports whether the participant's tasks may differ from those of what it was before.
func (p *Participant) moves(was *Participant) bool {
	return p.Zone != was.Zone || p.Arm != was.Arm || p.Status != was.Status || !maps.Equal(p.Anchors, was.Anchors)
}

// AnchorEntry is one date that an event had.
type AnchorEntry struct {
	Event    string
	Date     task.Date
	Recorded time.Time // when the date was stated; what was stated at enrolment applies from the beginning
	Replaced time.Time // when another took its place or it was taken back; zero: it applies
}

// AnchorHistory returns every date that the participant's events ever had, by event and time.
func (p *Participant) AnchorHistory() []AnchorEntry {
	var out []AnchorEntry
	last := make(map[string]int) // event → its last entry
	from := p.CreatedAt
	for _, facts := range append(slices.Clone(p.Earlier), task.Facts{Anchors: p.Anchors}) {
		for event, date := range facts.Anchors {
			if i, there := last[event]; there && out[i].Date == date && out[i].Replaced.Equal(from) {
				out[i].Replaced = facts.Until
				continue
			}
			last[event] = len(out)
			out = append(out, AnchorEntry{Event: event, Date: date, Recorded: from, Replaced: facts.Until})
		}
		from = facts.Until
	}
	slices.SortFunc(out, func(a, b AnchorEntry) int {
		return cmp.Or(strings.Compare(a.Event, b.Event), a.Recorded.Compare(b.Recorded))
	})
	return out
}

// withoutAnchors returns the dates without those of some events; every participant has a date of enrolment.
func withoutAnchors(there map[string]task.Date, taken []string) (map[string]task.Date, []errs.Finding) {
	out := maps.Clone(there)
	for _, event := range taken {
		if event == EnrolmentAnchor {
			return out, []errs.Finding{{Pointer: "/anchors/" + event, Code: "required", Detail: "can be corrected, not taken back"}}
		}
		delete(out, event)
	}
	return out, nil
}

// anchorText is how dates of events are kept.
func anchorText(anchors map[string]task.Date) (string, error) {
	text, err := json.Marshal(anchors)
	if err != nil {
		return "", fmt.Errorf("anchors: %w", err)
	}
	return string(text), nil
}

func readAnchorText(text string) (map[string]task.Date, error) {
	anchors := make(map[string]task.Date)
	err := json.Unmarshal([]byte(text), &anchors)
	return anchors, err
}
