package study

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
)

func TestWhoSeesWhat(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := acting(t.Context(), manager)
		st, other := w.create(t, "EP-001"), w.create(t, "EP-002")
		_, err := w.AddSite(ctx, st.ID, "S01", "Clinic")
		want(t, "site", err, "ok")
		_, err = w.AddStaff(ctx, st.ID, "monitor", auth.Monitor, "S01")
		want(t, "grant at a site", err, "ok")
		list := func(who int64) []string {
			studies, err := w.List(acting(t.Context(), who), 0, 10)
			want(t, "list", err, "ok")
			names := make([]string, 0, 2)
			for _, s := range studies {
				names = append(names, s.Protocol)
			}
			return names
		}
		for who, wanted := range map[int64][]string{admin: {"EP-001", "EP-002"}, manager: {"EP-001", "EP-002"}, monitor: {"EP-001"}, stranger: {}, 0: {}} {
			if diff := cmp.Diff(wanted, list(who)); diff != "" {
				t.Errorf("list of %d: %s", who, diff)
			}
		}
		if page, err := w.List(ctx, st.ID, 10); err != nil || len(page) != 1 || page[0].ID != other.ID {
			t.Errorf("after the first: %v, %v", page, err)
		}
		participant := auth.With(t.Context(), auth.Principal{Kind: auth.KindParticipant, ID: 5, Study: st.ID})
		for _, c := range []struct {
			who  string
			ctx  context.Context
			read string
			make string
		}{
			{"nobody", t.Context(), "unauthenticated", "unauthenticated"},
			{"participant", participant, "forbidden", "forbidden"},
			{"stranger", acting(t.Context(), stranger), "not_found", "not_found"},
			{"monitor at a site", acting(t.Context(), monitor), "ok", "forbidden"},
			{"manager", ctx, "ok", "ok"},
			{"administrator", acting(t.Context(), admin), "ok", "ok"},
		} {
			_, err := w.Get(c.ctx, st.ID)
			want(t, c.who+" get", err, c.read)
			_, err = w.Sites(c.ctx, st.ID)
			want(t, c.who+" sites", err, c.read)
			_, err = w.Arms(c.ctx, st.ID)
			want(t, c.who+" arms", err, c.read)
			_, err = w.Questionnaires(c.ctx, st.ID)
			want(t, c.who+" questionnaires", err, c.read)
			_, err = w.AddArm(c.ctx, st.ID, strings.Map(onlyLetters, c.who), "n")
			want(t, c.who+" arm", err, c.make)
			_, err = w.Staff(c.ctx, st.ID)
			want(t, c.who+" staff", err, c.make)
			_, err = w.Schedule(c.ctx, st.ID)
			want(t, c.who+" schedule", err, map[bool]string{true: "not_found", false: c.read}[c.read == "ok"])
		}
		_, err = w.Get(acting(t.Context(), admin), 999)
		want(t, "a study that does not exist", err, "not_found")
		_, err = w.List(participant, 0, 10)
		want(t, "list as a participant", err, "forbidden")
	})
}

func onlyLetters(r rune) rune {
	if r == ' ' {
		return -1
	}
	return r
}

