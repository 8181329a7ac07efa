package task

import (
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseDate(t *testing.T) {
	for _, text := range []string{"2026-11-23", "2028-02-29", "1900-01-01", "9000-12-31"} {
		if d, err := ParseDate(text); err != nil || d.String() != text {
			t.Errorf("%s: %v, %v", text, d, err)
		}
	}
	for _, text := range []string{"", "2026-02-29", "2026-13-01", "2026-00-10", "2026-1-2", "23.11.2026", "20261123", "2026-11-23T00:00:00Z", " 2026-11-23", "1899-12-31", "9001-01-01", "+2026-11-2"} {
		if d, err := ParseDate(text); err == nil {
			t.Errorf("%q is taken for the date %v", text, d)
		}
	}
	var d Date
	if err := json.Unmarshal([]byte(`"2026-11-31"`), &d); err == nil {
		t.Errorf("JSON of a day that is not in the calendar gives %v", d)
	}
}

// TestDateProperties: what a date says is what reads it back, days add up, and months keep the day or the month's last one.
// TestDatesAgreeWithTheCalendar: every day of nine centuries, and the turns of far ones, is what package time says.
func TestDatesAgreeWithTheCalendar(t *testing.T) {
	check := func(day time.Time) {
		want := dateOf(day)
		n := int(day.Unix() / 86400)
		if day.Unix()%86400 < 0 {
			n--
		}
		if want.days() != n || dateOfDays(n) != want || want.Weekday() != day.Weekday() {
			t.Fatalf("%v: day %d, want %d; back %v; %v", want, want.days(), n, dateOfDays(n), want.Weekday())
		}
	}
	for day := time.Date(1700, 1, 1, 0, 0, 0, 0, time.UTC); day.Year() < 2600; day = day.AddDate(0, 0, 1) {
		check(day)
	}
	for year := -1200; year < 9100; year++ {
		for _, day := range []time.Time{time.Date(year, 2, 28, 0, 0, 0, 0, time.UTC), time.Date(year, 2, 29, 0, 0, 0, 0, time.UTC), time.Date(year, 12, 31, 0, 0, 0, 0, time.UTC), time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)} {
			check(day)
		}
	}
}

func TestDateProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := dateOfDays(rapid.IntRange(-20000, 200000).Draw(t, "day"))
		if back, err := ParseDate(d.String()); err != nil || back != d {
			t.Fatalf("%v reads back as %v, %v", d, back, err)
		}
		n := rapid.IntRange(-5000, 5000).Draw(t, "n")
		if later := d.AddDays(n); later.Compare(d) != n || later.AddDays(-n) != d || int(later.Weekday()+7-d.Weekday())%7 != (n%7+7)%7 {
			t.Fatalf("%v and %d days is %v", d, n, later)
		}
		m := d.AddMonths(n)
		if (m.Year-d.Year)*12+int(m.Month-d.Month) != n {
			t.Fatalf("%v and %d months is %v", d, n, m)
		}
		if m.Day != d.Day && (m.Day > d.Day || m.AddDays(1).Day != 1) {
			t.Fatalf("%v and %d months is %v, neither the same day nor the last", d, n, m)
		}
	})
}

