package study

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/task"
)

func TestImport(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := acting(t.Context(), manager)
		st := w.create(t, "EP-001")
		first, second := form("1.0.0", "Pain?"), form("1.0.0", "How much pain?")
		q, created, err := w.importVersion(ctx, st.ID, first)
		wanted := Questionnaire{ID: q.ID, Study: st.ID, URL: "https://example.org/q/pain", Version: "1.0.0", Title: "Pain", Status: Draft,
			SHA256: sha256.Sum256(first), CreatedAt: w.clock.Now()}
		if diff := cmp.Diff(wanted, q); err != nil || !created || q.ID == 0 || diff != "" {
			t.Errorf("import: %v %v\n%s", created, err, diff)
		}
		same, created, err := w.importVersion(ctx, st.ID, first)
		if diff := cmp.Diff(wanted, same); err != nil || created || diff != "" {
			t.Errorf("the same bytes: %v %v\n%s", created, err, diff)
		}
		replaced, created, err := w.importVersion(ctx, st.ID, second)
		wanted.SHA256 = sha256.Sum256(second)
		if diff := cmp.Diff(wanted, replaced); err != nil || created || diff != "" {
			t.Errorf("other bytes of a draft: %v %v\n%s", created, err, diff)
		}
		if _, body, err := w.store.Questionnaire(ctx, q.ID); err != nil || !bytes.Equal(body, second) {
			t.Errorf("stored %s, %v", body, err)
		}
		published, err := w.PublishQuestionnaire(ctx, st.ID, q.ID)
		wanted.Status, wanted.PublishedAt = Active, w.clock.Now()
		if diff := cmp.Diff(wanted, published); err != nil || diff != "" {
			t.Errorf("publish: %v\n%s", err, diff)
		}
		again, err := w.PublishQuestionnaire(ctx, st.ID, q.ID)
		if diff := cmp.Diff(wanted, again); err != nil || diff != "" {
			t.Errorf("publish again: %v\n%s", err, diff)
		}
		same, err = w.ImportQuestionnaire(ctx, st.ID, second)
		if diff := cmp.Diff(wanted, same); err != nil || diff != "" {
			t.Errorf("the same bytes of a published version: %v\n%s", err, diff)
		}
		_, err = w.ImportQuestionnaire(ctx, st.ID, first)
		want(t, "other bytes of a published version", err, "already_exists")
		if _, body, err := w.store.Questionnaire(ctx, q.ID); err != nil || !bytes.Equal(body, second) {
			t.Errorf("a published version became %s, %v", body, err)
		}
		if list, err := w.Questionnaires(ctx, st.ID); err != nil || !cmp.Equal([]Questionnaire{wanted}, list) {
			t.Errorf("list %v, %v", list, err)
		}
		wantedEvidence := []string{"study.create 2", "staff.grant 2", "questionnaire.import 2", "questionnaire.replace 2", "questionnaire.publish 2"}
		if diff := cmp.Diff(wantedEvidence, w.evidence(t, st.ID)); diff != "" {
			t.Errorf("evidence: %s", diff)
		}
	})
}

func TestImportRefuses(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := acting(t.Context(), manager)
		st, other := w.create(t, "EP-001"), w.create(t, "EP-002")
		for name, body := range map[string]string{
			"nothing":      ``,
			"no FHIR":      `{"a":1}`,
			"no version":   `{"resourceType":"Questionnaire","url":"https://example.org/q","status":"draft","item":[{"linkId":"1","type":"integer"}]}`,
			"same linkId":  `{"resourceType":"Questionnaire","url":"https://example.org/q","version":"1","status":"draft","item":[{"linkId":"1","type":"integer"},{"linkId":"1","type":"integer"}]}`,
			"unknown type": `{"resourceType":"Questionnaire","url":"https://example.org/q","version":"1","status":"draft","item":[{"linkId":"1","type":"smell"}]}`,
		} {
			_, err := w.ImportQuestionnaire(ctx, st.ID, []byte(body))
			e, ok := errs.As(err)
			if !ok || e.Code != "invalid_questionnaire" || e.Kind != errs.Unprocessable || len(e.Findings) == 0 {
				t.Errorf("%s: %v, want findings", name, err)
			}
		}
		if list, err := w.Questionnaires(ctx, st.ID); err != nil || len(list) != 0 {
			t.Errorf("kept %v, %v", list, err)
		}
		q, err := w.ImportQuestionnaire(ctx, st.ID, form("1.0.0", "Pain?"))
		want(t, "import", err, "ok")
		_, err = w.PublishQuestionnaire(ctx, other.ID, q.ID)
		want(t, "publish through another study", err, "not_found")
		_, err = w.PublishQuestionnaire(ctx, st.ID, 12345)
		want(t, "publish what does not exist", err, "not_found")
		twin, err := w.ImportQuestionnaire(ctx, other.ID, form("1.0.0", "Pain?"))
		if err != nil || twin.ID == q.ID {
			t.Errorf("the same questionnaire in another study: %v, %v", twin, err)
		}
	})
}

