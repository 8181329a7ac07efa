package auth

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/errs"
)

// fakeGrants holds grants by user; every user's grants are for study 7.
type fakeGrants map[int64][]Grant

func (f fakeGrants) Grants(_ context.Context, user, study int64) ([]Grant, error) {
	if user == 99 {
		return nil, errs.Away("metadata", errors.New("down"))
	}
	if study != 7 {
		return nil, nil
	}
	return f[user], nil
}

const (
	admin = iota + 1
	manager
	coordinatorAt10
	coordinatorAt10And11
	monitor
	stranger
	mixed
)

func guard() Guard {
	return Guard{Grants: fakeGrants{
		manager:              {{Role: StudyManager}},
		coordinatorAt10:      {{Role: Coordinator, Site: 10}},
		coordinatorAt10And11: {{Role: Coordinator, Site: 10}, {Role: Coordinator, Site: 11}, {Role: Investigator, Site: 10}},
		monitor:              {{Role: Monitor}},
		mixed:                {{Role: Monitor}, {Role: Coordinator, Site: 10}},
	}}
}

func staff(ctx context.Context, id int64) context.Context {
	p := Principal{Kind: KindStaff, ID: id}
	if id == admin {
		p.Role = Administrator
	}
	return With(ctx, p)
}

func kind(err error) string {
	if err == nil {
		return "ok"
	}
	e, _ := errs.As(err)
	if e == nil {
		return err.Error()
	}
	return e.Code
}

func TestGuardStudyAndSite(t *testing.T) {
	g := guard()
	for _, c := range []struct {
		name         string
		user         int64
		study        int64
		action       Action
		whole, at10  string
		sites        []int64
		all          bool
		sitesOutcome string
	}{
		{"administrator everywhere", admin, 8, StudyDesign, "ok", "ok", nil, true, "ok"},
		{"manager in the study", manager, 7, StudyDesign, "ok", "ok", nil, true, "ok"},
		{"manager in another study", manager, 8, StudyRead, "not_found", "not_found", nil, false, "not_found"},
		{"stranger", stranger, 7, StudyRead, "not_found", "not_found", nil, false, "not_found"},
		{"site right reads the study", coordinatorAt10, 7, StudyRead, "ok", "ok", []int64{10}, false, "ok"},
		{"site right is no study right", coordinatorAt10, 7, ParticipantEnrol, "forbidden", "ok", []int64{10}, false, "ok"},
		{"several sites", coordinatorAt10And11, 7, ParticipantEnrol, "forbidden", "ok", []int64{10, 11}, false, "ok"},
		{"sees but may not", monitor, 7, ParticipantEnrol, "forbidden", "forbidden", nil, false, "forbidden"},
		{"two grants add up", mixed, 7, ParticipantEnrol, "forbidden", "ok", []int64{10}, false, "ok"},
		{"grants away", 99, 7, StudyRead, "unavailable", "unavailable", nil, false, "unavailable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := staff(t.Context(), c.user)
			p, err := g.Study(ctx, c.study, c.action)
			if kind(err) != c.whole {
				t.Errorf("Study: %v, want %s", err, c.whole)
			}
			if err == nil && p.ID != c.user {
				t.Errorf("Study returned %d", p.ID)
			}
			if _, err := g.Site(ctx, c.study, 10, c.action); kind(err) != c.at10 {
				t.Errorf("Site 10: %v, want %s", err, c.at10)
			}
			sites, all, err := g.Sites(ctx, c.study, c.action)
			if kind(err) != c.sitesOutcome || all != c.all {
				t.Errorf("Sites: all %t, %v; want all %t, %s", all, err, c.all, c.sitesOutcome)
			}
			if diff := cmp.Diff(c.sites, sites); diff != "" {
				t.Errorf("Sites (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGuardHidesOtherSites(t *testing.T) {
	ctx := staff(t.Context(), coordinatorAt10)
	if _, err := guard().Site(ctx, 7, 11, ParticipantRead); kind(err) != "not_found" {
		t.Errorf("a site without rights: %v, want not_found", err)
	}
}

func TestCallerKinds(t *testing.T) {
	g := guard()
	anonymous := t.Context()
	participant := With(t.Context(), Principal{Kind: KindParticipant, ID: 5, Study: 7})
	service := With(t.Context(), Principal{Kind: KindService, ID: 6, Role: Service})
	for _, c := range []struct {
		name string
		call func() error
		want string
	}{
		{"anonymous study", func() error { _, err := g.Study(anonymous, 7, StudyRead); return err }, "unauthenticated"},
		{"anonymous site", func() error { _, err := g.Site(anonymous, 7, 10, StudyRead); return err }, "unauthenticated"},
		{"anonymous global", func() error { _, err := g.Global(anonymous, IDIssue); return err }, "unauthenticated"},
		{"anonymous participant", func() error { _, err := Participant(anonymous); return err }, "unauthenticated"},
		{"participant study", func() error { _, err := g.Study(participant, 7, StudyRead); return err }, "forbidden"},
		{"participant site", func() error { _, err := g.Site(participant, 7, 10, StudyRead); return err }, "forbidden"},
		{"participant global", func() error { _, err := g.Global(participant, IDIssue); return err }, "forbidden"},
		{"participant", func() error { _, err := Participant(participant); return err }, "ok"},
		{"staff as participant", func() error { _, err := Participant(staff(anonymous, admin)); return err }, "forbidden"},
		{"service ids", func() error { _, err := g.Global(service, IDIssue); return err }, "ok"},
		{"service studies", func() error { _, err := g.Global(service, StudyCreate); return err }, "forbidden"},
		{"administrator ids", func() error { _, err := g.Global(staff(anonymous, admin), IDIssue); return err }, "ok"},
		{"plain staff creates", func() error { _, err := g.Global(staff(anonymous, manager), StudyCreate); return err }, "forbidden"},
	} {
		if err := c.call(); kind(err) != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

// fakePlaces holds each participant's study and site.
type fakePlaces map[int64][2]int64

func (f fakePlaces) Site(_ context.Context, participant int64) (study, site int64, err error) {
	at, ok := f[participant]
	if !ok {
		return 0, 0, errs.Absent("participant")
	}
	return at[0], at[1], nil
}

func TestGuardParticipant(t *testing.T) {
	places := fakePlaces{1: {7, 10}, 2: {7, 11}, 3: {8, 10}}
	for _, c := range []struct {
		name        string
		user        int64
		participant int64
		action      Action
		want        string
	}{
		{"at the own site", coordinatorAt10, 1, ParticipantUpdate, "ok"},
		{"at another site", coordinatorAt10, 2, ParticipantRead, "not_found"},
		{"seen, not changed", monitor, 1, ParticipantUpdate, "forbidden"},
		{"of another study", manager, 3, ParticipantRead, "not_found"},
		{"of another study, whoever asks", admin, 3, ParticipantRead, "not_found"},
		{"nobody", admin, 4, ParticipantRead, "not_found"},
		{"by a stranger", stranger, 1, ParticipantRead, "not_found"},
	} {
		if got := kind(guard().Participant(staff(context.Background(), int64(c.user)), places, 7, c.participant, c.action)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
	participant := With(context.Background(), Principal{Kind: KindParticipant, ID: 1})
	if got := kind(guard().Participant(participant, places, 7, 1, ParticipantRead)); got != "forbidden" {
		t.Errorf("the participant itself: got %s", got)
	}
	if got := kind(guard().Participant(context.Background(), places, 7, 1, ParticipantRead)); got != "unauthenticated" {
		t.Errorf("nobody signed in: got %s", got)
	}
}