// TestInstantProperties: where the clocks show the wall time, the instant shows it; the second occurrence is not before the
// first; later wall times are never earlier instants of the same occurrence.
func TestInstantProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zone, err := LoadZone(rapid.SampledFrom(zones).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		d := dateOfDays(rapid.IntRange(14000, 24000).Draw(t, "day"))
		c := clock(rapid.IntRange(0, 24*60-1).Draw(t, "clock"))
		a, b := instant(d, c, zone, change{}), instant(d, c, zone, change{repeated: second})
		if b.Before(a) {
			t.Fatalf("the second %v is before the first %v", b, a)
		}
		shown := func(at time.Time) (Date, clock) {
			local := at.In(zone)
			return dateOf(local), clock(local.Hour()*60 + local.Minute())
		}
		for _, at := range []time.Time{a, b} {
			gotDate, gotClock := shown(at)
			if gotDate == d && gotClock == c {
				continue
			}
			// Skipped: the clocks jump here from before the wall time to after it.
			beforeDate, beforeClock := shown(at.Add(-time.Nanosecond))
			if minuteOf(gotDate, gotClock) < minuteOf(d, c) || minuteOf(beforeDate, beforeClock) >= minuteOf(d, c) {
				t.Fatalf("%v %d in %v is %v, where the clocks go from %v %d to %v %d", d, c, zone, at, beforeDate, beforeClock, gotDate, gotClock)
			}
		}
		if c > 0 && instant(d, c-1, zone, change{}).After(a) {
			t.Fatalf("a minute earlier on the clock is later than %v", a)
		}
	})
}

func minuteOf(d Date, c clock) int { return d.days()*24*60 + int(c) }

func TestAddMonthsClamps(t *testing.T) {
	for _, c := range []struct {
		from string
		n    int
		want string
	}{
		{"2026-01-31", 1, "2026-02-28"}, {"2028-01-31", 1, "2028-02-29"}, {"2026-01-31", 2, "2026-03-31"}, {"2026-10-31", 1, "2026-11-30"},
		{"2026-12-15", 1, "2027-01-15"}, {"2028-02-29", 12, "2029-02-28"}, {"2026-03-31", -1, "2026-02-28"}, {"2026-01-31", 0, "2026-01-31"},
	} {
		if got := mustDate(t, c.from).AddMonths(c.n).String(); got != c.want {
			t.Errorf("%s + %d months is %s, want %s", c.from, c.n, got, c.want)
		}
	}
}

