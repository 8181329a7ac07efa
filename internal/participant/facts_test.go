package participant

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/testenv"
)

func date(y int, m time.Month, d int) task.Date { return task.Date{Year: y, Month: m, Day: d} }

func TestFollows(t *testing.T) {
	at := time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		zone, facts time.Duration // of the last change, from now
		want        time.Duration
	}{
		"both before":  {-time.Hour, -time.Minute, 0},
		"same instant": {0, -time.Minute, time.Microsecond},
		"zone ahead":   {time.Second, -time.Minute, time.Second + time.Microsecond},
		"facts ahead":  {-time.Hour, time.Second, time.Second + time.Microsecond},
		"both ahead":   {2 * time.Second, time.Second, 2*time.Second + time.Microsecond},
		"both at once": {time.Second, time.Second, time.Second + time.Microsecond},
	} {
		p := &Participant{Zones: []task.ZoneChange{{From: at.Add(c.zone)}}, Earlier: []task.Facts{{Until: at.Add(c.facts)}}}
		if got := p.follows(at).Sub(at); got != c.want {
			t.Errorf("%s: %s after now, want %s", name, got, c.want)
		}
	}
	if got := new(Participant).follows(at); !got.Equal(at) {
		t.Errorf("without a history: %s", got)
	}
}

func TestSince(t *testing.T) {
	at := time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)
	was := &Participant{Arm: "A", Zone: "Europe/Berlin", Status: Enrolled, Language: "en", Zones: []task.ZoneChange{{From: at, Zone: "Europe/Berlin"}},
		Anchors: map[string]task.Date{"enrolment": date(2026, 11, 23), "surgery": date(2026, 12, 1)}}
	now := at.Add(time.Hour)
	for name, c := range map[string]struct {
		change                func(*Participant)
		zones, earlier        int
		left, moves, refusing bool
	}{
		"nothing":     {change: func(*Participant) {}, zones: 1},
		"language":    {change: func(p *Participant) { p.Language = "zh-CN" }, zones: 1},
		"zone":        {change: func(p *Participant) { p.Zone = "Asia/Tokyo" }, zones: 2, moves: true},
		"arm":         {change: func(p *Participant) { p.Arm = "B" }, zones: 1, earlier: 1, moves: true},
		"date":        {change: func(p *Participant) { p.Anchors = map[string]task.Date{"enrolment": date(2026, 11, 22)} }, zones: 1, earlier: 1, moves: true},
		"activation":  {change: func(p *Participant) { p.Status = ActiveStatus }, zones: 1, moves: true},
		"leaves":      {change: func(p *Participant) { p.Status = Withdrawn }, zones: 1, left: true, moves: true},
		"too often":   {change: func(p *Participant) { p.Arm = "B" }, zones: 1, earlier: maxChanges + 1, moves: true, refusing: true},
		"all at once": {change: func(p *Participant) { p.Arm, p.Zone, p.Status = "B", "Asia/Tokyo", Withdrawn }, zones: 2, earlier: 1, left: true, moves: true},
	} {
		before := *was
		before.Earlier = make([]task.Facts, max(0, c.earlier-1))
		is := before
		c.change(&is)
		findings := is.since(&before, now)
		if len(is.Zones) != c.zones || len(is.Earlier) != c.earlier || is.Left.Equal(now) != c.left || is.moves(&before) != c.moves || (len(findings) > 0) != c.refusing {
			t.Errorf("%s: %d zones, %d earlier, left %s, moves %v, findings %v", name, len(is.Zones), len(is.Earlier), is.Left, is.moves(&before), findings)
		}
		if c.earlier == 1 && cmp.Diff(task.Facts{Until: now, Arm: "A", Anchors: was.Anchors}, is.Earlier[0]) != "" {
			t.Errorf("%s: what was replaced is kept as %+v", name, is.Earlier[0])
		}
	}
}

func TestAnchorHistory(t *testing.T) {
	at := time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)
	hour := func(n int) time.Time { return at.Add(time.Duration(n) * time.Hour) }
	first := map[string]task.Date{"enrolment": date(2026, 11, 23)}
	second := map[string]task.Date{"enrolment": date(2026, 11, 23), "surgery": date(2026, 12, 1)}
	third := map[string]task.Date{"enrolment": date(2026, 11, 23), "surgery": date(2026, 12, 2)}
	p := &Participant{CreatedAt: at, Anchors: second, Earlier: []task.Facts{
		{Until: hour(1), Anchors: first}, {Until: hour(2), Anchors: second}, {Until: hour(3), Anchors: third}, {Until: hour(4), Anchors: first},
		{Until: hour(5), Anchors: second}, // only the arm changed then
	}}
	want := []AnchorEntry{
		{"enrolment", date(2026, 11, 23), at, time.Time{}},
		{"surgery", date(2026, 12, 1), hour(1), hour(2)},
		{"surgery", date(2026, 12, 2), hour(2), hour(3)},
		{"surgery", date(2026, 12, 1), hour(4), time.Time{}},
	}
	if diff := cmp.Diff(want, p.AnchorHistory()); diff != "" {
		t.Error(diff)
	}
}

