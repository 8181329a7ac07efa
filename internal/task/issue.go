package task

import (
	"encoding/binary"
	"hash/fnv"
	"time"
)

// The states of an issued row. What else a task is, follows from its times and from its completion.
const (
	rowIssued    = "issued"
	rowCancelled = "cancelled"
	rowExcused   = "excused"
)

// Issued is a task as it stands in its row.
type Issued struct {
	Task
	State    string
	ZoneData string // edition of the time zone data that its instants come from
}

// Mark names everything besides the participant that the tasks of a plan depend on: another mark means that rows have to be looked at again.
func (p Plan) Mark() int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(ZoneData()))
	add := func(n int64) { _ = binary.Write(h, binary.BigEndian, n) } // a hash never fails
	for i := range p {
		add(p[i].Version)
		add(p[i].From.UnixMicro())
		for r := range p[i].rules {
			for _, release := range p[i].rules[r].releases {
				_, _ = h.Write([]byte(release.Version))
				add(release.From.UnixMicro())
			}
		}
	}
	return int64(h.Sum64() >> 1)
}

// Difference is what has to be done to rows so that they are what the engine says.
type Difference struct {
	Create []Task
	Move   []Task  // have other times, another questionnaire or another version, or are due again
	Cancel []int64 // are not due any more
	Kept   int
}

// difference compares rows with what the engine says of the same participant and range. Tasks that need not be answered have no
// rows: nobody waits for them.
func difference(rows map[int64]Issued, computed []Task, now time.Time) Difference {
	var d Difference
	due := make(map[int64]bool, len(computed))
	for i := range computed {
		t := &computed[i]
		if t.Optional {
			continue
		}
		row, there := rows[t.ID]
		switch {
		case !t.CancelledAt.IsZero():
			continue // was taken back while it was open
		case !there:
			d.Create = append(d.Create, *t)
		case row.ZoneData != ZoneData() && row.OpensAt.Before(now):
			d.Kept++ // newer time zone data does not change what had opened
		case row.State == rowCancelled || !sameRow(&row.Task, t):
			d.Move = append(d.Move, *t)
		default:
			d.Kept++
		}
		due[t.ID] = true
	}
	for id, row := range rows {
		if row.State == rowIssued && !due[id] {
			d.Cancel = append(d.Cancel, id)
		}
	}
	return d
}

// sameTimes reports whether nobody would see a difference between two tasks of one id.
func sameTimes(a, b *Task) bool {
	return a.OpensAt.Equal(b.OpensAt) && a.DueAt.Equal(b.DueAt) && a.ClosesAt.Equal(b.ClosesAt) && a.GraceUntil.Equal(b.GraceUntil) &&
		a.Zone == b.Zone && a.Questionnaire == b.Questionnaire
}

func sameRow(a, b *Task) bool { return sameTimes(a, b) && a.ScheduleVersion == b.ScheduleVersion }

// reminded returns when somebody first has to look whether a reminder of a task is due; zero where none is of use any more.
func reminded(ladder []Rung, t *Task, now time.Time) time.Time {
	if len(ladder) == 0 || now.After(t.GraceUntil.Add(staleAfter)) {
		return time.Time{}
	}
	return ladder[0].At
}

// staleAfter is how long after its end a task that nobody answered is still news to the site.
const staleAfter = 24 * time.Hour
