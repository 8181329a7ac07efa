package task

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Date is a calendar date without a zone.
type Date struct {
	Year  int
	Month time.Month
	Day   int
}

// ParseDate reads YYYY-MM-DD; a date that is not in the calendar is refused.
func ParseDate(s string) (Date, error) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil || t.Year() < 1900 || t.Year() > 9000 {
		return Date{}, errors.New("must be a date as YYYY-MM-DD")
	}
	return dateOf(t), nil
}

func dateOf(t time.Time) Date {
	y, m, d := t.Date()
	return Date{y, m, d}
}

// String returns YYYY-MM-DD.
func (d Date) String() string { return fmt.Sprintf("%04d-%02d-%02d", d.Year, d.Month, d.Day) }

// MarshalText implements encoding.TextMarshaler.
func (d Date) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Date) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDate(string(b))
	return err
}

// days counts from 1970-01-01. The date must be in the calendar. Whole numbers only (Hinnant, "chrono-Compatible Low-Level Date Algorithms",
// days_from_civil): package time takes ten times as long, and every submission asks for dozens of days.
func (d Date) days() int {
	y, m := d.Year, int(d.Month)
	if m <= 2 { // the year begins in March, so that the leap day is its last
		y, m = y-1, m+12
	}
	era := floor(y, 400)
	yearOfEra := y - era*400
	dayOfYear := (153*(m-3)+2)/5 + d.Day - 1
	return era*146097 + yearOfEra*365 + yearOfEra/4 - yearOfEra/100 + dayOfYear - 719468
}

// dateOfDays is the other way round (civil_from_days).
func dateOfDays(n int) Date {
	n += 719468
	era := floor(n, 146097)
	dayOfEra := n - era*146097
	yearOfEra := (dayOfEra - dayOfEra/1460 + dayOfEra/36524 - dayOfEra/146096) / 365
	dayOfYear := dayOfEra - (365*yearOfEra + yearOfEra/4 - yearOfEra/100)
	m := (5*dayOfYear + 2) / 153
	d := Date{Year: yearOfEra + era*400, Month: time.Month(m + 3), Day: dayOfYear - (153*m+2)/5 + 1}
	if m >= 10 {
		d.Year, d.Month = d.Year+1, time.Month(m-9)
	}
	return d
}

// floor is a/b rounded down.
func floor(a, b int) int {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// AddDays returns the date n days later.
func (d Date) AddDays(n int) Date {
	if n == 0 {
		return d
	}
	return dateOfDays(d.days() + n)
}

// AddMonths returns the same day n months later, or that month's last day where it is shorter: 31 January plus one month is
// 28 or 29 February, plus two is 31 March.
func (d Date) AddMonths(n int) Date {
	first := time.Date(d.Year, d.Month+time.Month(n), 1, 0, 0, 0, 0, time.UTC)
	last := first.AddDate(0, 1, -1).Day()
	return Date{first.Year(), first.Month(), min(d.Day, last)}
}

// Weekday returns the day of the week.
func (d Date) Weekday() time.Weekday { return weekday(d.days()) }

func weekday(day int) time.Weekday {
	const thursday = int(time.Thursday) // 1970-01-01
	return time.Weekday(((day+thursday)%7 + 7) % 7)
}

// Compare orders dates.
func (d Date) Compare(o Date) int { return d.days() - o.days() }

// clock is a wall time as minutes since midnight.
type clock int

func parseClock(s string) (clock, bool) {
	if len(s) != 5 || s[2] != ':' {
		return 0, false
	}
	for _, i := range []int{0, 1, 3, 4} {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	hours, minutes := int(s[0]-'0')*10+int(s[1]-'0'), int(s[3]-'0')*10+int(s[4]-'0')
	return clock(hours*60 + minutes), hours < 24 && minutes < 60
}

// side says which of two instants is meant when the clock shows a wall time twice.
type side bool

const (
	first  side = false
	second side = true
)

// change says what a wall time means that the clocks show twice or not at all.
type change struct {
	repeated side
	shift    bool // a skipped wall time is as late after the change as it stands after the hour's begin; else the change itself
}

// instant returns when the clocks of a zone show a wall time on a date.
func instant(d Date, c clock, zone *time.Location, by change) time.Time {
	utc := time.Date(d.Year, d.Month, d.Day, int(c)/60, int(c)%60, 0, 0, time.UTC)
	before, after := offset(utc.Add(-26*time.Hour), zone), offset(utc.Add(26*time.Hour), zone)
	early, late := utc.Add(-before), utc.Add(-after)
	if before == after && offset(early, zone) == before {
		return early
	}
	var candidates []time.Time
	for _, t := range []time.Time{early, late} {
		if o := offset(t, zone); utc.Add(-o).Equal(t) {
			candidates = append(candidates, t)
		}
	}
	switch len(candidates) {
	case 0: // the hour is skipped: the change itself is the first instant after it
		if by.shift {
			return early
		}
		start, _ := early.In(zone).ZoneBounds()
		if offset(early, zone) == before { // early lies before the change, as in zones that skip a whole day
			_, start = early.In(zone).ZoneBounds()
		}
		return start.UTC()
	case 1:
		return candidates[0]
	}
	a, b := candidates[0], candidates[1]
	if b.Before(a) {
		a, b = b, a
	}
	if by.repeated == second {
		return b
	}
	return a
}

func offset(t time.Time, zone *time.Location) time.Duration {
	_, seconds := t.In(zone).Zone()
	return time.Duration(seconds) * time.Second
}

// period is a calendar period: months are not a number of days.
type period struct{ months, days int }

// parsePeriod reads an ISO 8601 duration of years, months, weeks and days, such as P84D, P2W, P1M or -P3D.
func parsePeriod(s string) (period, bool) {
	sign := 1
	if rest, ok := strings.CutPrefix(s, "-"); ok {
		sign, s = -1, rest
	}
	rest, ok := strings.CutPrefix(s, "P")
	if !ok || rest == "" {
		return period{}, false
	}
	var p period
	for _, unit := range []struct {
		letter string
		add    func(n int)
	}{
		{"Y", func(n int) { p.months += 12 * n }}, {"M", func(n int) { p.months += n }},
		{"W", func(n int) { p.days += 7 * n }}, {"D", func(n int) { p.days += n }},
	} {
		number, after, found := strings.Cut(rest, unit.letter)
		if !found {
			continue
		}
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 || n > 36500 || number[0] == '+' {
			return period{}, false
		}
		unit.add(sign * n)
		rest = after
	}
	return p, rest == ""
}

// parseSpan reads an ISO 8601 duration of days, hours and minutes, such as PT2H, PT90M, P1D or -PT1H.
func parseSpan(s string) (time.Duration, bool) {
	sign := time.Duration(1)
	if rest, ok := strings.CutPrefix(s, "-"); ok {
		sign, s = -1, rest
	}
	rest, ok := strings.CutPrefix(s, "P")
	if !ok || rest == "" {
		return 0, false
	}
	dayPart, timePart, timed := strings.Cut(rest, "T")
	if timed && timePart == "" {
		return 0, false
	}
	var total time.Duration
	take := func(part *string, letter string, unit time.Duration) bool {
		number, after, found := strings.Cut(*part, letter)
		if !found {
			return true
		}
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 || n > 100_000 || number[0] == '+' {
			return false
		}
		total += time.Duration(n) * unit
		*part = after
		return true
	}
	ok = take(&dayPart, "D", 24*time.Hour) && take(&timePart, "H", time.Hour) && take(&timePart, "M", time.Minute) && take(&timePart, "S", time.Second)
	return sign * total, ok && dayPart == "" && timePart == ""
}