func TestWithoutAnchors(t *testing.T) {
	there := map[string]task.Date{"enrolment": date(2026, 11, 23), "surgery": date(2026, 12, 1)}
	got, findings := withoutAnchors(there, []string{"surgery", "never was"})
	if len(findings) != 0 || len(got) != 1 || len(there) != 2 {
		t.Errorf("%v %v %v", got, findings, there)
	}
	if _, findings = withoutAnchors(there, []string{EnrolmentAnchor}); pointers(findings) != "/anchors/enrolment required" {
		t.Error(pointers(findings))
	}
}

// TestFactsKeepTheirTimes changes arm, dates and zone, and looks at what the engine is told.
func TestFactsKeepTheirTimes(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx, start := as(t.Context(), admin), w.clock.Now()
		id := w.patient(t)
		changes := []Change{
			{Anchors: map[string]string{"surgery": "2026-12-05"}, Reason: "postponed"},
			{Arm: text("B"), Zone: text("Asia/Tokyo")},
			{Language: text("zh-CN")},
			{Taken: []string{"surgery"}},
			{Anchors: map[string]string{"surgery": "2026-12-05"}},
			{Status: text(Withdrawn)},
		}
		for i, c := range changes {
			if i != 1 {
				w.clock.Advance(time.Hour) // the second change comes at the instant of the first
			}
			is, _, err := w.Update(ctx, theStudy, id, int64(i)+1, c, "")
			if err != nil {
				t.Fatal(err)
			}
			kept, err := w.store.ByID(ctx, []int64{id})
			if diff := cmp.Diff(is, kept[id]); diff != "" || err != nil {
				t.Errorf("change %d: %v (-returned +kept)\n%s", i, err, diff)
			}
		}
		enrolment := date(2026, 11, 23)
		at := func(hours int) time.Time { return start.Add(time.Duration(hours) * time.Hour) }
		with := func(day int) map[string]task.Date {
			return map[string]task.Date{"enrolment": enrolment, "surgery": date(2026, 12, day)}
		}
		moved := at(1).Add(time.Microsecond)
		want := task.Person{ID: id, Study: theStudy, Arm: "B", Anchors: with(5), Left: at(5),
			Zones: []task.ZoneChange{{From: start, Zone: "Europe/Berlin"}, {From: moved, Zone: "Asia/Tokyo"}},
			Earlier: []task.Facts{
				{Until: at(1), Arm: "A", Anchors: with(1)}, {Until: moved, Arm: "A", Anchors: with(5)}, {Until: at(3), Arm: "B", Anchors: with(5)},
				{Until: at(4), Arm: "B", Anchors: map[string]task.Date{"enrolment": enrolment}},
			}}
		person, err := w.Profiles.Person(ctx, id)
		if diff := cmp.Diff(want, person); diff != "" || err != nil {
			t.Errorf("%v (-want +got)\n%s", err, diff)
		}
		_, _, err = w.Update(ctx, theStudy, id, 7, Change{Taken: []string{"enrolment"}}, "")
		want7 := "invalid_field"
		if code(err) != want7 {
			t.Errorf("enrolment taken back: %v", err)
		}
		entries, err := audit.List(ctx, w.store.Shards.For(id), audit.Filter{Record: "participant", RecordID: id})
		if err != nil || string(entries[2].Old) != `{"anchors":{"surgery":"2026-12-05"}}` || string(entries[2].New) != `{}` {
			t.Errorf("taken back in the audit trail: %+v, %v", entries[2], err)
		}
	})
}

