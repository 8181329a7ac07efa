package study

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// TestNoChangeWithoutEvidence gives every change an audit id that is taken, so that its entry cannot be written.
func TestNoChangeWithoutEvidence(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := acting(t.Context(), manager)
		st := w.create(t, "EP-001")
		q, err := w.ImportQuestionnaire(ctx, st.ID, form("1.0.0", "Pain?"))
		want(t, "import", err, "ok")
		entries, err := audit.List(ctx, w.meta, audit.Filter{Study: st.ID, Limit: 1})
		if err != nil || len(entries) != 1 {
			t.Fatalf("entries %v, %v", entries, err)
		}
		taken := entries[0]
		before := w.rows(t)
		is, other, next, active := st, aStudy(), q, q
		is.Title, is.Version = "x", 2
		other.ID, other.Protocol = 900, "EP-900"
		next.ID, next.Version = 901, "2.0.0"
		active.Status, active.PublishedAt = Active, w.clock.Now()
		entry := func(*Questionnaire) audit.Entry { return taken }
		replacing := q
		replacing.SHA256[0]++
		for what, change := range map[string]func() error{
			"create":  func() error { return w.store.Create(ctx, other, manager, taken) },
			"update":  func() error { return w.store.Update(ctx, st, is, taken) },
			"site":    func() error { return w.store.AddSite(ctx, st.ID, Site{ID: 902, Code: "S01", Name: "n"}, taken) },
			"arm":     func() error { return w.store.AddArm(ctx, st.ID, Arm{903, "A", "n"}, taken) },
			"grant":   func() error { return w.store.AddGrant(ctx, st.ID, StaffGrant{User: 9, Role: auth.Monitor}, taken) },
			"import":  func() error { _, err := w.store.PutQuestionnaire(ctx, next, []byte("{}"), entry); return err },
			"replace": func() error { _, err := w.store.PutQuestionnaire(ctx, replacing, []byte("x"), entry); return err },
			"publish": func() error { return w.store.Publish(ctx, active, taken) },
			"schedule": func() error {
				return w.store.PutSchedule(ctx, st, ScheduleVersion{Version: st.ScheduleVersion + 1, Design: daily(canonical), By: manager, At: w.clock.Now()}, taken)
			},
		} {
			if err := change(); err == nil {
				t.Errorf("%s happened without its entry", what)
			}
		}
		if diff := cmp.Diff(before, w.rows(t)); diff != "" {
			t.Errorf("changed without evidence: %s", diff)
		}
	})
}

// rows prints everything that the tables of studies hold.
func (w *world) rows(t testing.TB) map[string][]string {
	t.Helper()
	out := make(map[string][]string)
	for table, columns := range map[string]string{"study": "id, version, title, status, schedule_version", "site": "id, code", "arm": "id, code",
		"study_staff": "study_id, user_id, role, site_id", "questionnaire": "id, status, sha256, body", "schedule": "study_id, version", "audit": "id"} {
		rows, err := w.meta.Read(t.Context()).Raw("SELECT " + columns + " FROM " + table + " ORDER BY " + columns).Rows()
		if err != nil {
			t.Fatal(err)
		}
		names, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			values, places := make([]any, len(names)), make([]any, len(names))
			for i := range values {
				places[i] = &values[i]
			}
			if err := rows.Scan(places...); err != nil {
				t.Fatal(err)
			}
			out[table] = append(out[table], fmt.Sprintf("%s", values))
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestAnIDIssuedTwiceRaisesTheAlarm(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		st := w.create(t, "EP-001")
		entry := audit.Entry{ID: 5000, At: w.clock.Now(), Zone: "UTC", ActorKind: "staff", RecordID: 1, Study: st.ID}
		again := st
		again.Protocol = "EP-002"
		for what, err := range map[string]error{
			"study": w.store.Create(ctx, again, manager, entry),
			"site": twice(func() error {
				return w.store.AddSite(ctx, st.ID, Site{ID: 70, Code: fmt.Sprint("S", w.IDs.(sequence).next()), Name: "n"}, w.another(entry))
			}),
			"questionnaire": twice(func() error {
				q := Questionnaire{ID: 80, Study: st.ID, URL: "u", Version: fmt.Sprint(w.IDs.(sequence).next()), Status: Draft}
				_, err := w.store.PutQuestionnaire(ctx, q, []byte("{}"), func(*Questionnaire) audit.Entry { return w.another(entry) })
				return err
			}),
		} {
			if err == nil || errs.KindOf(err) != errs.Internal {
				t.Errorf("%s: %v, want an internal error", what, err)
			}
		}
	})
}

