package archive

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
)

// grants gives one account one role in our study.
type grants map[int64]auth.Role

// Grants implements auth.Grants.
func (g grants) Grants(_ context.Context, user, study int64) ([]auth.Grant, error) {
	if role, ok := g[user]; ok && study == ours {
		return []auth.Grant{{Role: role}}, nil
	}
	return nil, nil
}

func as(t *testing.T, p auth.Principal) context.Context { return auth.With(t.Context(), p) }

// TestReads: who asks for what of an archived study, and is told where it is, or what it was told before.
func TestReads(t *testing.T) {
	r := newRig(t, "sqlite")
	r.fill(t, ours, 4, 2)
	r.fill(t, theirs, 2, 2)
	r.close(t, ours)
	if _, err := r.meta.Pool().ExecContext(t.Context(), "INSERT INTO participant_number (study_id, number, participant_id) VALUES (1001, '1', 71), (2002, '1', 72)"); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	r.service.Now = func() time.Time { return now }
	r.service.Guard = auth.Guard{Grants: grants{5: auth.Monitor, 6: auth.StudyManager}}
	monitor, stranger := auth.Principal{Kind: auth.KindStaff, ID: 5}, auth.Principal{Kind: auth.KindStaff, ID: 9}
	ourPatient, theirPatient := auth.Principal{Kind: auth.KindParticipant, ID: 71, Study: ours}, auth.Principal{Kind: auth.KindParticipant, ID: 72, Study: theirs}
	ask := func(p auth.Principal, route, id, pid string) bool {
		return r.service.archived(as(t, p), route, func(name string) string { return map[string]string{"id": id, "pid": pid}[name] }) != nil
	}
	const responses, sites, record = studyRoutes + "/responses", studyRoutes + "/sites", participantRoutes + "/record"
	if ask(monitor, responses, "1001", "") || ask(monitor, record, "", "71") || ask(ourPatient, ownRoutes+"/tasks", "", "") {
		t.Error("a study that is not archived is refused")
	}
	r.move(t, Out)
	now = now.Add(shelfAge)
	for name, c := range map[string]struct {
		who            auth.Principal
		route, id, pid string
		want           bool
	}{
		"data":                     {monitor, responses, "1001", "", true},
		"data below":               {monitor, studyRoutes + "/participants/:pid/tasks", "1001", "71", true},
		"design":                   {monitor, sites, "1001", "", false},
		"the study":                {monitor, studyRoutes, "1001", "", false},
		"the archive":              {monitor, studyRoutes + "/archive/restore", "1001", "", false},
		"another study":            {monitor, responses, "2002", "", false},
		"no id":                    {monitor, responses, "x", "", false},
		"a stranger":               {stranger, responses, "1001", "", false},
		"a record":                 {monitor, record, "", "71", true},
		"a record of another":      {monitor, record, "", "72", false},
		"a record of nobody":       {monitor, record, "", "73", false},
		"a participant":            {ourPatient, ownRoutes + "/tasks", "", "", true},
		"a participant's account":  {ourPatient, "/api/v1/auth/refresh", "", "", false},
		"a participant of another": {theirPatient, ownRoutes + "/tasks", "", "", false},
		"a route that looks alike": {monitor, "/api/v1/studies/:idle/x", "1001", "", false},
		"nobody":                   {auth.Principal{}, "/api/v1/submissions", "", "", false},
	} {
		if got := ask(c.who, c.route, c.id, c.pid); got != c.want {
			t.Errorf("%s: refused %v, want %v", name, got, c.want)
		}
	}
	if r.service.archived(t.Context(), responses, func(string) string { return "1001" }) != nil {
		t.Error("somebody who has not signed in learns of the archive")
	}
	r.move(t, Back)
	now = now.Add(shelfAge)
	if ask(monitor, responses, "1001", "") {
		t.Error("a restored study is refused")
	}
}

// TestRequests: who may move a study, and when.
func TestRequests(t *testing.T) {
	r := newRig(t, "sqlite")
	r.fill(t, ours, 4, 2)
	r.close(t, ours)
	r.service.Guard = auth.Guard{Grants: grants{5: auth.Monitor, 6: auth.StudyManager}}
	manager := as(t, auth.Principal{Kind: auth.KindStaff, ID: 6})
	_, err := r.service.Request(as(t, auth.Principal{Kind: auth.KindStaff, ID: 5}), ours, Out, "why")
	wantKind(t, "a monitor", err, errs.Forbidden)
	_, err = r.service.Request(as(t, auth.Principal{Kind: auth.KindStaff, ID: 9}), ours, Out, "why")
	wantKind(t, "a stranger", err, errs.NotFound)
	_, err = r.service.Request(manager, ours, Out, "  ")
	wantKind(t, "without a reason", err, errs.Unprocessable)
	_, err = r.service.Request(manager, ours, Back, "why")
	wantKind(t, "a restore of what is not archived", err, errs.Conflict)
	_, err = r.service.Show(manager, ours)
	wantKind(t, "a study that was never archived", err, errs.NotFound)
	first, err := r.service.Request(manager, ours, Out, "why")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.service.Request(manager, ours, Out, "why"); err != nil || again.ID != first.ID {
		t.Errorf("the same wish again: %+v, %v", again, err)
	}
	_, err = r.service.Request(manager, ours, Back, "why")
	wantKind(t, "a restore while it leaves", err, errs.Conflict)
	if err := r.service.Drive(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	if err := r.service.Drive(t.Context(), ours); err != nil {
		t.Errorf("a move that is done: %v", err)
	}
	state, err := r.service.Show(manager, ours)
	if err != nil || !state.Run.Archived() || state.Manifest == nil || state.Counts.Files == 0 || state.Counts.Verified != state.Counts.Files {
		t.Errorf("%+v, %v", state.Run, err)
	}
	_, err = r.service.Request(manager, ours, Out, "why")
	wantKind(t, "an archived study once more", err, errs.Conflict)
	off := New(r.service.Config, r.service.Parts)
	off.Destination = nil
	_, err = off.Start(t.Context(), ours, Back, Actor{}, "why")
	if e, ok := errs.As(err); !ok || e.Code != "archive_off" {
		t.Errorf("without a folder: %v", err)
	}
	var entries []string
	if err := r.meta.Read(t.Context()).Table("audit").Where("study_id = ?", ours).Order("id").Pluck("action", &entries).Error; err != nil || len(entries) != 2 || entries[0] != "study.archive-request" || entries[1] != "study.archive" {
		t.Errorf("%v, %v", entries, err)
	}
}

func wantKind(t *testing.T, what string, err error, kind errs.Kind) {
	t.Helper()
	if err == nil || errs.KindOf(err) != kind {
		t.Errorf("%s: %v", what, errors.Unwrap(err))
	}
}