// TestTasksAreAskedForAnew: what tasks follow from asks for them in the same transaction, and nothing else does.
func TestTasksAreAskedForAnew(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := as(t.Context(), admin)
		id := w.patient(t)
		shard := w.store.Shards.For(id)
		wishes := func() (n int64) {
			t.Helper()
			if err := shard.Read(ctx).Table("task_refresh").Where("participant_id = ? AND study_id = ? AND bucket = ?", id, theStudy, db.Bucket(id)).Count(&n).Error; err != nil {
				t.Fatal(err)
			}
			if err := shard.Read(ctx).Exec("DELETE FROM task_refresh").Error; err != nil {
				t.Fatal(err)
			}
			return n
		}
		if wishes() != 1 {
			t.Error("enrolment asks for no tasks")
		}
		for i, c := range []struct {
			change Change
			asks   int64
		}{
			{Change{Language: text("zh-CN")}, 0}, {Change{Site: text("S02")}, 0}, {Change{Arm: text("A")}, 0}, {Change{Zone: text("Europe/Berlin")}, 0},
			{Change{Arm: text("B")}, 1}, {Change{Zone: text("Asia/Tokyo")}, 1}, {Change{Anchors: map[string]string{"surgery": "2026-12-09"}}, 1},
			{Change{Taken: []string{"surgery"}}, 1}, {Change{Status: text(Withdrawn)}, 1},
		} {
			if _, _, err := w.Update(ctx, theStudy, id, int64(i)+1, c.change, ""); err != nil {
				t.Fatal(err)
			}
			if got := wishes(); got != c.asks {
				t.Errorf("change %d: %d wishes, want %d", i, got, c.asks)
			}
		}
	})
}

func TestInBucket(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := as(t.Context(), admin)
		var ids []int64
		err := w.Import(ctx, theStudy, lines(60, nil), "", func(fates []Outcome) error {
			for _, o := range fates {
				ids = append(ids, o.ID)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(ids)
		want, got := make(map[int][]int64), make(map[int][]int64)
		for _, id := range ids {
			want[db.Bucket(id)] = append(want[db.Bucket(id)], id)
		}
		for bucket := range db.Buckets {
			for after := int64(0); ; {
				page, err := w.store.InBucket(ctx, w.store.Shards.ForBucket(bucket), theStudy, bucket, after, 2)
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range page {
					if p.Person().Arm != "A" || len(p.Zones) != 1 {
						t.Errorf("%+v", p)
					}
					got[bucket] = append(got[bucket], p.ID)
					after = p.ID
				}
				if len(page) < 2 {
					break
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if others, err := w.store.InBucket(ctx, w.store.Shards.For(ids[0]), theStudy+1, db.Bucket(ids[0]), 0, 10); err != nil || len(others) != 0 {
			t.Errorf("of another study: %v, %v", others, err)
		}
	})
}

func TestAnchorsAtTheDoor(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		id, door := w.patient(t), w.door(t).Handler()
		path := fmt.Sprintf("/api/v1/studies/77/participants/%d", id)
		const staff = "staff 2"
		w.clock.Advance(time.Hour)
		changed := call(t, door, "PATCH", path, staff, `{"anchors":{"surgery":null,"relapse":"2027-01-01"}}`, "If-Match", `"1"`)
		changed.want(t, "taken back", 200, "")
		if got := fmt.Sprint(changed.body["anchors"]); got != "map[enrolment:2026-11-23 relapse:2027-01-01]" {
			t.Error(got)
		}
		want := "[map[date:2026-11-23 event:enrolment recordedAt:2026-11-23T20:00:00Z] map[date:2027-01-01 event:relapse recordedAt:2026-11-23T21:00:00Z] " +
			"map[date:2026-12-01 event:surgery recordedAt:2026-11-23T20:00:00Z replacedAt:2026-11-23T21:00:00Z]]"
		if got := fmt.Sprint(call(t, door, "GET", path, staff, "").body["anchorHistory"]); got != want {
			t.Errorf("history %s, want %s", got, want)
		}
		if changed.body["leftAt"] != nil {
			t.Errorf("left before leaving: %v", changed.body)
		}
		for body, code := range map[string]string{
			`{"anchors":{"enrolment":null}}`: "invalid_field", `{"anchors":{"surgery":""}}`: "invalid_field", `{"anchors":{"surgery":7}}`: "invalid_field",
		} {
			call(t, door, "PATCH", path, staff, body, "If-Match", `"2"`).want(t, body, 422, code)
		}
		left := call(t, door, "PATCH", path, staff, `{"status":"withdrawn"}`, "If-Match", `"2"`)
		if left.want(t, "leaves", 200, ""); left.body["leftAt"] != "2026-11-23T21:00:00.000001Z" { // the clock stood still since the last change
			t.Errorf("left: %v", left.body)
		}
	})
}

// BenchmarkByID reads participants as the way of a submission does.
func BenchmarkByID(b *testing.B) {
	shards := testenv.Shards(b)
	for dialect, meta := range testenv.Databases(b, "meta") {
		b.Run(dialect, func(b *testing.B) {
			w := newWorld(b, meta, shards[dialect])
			o, err := w.Enrol(as(b.Context(), admin), theStudy, anna(), "")
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if found, err := w.store.ByID(b.Context(), []int64{o.ID}); err != nil || len(found) != 1 {
					b.Fatal(found, err)
				}
			}
		})
	}
}