func TestPeriods(t *testing.T) {
	for text, want := range map[string]period{"P0D": {}, "P84D": {0, 84}, "P2W": {0, 14}, "P1M": {1, 0}, "P1Y2M": {14, 0}, "-P3D": {0, -3}, "P1M2D": {1, 2}} {
		if got, ok := parsePeriod(text); !ok || got != want {
			t.Errorf("%s: %v %v, want %v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "P", "84D", "P1H", "PT1H", "PT1M", "P1D1M", "P1.5D", "P+1D", "P99999D", "P1Dx", "PD", "P-1D", "--P1D", "P1W1M", "P1D1D", "p1d", "+P1D"} {
		if _, ok := parsePeriod(text); ok {
			t.Errorf("%s is taken for a period", text)
		}
	}
	for text, want := range map[string]time.Duration{"PT0S": 0, "PT2H": 2 * time.Hour, "PT1H30M": 90 * time.Minute, "P1D": 24 * time.Hour, "-PT1H": -time.Hour, "P1DT1M": 24*time.Hour + time.Minute} {
		if got, ok := parseSpan(text); !ok || got != want {
			t.Errorf("%s: %v %v, want %v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "P", "PT", "P1M", "PT1D", "1H", "PT1H1H", "P1DT", "PTH", "PT-1H", "PT+1H", "PT1M1H", "PT1.5H", "PT100001M", "P1W", "--PT1H"} {
		if _, ok := parseSpan(text); ok {
			t.Errorf("%s is taken for a duration", text)
		}
	}
	for text, want := range map[string]clock{"00:00": 0, "08:05": 485, "23:59": 24*60 - 1} {
		if got, ok := parseClock(text); !ok || got != want {
			t.Errorf("%s: %v %v, want %v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "24:00", "8:00", "08:60", "08", "08:0x", "-1:00", "+1:00", "-0:00", "08:+5", "08:-0", "08:00 ", "08-00", "008:0", "８:00"} {
		if _, ok := parseClock(text); ok {
			t.Errorf("%s is taken for a time", text)
		}
	}
}

// TestInstant: wall times around clock changes, from the rules published for each zone.
func TestInstant(t *testing.T) {
	for _, c := range []struct{ name, zone, date, clock, first, second string }{
		{"Plain", "Europe/Berlin", "2026-07-01", "20:00", "2026-07-01T18:00:00Z", ""},
		{"NoSummerTime", "Asia/Shanghai", "2026-07-01", "20:00", "2026-07-01T12:00:00Z", ""},
		{"SkippedHour", "Europe/Berlin", "2026-03-29", "02:30", "2026-03-29T01:00:00Z", ""},
		{"AfterSkipped", "Europe/Berlin", "2026-03-29", "03:00", "2026-03-29T01:00:00Z", ""},
		{"RepeatedHour", "Europe/Berlin", "2026-10-25", "02:30", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"},
		{"BeforeRepeated", "Europe/Berlin", "2026-10-25", "01:59", "2026-10-24T23:59:00Z", ""},
		{"AfterRepeated", "Europe/Berlin", "2026-10-25", "03:00", "2026-10-25T02:00:00Z", ""},
		{"SkippedInNewYork", "America/New_York", "2026-03-08", "02:15", "2026-03-08T07:00:00Z", ""},
		{"RepeatedInNewYork", "America/New_York", "2026-11-01", "01:15", "2026-11-01T05:15:00Z", "2026-11-01T06:15:00Z"},
		{"HalfAnHourSkipped", "Australia/Lord_Howe", "2026-10-04", "02:15", "2026-10-03T15:30:00Z", ""},
		{"HalfAnHourRepeated", "Australia/Lord_Howe", "2026-04-05", "01:45", "2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z"},
		{"MidnightSkipped", "America/Sao_Paulo", "2018-11-04", "00:00", "2018-11-04T03:00:00Z", ""},
		{"AfterMidnightSkipped", "America/Sao_Paulo", "2018-11-04", "01:00", "2018-11-04T03:00:00Z", ""},
		{"LastBeforeMidnightSkipped", "America/Sao_Paulo", "2018-11-03", "23:59", "2018-11-04T02:59:00Z", ""},
		{"HourBeforeMidnightRepeated", "America/Sao_Paulo", "2018-02-17", "23:30", "2018-02-18T01:30:00Z", "2018-02-18T02:30:00Z"},
		{"HalfAnHourAfterSkipped", "Australia/Lord_Howe", "2026-10-04", "02:30", "2026-10-03T15:30:00Z", ""},
		{"HalfAnHourBeforeRepeated", "Australia/Lord_Howe", "2026-04-05", "01:29", "2026-04-04T14:29:00Z", ""},
		{"HalfAnHourAfterRepeated", "Australia/Lord_Howe", "2026-04-05", "02:00", "2026-04-04T15:30:00Z", ""},
		{"DayBeforeTheSkipped", "Pacific/Apia", "2011-12-29", "23:59", "2011-12-30T09:59:00Z", ""},
		{"DaySkippedAtItsStart", "Pacific/Apia", "2011-12-30", "00:00", "2011-12-30T10:00:00Z", ""},
		{"DaySkipped", "Pacific/Apia", "2011-12-30", "12:00", "2011-12-30T10:00:00Z", ""},
		{"DaySkippedAtItsEnd", "Pacific/Apia", "2011-12-30", "23:59", "2011-12-30T10:00:00Z", ""},
		{"DayAfterTheSkipped", "Pacific/Apia", "2011-12-31", "00:00", "2011-12-30T10:00:00Z", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			zone, err := LoadZone(c.zone)
			if err != nil {
				t.Fatal(err)
			}
			wall, _ := parseClock(c.clock)
			if c.second == "" {
				c.second = c.first
			}
			for which, want := range map[side]string{first: c.first, second: c.second} {
				if got := instant(mustDate(t, c.date), wall, zone, change{repeated: which}).Format(time.RFC3339); got != want {
					t.Errorf("occurrence %v: %s, want %s", which, got, want)
				}
			}
		})
	}
}