func (w *world) another(e audit.Entry) audit.Entry {
	e.ID = w.IDs.(sequence).next()
	return e
}

func twice(f func() error) error {
	if err := f(); err != nil {
		return nil // the first must pass; nil fails the test
	}
	return f()
}

// TestBounds fills each list to its bound: one more is refused, and the list still shows every row.
func TestBounds(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := acting(t.Context(), manager)
		w.Catalog.config.LoadTimeout = time.Minute // so many rows, under the race detector on a busy machine
		st := w.create(t, "EP-001")
		var arms, sites, grants, forms [][]any
		for i := range maxSites - 1 {
			sites = append(sites, []any{int64(10_000 + i), st.ID, fmt.Sprint("S", i), "n"})
		}
		for i := range maxArms - 1 {
			arms = append(arms, []any{int64(10_000 + i), st.ID, fmt.Sprint("A", i), "n"})
		}
		for i := range maxGrants - 2 { // the creator has one
			grants = append(grants, []any{st.ID, int64(10_000 + i), "monitor", int64(0)})
		}
		for i := range maxQuestionnaires - 1 {
			forms = append(forms, []any{int64(10_000 + i), st.ID, "u", fmt.Sprint(i), "t", Active, make([]byte, 32), int64(1), int64(1), []byte("{}")})
		}
		err := w.meta.Tx(ctx, func(tx *gorm.DB) error {
			for _, f := range []struct {
				table   string
				columns []string
				rows    [][]any
			}{{"site", codedColumns, sites}, {"arm", codedColumns, arms}, {"study_staff", staffColumns, grants}, {"questionnaire", bodyColumns, forms}} {
				if err := db.Insert(tx, f.table, f.columns, f.rows); err != nil {
					return fmt.Errorf("%s: %w", f.table, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for what, add := range map[string]func(n int) error{
			"site": func(n int) error { _, err := w.AddSite(ctx, st.ID, fmt.Sprint("X", n), "n"); return err },
			"arm":  func(n int) error { _, err := w.AddArm(ctx, st.ID, fmt.Sprint("X", n), "n"); return err },
			"grant": func(n int) error {
				_, err := w.AddStaff(ctx, st.ID, []string{"monitor", "stranger"}[n], auth.Monitor, "")
				return err
			},
			"questionnaire": func(n int) error {
				_, err := w.ImportQuestionnaire(ctx, st.ID, form(fmt.Sprint(n), "Pain?"))
				return err
			},
		} {
			want(t, what+" that fits", add(0), "ok")
			wantBecause(t, what+" too many", add(1), "invalid_field", " too_many")
		}
		_, err = w.Catalog.Site(ctx, st.ID, "X0")
		want(t, "the last site", err, "ok")
		list, err := w.Questionnaires(ctx, st.ID)
		if err != nil || len(list) != maxQuestionnaires {
			t.Errorf("%d versions, %v", len(list), err)
		}
		_, err = w.ImportQuestionnaire(ctx, st.ID, form("0", "Another?"))
		want(t, "a draft is replaced where there is no room", err, "ok")
	})
}

func TestStoreAway(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := w.store.ByID(ctx, 1)
		want(t, "read", err, "unavailable")
		_, err = w.store.Sites(ctx, 1)
		want(t, "list", err, "unavailable")
		_, err = w.store.Grants(ctx, 1, 1)
		want(t, "rights", err, "unavailable")
		want(t, "write", w.store.AddSite(ctx, 1, Site{}, audit.Entry{}), "unavailable")
	})
}

func TestStoreReads(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		_, err := w.store.ByID(ctx, 1)
		want(t, "unknown id", err, "not_found")
		_, err = w.store.ByProtocol(ctx, "EP-001")
		want(t, "unknown protocol", err, "not_found")
		if none, err := w.store.Schedules(ctx, 1); err != nil || len(none) != 0 {
			t.Errorf("schedules of no study: %v, %v", none, err)
		}
		_, _, err = w.store.Questionnaire(ctx, 1)
		want(t, "unknown questionnaire", err, "not_found")
		want(t, "a site of no study", w.store.AddSite(ctx, 1, Site{ID: 1, Code: "S", Name: "n"}, audit.Entry{}), "not_found")
		st := w.create(t, "EP-001")
		got, err := w.store.ByProtocol(ctx, "EP-001")
		if diff := cmp.Diff(st, got); err != nil || diff != "" {
			t.Errorf("by protocol: %v\n%s", err, diff)
		}
		if sites, err := w.store.Sites(ctx, st.ID); err != nil || len(sites) != 0 {
			t.Errorf("sites %v, %v", sites, err)
		}
	})
}