func TestStaff(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := acting(t.Context(), manager)
		st, other := w.create(t, "EP-001"), w.create(t, "EP-002")
		site, err := w.AddSite(ctx, st.ID, "S01", "Clinic")
		want(t, "site", err, "ok")
		_, err = w.AddSite(ctx, other.ID, "X01", "Elsewhere")
		want(t, "site of another study", err, "ok")
		for _, c := range []struct{ username, role, site, want string }{
			{"monitor", "monitor", "", "ok"},
			{"monitor", "monitor", "", "already_exists"},
			{"monitor", "coordinator", "S01", "ok"},
			{"monitor", "administrator", "", "invalid_field /role invalid_role"},
			{"monitor", "service", "", "invalid_field /role invalid_role"},
			{"monitor", "", "", "invalid_field /role invalid_role"},
			{"nobody", "monitor", "", "invalid_field /username unknown_user"},
			{"monitor", "monitor", "X01", "invalid_field /site unknown_site"},
			{"silent", "monitor", "", "unavailable"},
		} {
			_, err := w.AddStaff(ctx, st.ID, c.username, auth.Role(c.role), c.site)
			if got := strings.Join(because(err), " "); got != c.want {
				t.Errorf("%+v: %s", c, got)
			}
		}
		got, err := w.Staff(ctx, st.ID)
		wanted := []StaffGrant{{manager, "manager", auth.StudyManager, 0}, {monitor, "monitor", auth.Coordinator, site.ID}, {monitor, "monitor", auth.Monitor, 0}}
		if diff := cmp.Diff(wanted, got); err != nil || diff != "" {
			t.Errorf("staff: %v\n%s", err, diff)
		}
	})
}

func TestLockedStudyTakesNoChange(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := acting(t.Context(), manager)
		st := w.create(t, "EP-001")
		q, err := w.ImportQuestionnaire(ctx, st.ID, form("1.0.0", "Pain?"))
		want(t, "import", err, "ok")
		_, err = w.AddSite(ctx, st.ID, "S01", "Clinic")
		want(t, "site", err, "ok")
		w.lock(t, st, Locked)
		title := "x"
		entry := audit.Entry{ID: w.IDs.(sequence).next(), At: w.clock.Now(), Zone: "UTC", ActorKind: "staff", RecordID: 1, Study: st.ID}
		q.PublishedAt = w.clock.Now()
		for what, change := range map[string]func() error{
			"update":                func() error { _, err := w.Update(ctx, st.ID, 2, Change{Title: &title}); return err },
			"publish":               func() error { _, err := w.Publish(ctx, st.ID); return err },
			"site":                  func() error { _, err := w.AddSite(ctx, st.ID, "S02", "n"); return err },
			"arm":                   func() error { _, err := w.AddArm(ctx, st.ID, "A", "n"); return err },
			"staff":                 func() error { _, err := w.AddStaff(ctx, st.ID, "monitor", auth.Monitor, ""); return err },
			"import":                func() error { _, err := w.ImportQuestionnaire(ctx, st.ID, form("2.0.0", "Pain?")); return err },
			"publish questionnaire": func() error { _, err := w.PublishQuestionnaire(ctx, st.ID, q.ID); return err },
			"schedule":              func() error { _, err := w.PutSchedule(ctx, st.ID, daily(canonical), time.Time{}); return err },
			// What had passed the service before the lock came.
			"site in the store":    func() error { return w.store.AddSite(ctx, st.ID, Site{ID: 9, Code: "S09", Name: "n"}, entry) },
			"arm in the store":     func() error { return w.store.AddArm(ctx, st.ID, Arm{9, "A", "n"}, entry) },
			"staff in the store":   func() error { return w.store.AddGrant(ctx, st.ID, StaffGrant{User: 9, Role: auth.Monitor}, entry) },
			"publish in the store": func() error { return w.store.Publish(ctx, q, entry) },
			"import in the store": func() error {
				_, err := w.store.PutQuestionnaire(ctx, Questionnaire{ID: 9, Study: st.ID, URL: "u", Version: "1", Status: Draft}, []byte("{}"), func(*Questionnaire) audit.Entry { return entry })
				return err
			},
		} {
			want(t, what, change(), "study_locked")
		}
		want(t, "update in the store, of the version before the lock", w.store.Update(ctx, st, st, entry), "stale")
		want(t, "schedule in the store, of the version before the lock", w.store.PutSchedule(ctx, st, ScheduleVersion{Version: st.ScheduleVersion + 1, Design: daily(canonical), By: manager, At: w.clock.Now()}, entry), "stale")
		if got := w.evidence(t, st.ID); len(got) != 5 {
			t.Errorf("evidence %v", got)
		}
		_, err = w.Get(ctx, st.ID)
		want(t, "read", err, "ok")
	})
}