// TestPublishOnlyWhatWasChecked replaces a draft between the check and the publishing of it.
func TestPublishOnlyWhatWasChecked(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := acting(t.Context(), manager)
		st := w.create(t, "EP-001")
		q, err := w.ImportQuestionnaire(ctx, st.ID, form("1.0.0", "Pain?"))
		want(t, "import", err, "ok")
		_, err = w.ImportQuestionnaire(ctx, st.ID, form("1.0.0", "Other?"))
		want(t, "replace", err, "ok")
		entry := audit.Entry{ID: w.IDs.(sequence).next(), At: w.clock.Now(), Zone: "UTC", ActorKind: "staff", RecordID: q.ID, Study: st.ID}
		want(t, "publish what was replaced", w.store.Publish(ctx, q, entry), "stale")
		if now, _, err := w.store.Questionnaire(ctx, q.ID); err != nil || now.Status != Draft {
			t.Errorf("became %v, %v", now, err)
		}
	})
}

func TestOneVersionHoweverManyImport(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := acting(t.Context(), manager)
		st := w.create(t, "EP-001")
		var wg sync.WaitGroup
		made := make([]Questionnaire, 8)
		for i := range made {
			wg.Go(func() {
				var err error
				if made[i], err = w.ImportQuestionnaire(ctx, st.ID, form("1.0.0", "Pain?")); err != nil {
					t.Errorf("import %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		for _, q := range made {
			if q.ID != made[0].ID {
				t.Errorf("ids %d and %d", q.ID, made[0].ID)
			}
		}
		if got := w.evidence(t, st.ID); len(got) != 3 {
			t.Errorf("evidence %v", got)
		}
	})
}

func TestWhoIsServed(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		st, other := w.create(t, "EP-001"), w.create(t, "EP-002")
		q := w.published(t, st.ID, "1.0.0")
		draft, err := w.ImportQuestionnaire(acting(t.Context(), manager), st.ID, form("2.0.0", "Pain?"))
		want(t, "import", err, "ok")
		participant := func(study int64) context.Context {
			return auth.With(t.Context(), auth.Principal{Kind: auth.KindParticipant, ID: 5, Study: study})
		}
		for _, c := range []struct {
			who              string
			ctx              context.Context
			published, draft string
		}{
			{"nobody", t.Context(), "unauthenticated", "unauthenticated"},
			{"participant", participant(st.ID), "ok", "not_found"},
			{"participant of another study", participant(other.ID), "not_found", "not_found"},
			{"manager", acting(t.Context(), manager), "ok", "ok"},
			{"stranger", acting(t.Context(), stranger), "not_found", "not_found"},
			{"service", auth.With(t.Context(), auth.Principal{Kind: auth.KindService, ID: 6, Role: auth.Service}), "forbidden", "forbidden"},
		} {
			p, err := w.Served(c.ctx, q.ID)
			want(t, c.who+" published", err, c.published)
			if c.published == "ok" {
				if diff := cmp.Diff(Published{st.ID, fmt.Sprintf(`"%x"`, q.SHA256), form("1.0.0", "Pain?")}, p); diff != "" {
					t.Errorf("%s: %s", c.who, diff)
				}
			}
			p, err = w.Served(c.ctx, draft.ID)
			want(t, c.who+" draft", err, c.draft)
			if c.draft == "ok" && (!bytes.Equal(p.Body, form("2.0.0", "Pain?")) || p.ETag != fmt.Sprintf(`"%x"`, draft.SHA256)) {
				t.Errorf("%s: draft %s %s", c.who, p.ETag, p.Body)
			}
			_, unknown := w.Served(c.ctx, 12345)
			if _, err := w.Served(c.ctx, draft.ID); c.draft == "not_found" && unknown.Error() != err.Error() && errs.KindOf(unknown) == errs.NotFound {
				if a, _ := errs.As(unknown); a.Detail != detail(err) {
					t.Errorf("%s can tell what is hidden (%q) from what does not exist (%q)", c.who, detail(err), a.Detail)
				}
			}
		}
	})
}

func detail(err error) string {
	e, ok := errs.As(err)
	if !ok {
		return ""
	}
	return e.Detail
}

func TestSchedules(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := acting(t.Context(), manager)
		st := w.create(t, "EP-001")
		w.published(t, st.ID, "1.0.0")
		_, err := w.Schedule(ctx, st.ID)
		want(t, "before there is one", err, "not_found")
		_, err = w.PutSchedule(ctx, st.ID, task.Design{}, time.Time{})
		wantBecause(t, "no rules", err, "invalid_schedule", "/rules missing")
		for version := int64(1); version <= 3; version++ {
			put, err := w.PutSchedule(ctx, st.ID, daily(canonical), time.Time{})
			if err != nil || put.Version != version {
				t.Errorf("put %d: %v, %v", version, put, err)
			}
			got, err := w.Schedule(ctx, st.ID)
			if diff := cmp.Diff(daily(canonical), got.Design); err != nil || got.Version != version || diff != "" {
				t.Errorf("get %d: %v %v\n%s", version, got.Version, err, diff)
			}
		}
		entries, err := audit.List(ctx, w.meta, audit.Filter{Study: st.ID, Record: "schedule"})
		if err != nil || len(entries) != 3 || entries[2].Old != nil || !bytes.Contains(entries[0].Old, []byte(`"version":2`)) ||
			!bytes.Contains(entries[0].Old, []byte(`"diary"`)) || !bytes.Contains(entries[0].New, []byte(`"version":3`)) {
			t.Errorf("evidence %+v, %v", entries, err)
		}
	})
}

func TestSchedulesAtOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := acting(t.Context(), manager)
		st := w.create(t, "EP-001")
		w.published(t, st.ID, "1.0.0")
		var wg sync.WaitGroup
		var mu sync.Mutex
		versions := make(map[int64]int)
		for range 8 {
			wg.Go(func() {
				put, err := w.PutSchedule(ctx, st.ID, daily(canonical), time.Time{})
				if c := code(err); c != "ok" && c != "stale" {
					t.Errorf("put: %v", err)
				}
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					versions[put.Version]++
				}
			})
		}
		wg.Wait()
		if len(versions) == 0 {
			t.Error("nobody succeeded")
		}
		for version, n := range versions {
			if n != 1 || version > int64(len(versions)) {
				t.Errorf("version %d given %d times among %d", version, n, len(versions))
			}
		}
	})
}

func TestDryRun(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := acting(t.Context(), manager)
		st := w.create(t, "EP-001")
		w.published(t, st.ID, "1.0.0")
		_, err := w.AddArm(ctx, st.ID, "A", "Arm A")
		want(t, "arm", err, "ok")
		person := task.Person{Arm: "A", Anchors: map[string]task.Date{"enrolment": {Year: 2026, Month: 11, Day: 23}}, Zones: []task.ZoneChange{{Zone: "Europe/Berlin"}}}
		from := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
		to := from.AddDate(0, 0, 4)
		_, err = w.Preview(ctx, st.ID, nil, person, from, to)
		want(t, "no schedule yet", err, "not_found")
		tasks, err := w.Preview(ctx, st.ID, new(daily(canonical, "A")), person, from, to)
		want(t, "given rules", err, "ok")
		if len(tasks) != 4 || !tasks[0].OpensAt.Equal(time.Date(2026, 11, 23, 17, 0, 0, 0, time.UTC)) {
			t.Errorf("tasks %v", tasks)
		}
		if st, err := w.Get(ctx, st.ID); err != nil || st.ScheduleVersion != 0 {
			t.Errorf("a dry run wrote %v, %v", st, err)
		}
		_, err = w.PutSchedule(ctx, st.ID, daily(canonical), time.Time{})
		want(t, "schedule", err, "ok")
		current, err := w.Preview(ctx, st.ID, nil, person, from, to)
		if err != nil || len(current) != 4 {
			t.Errorf("current rules: %v, %v", current, err)
		}
		stranded := person
		stranded.Arm = "Z"
		many := daily(canonical).Rules
		many[0].Windows = nil
		for h := range 24 {
			clock := func(h, m int) string { return fmt.Sprintf("%02d:%02d", h, m) }
			many[0].Windows = append(many[0].Windows, task.Window{Opens: clock(h, 0), Due: clock(h, 30), Closes: clock(h, 59)})
		}
		for i := 1; i < 10; i++ {
			r := many[0]
			r.ID = fmt.Sprint("r", i)
			many = append(many, r)
		}
		for _, c := range []struct {
			name     string
			rules    *task.Design
			person   task.Person
			from, to time.Time
			want     []string
		}{
			{"bad rules", &task.Design{}, person, from, to, []string{"invalid_schedule", "/rules missing"}},
			{"unknown arm, and backwards", nil, stranded, to, from, []string{"invalid_field", "/arm unknown_arm", "/to invalid_range"}},
			{"empty range", nil, person, from, from, []string{"invalid_field", "/to invalid_range"}},
			{"400 days", nil, person, from, from.Add(task.MaxRange), []string{"ok"}},
			{"longer", nil, person, from, from.Add(task.MaxRange + 1), []string{"invalid_field", "/to invalid_range"}},
			{"many windows, short range", &task.Design{Rules: many}, person, from, from.AddDate(0, 0, 200), []string{"ok"}},
			{"many windows, long range", &task.Design{Rules: many}, person, from, from.AddDate(0, 0, 300), []string{"invalid_field", "/to too_many"}},
		} {
			_, err := w.Preview(ctx, st.ID, c.rules, c.person, c.from, c.to)
			wantBecause(t, c.name, err, c.want...)
		}
		_, err = w.Preview(acting(t.Context(), stranger), st.ID, nil, person, from, to)
		want(t, "a stranger", err, "not_found")
	})
}
