package main

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/safety"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/task"
)

// instruments are the questionnaires of the demonstration study.
//
//go:embed demo/*.json
var instruments embed.FS

// demoFile is what the demonstration prints, for programs.
type demoFile struct {
	API          string            `json:"api"`
	Ops          string            `json:"ops"`
	Staff        []demoStaff       `json:"staff"`
	Participants []demoParticipant `json:"participants"`
}

type demoStaff struct {
	Username string `json:"username"`
	Password string `json:"password"`
	Role     string `json:"role"`
}

type demoParticipant struct {
	Study          string `json:"study"`
	Number         string `json:"number"`
	Zone           string `json:"zone"`
	ActivationCode string `json:"activationCode"`
}

// welcome tells a person at the terminal how to go on: with the demonstration, or with the first administrator.
func (s *server) welcome(ctx context.Context, out io.Writer) error {
	if s.config.Demo {
		return s.demo(ctx, out)
	}
	if s.embedded == nil {
		return nil
	}
	studies, err := s.studyCount(ctx)
	if err == nil && studies == 0 {
		_, err = fmt.Fprintf(out, "eprod listens on %s with embedded stores in %s, which are empty.\nStop it and make the first administrator:\n\n"+
			"  eprod user add --username admin --role administrator\n\nor look around with: eprod serve --demo\n", s.apiAddress(), s.config.DataDir)
	}
	return err
}

func (s *server) studyCount(ctx context.Context) (int, error) {
	list, err := s.studies.List(asSystem(ctx, 0), 0, 1)
	return len(list), err
}

// asSystem lets the program itself act with an administrator's rights, under an account's id.
func asSystem(ctx context.Context, account int64) context.Context {
	return auth.With(ctx, auth.Principal{Kind: auth.KindStaff, ID: account, Role: auth.Administrator})
}

// demo fills an empty data folder through the same use cases that the API has, and prints how to sign in. A folder that
// the demonstration has filled before is used as it is; any other data is left alone.
func (s *server) demo(ctx context.Context, out io.Writer) error {
	path := filepath.Join(s.config.DataDir, "demo.json")
	var d demoFile
	existing, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err := json.Unmarshal(existing, &d); err != nil {
			return fmt.Errorf("%s is damaged: %w", path, err)
		}
	case errors.Is(err, os.ErrNotExist):
		n, err := s.studyCount(ctx)
		if err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("the data folder %s has data that is no demonstration: name an empty one with --data-dir", s.config.DataDir)
		}
		if d, err = s.fillDemo(ctx); err != nil {
			return fmt.Errorf("demonstration: %w", err)
		}
	default:
		return err
	}
	d.API, d.Ops = s.apiAddress(), "http://"+s.ops.Addr()
	content, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, append(content, '\n'), 0o600); err != nil {
		return fmt.Errorf("demonstration: %w", err)
	}
	return printDemo(out, &d, path)
}

func printDemo(out io.Writer, d *demoFile, path string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\neprod runs with a demonstration study.\n\n  API         %s (documentation at %s/docs)\n  operators   %s\n", d.API, d.API, d.Ops)
	for _, u := range d.Staff {
		fmt.Fprintf(&b, "  staff       %s, password %s (%s)\n", u.Username, u.Password, u.Role)
	}
	for _, p := range d.Participants {
		fmt.Fprintf(&b, "  participant %s in %-16s activation code %s\n", p.Number, p.Zone, p.ActivationCode)
	}
	fmt.Fprintf(&b, "\nThe same for programs: %s\n\n", path)
	_, err := io.WriteString(out, b.String())
	return err
}

func (s *server) fillDemo(ctx context.Context) (demoFile, error) {
	var d demoFile
	secret := make([]byte, 10)
	if _, err := rand.Read(secret); err != nil {
		return d, err
	}
	password := strings.ToLower(base32.StdEncoding.EncodeToString(secret))
	d.Staff = []demoStaff{{"demo-admin", password, string(auth.Administrator)}, {"demo-coordinator", password, string(auth.Coordinator)}}
	admin, err := s.users.AddStaff(ctx, d.Staff[0].Username, password, auth.Administrator)
	if err != nil {
		return d, err
	}
	if _, err := s.users.AddStaff(ctx, d.Staff[1].Username, password, auth.Coordinator); err != nil {
		return d, err
	}
	ctx = asSystem(ctx, admin)
	id, err := s.demoStudy(ctx)
	if err != nil {
		return d, err
	}
	zones := []string{"Asia/Shanghai", "Europe/Berlin", "America/New_York"}
	for i := range 6 {
		zone := zones[i%len(zones)]
		// The numbers are of the range that is kept free for films and plays.
		contact := participant.Contact{Phone: fmt.Sprintf("+1202555010%d", i), Consents: map[string]bool{participant.ChannelSMS: i != 5}}
		outcome, err := s.participants.Enrol(ctx, id, participant.Enrolment{Number: fmt.Sprintf("%04d", i+1), Site: fmt.Sprintf("S%02d", i%2+1), Contact: contact,
			Arm: string(rune('A' + i%2)), Zone: zone, Language: []string{"zh-CN", "en", "en"}[i%3], Anchors: map[string]string{"enrolment": yesterday(zone)}}, "demo")
		if err != nil {
			return d, err
		}
		d.Participants = append(d.Participants, demoParticipant{Study: "DEMO-001", Number: outcome.Number, Zone: zone, ActivationCode: outcome.Code})
	}
	return d, nil
}

func yesterday(zone string) string {
	loc, err := task.LoadZone(zone)
	if err != nil {
		loc = time.UTC
	}
	return time.Now().In(loc).AddDate(0, 0, -1).Format(time.DateOnly)
}

func (s *server) demoStudy(ctx context.Context) (int64, error) {
	st, err := s.studies.Create(ctx, study.Study{Protocol: "DEMO-001", Title: "Daily symptoms, mood and worry", Zone: "Asia/Shanghai",
		Languages: []string{"en", "zh-CN"}, ParticipantPin: study.PinOptional})
	if err != nil {
		return 0, err
	}
	for i, name := range []string{"Demonstration Hospital", "Demonstration Clinic"} {
		site, err := s.studies.AddSite(ctx, st.ID, fmt.Sprintf("S%02d", i+1), name)
		if err != nil {
			return 0, err
		}
		if _, err := s.studies.SetSiteContact(ctx, st.ID, site.ID, fmt.Sprintf("site%d@example.org", i+1), ""); err != nil {
			return 0, err
		}
	}
	for _, code := range []string{"A", "B"} {
		if _, err := s.studies.AddArm(ctx, st.ID, code, "Arm "+code); err != nil {
			return 0, err
		}
	}
	canonical := make(map[string]string)
	for _, name := range []string{"diary", "phq9", "gad7"} {
		body, err := instruments.ReadFile("demo/" + name + ".json")
		if err != nil {
			return 0, err
		}
		q, err := s.studies.ImportQuestionnaire(ctx, st.ID, body)
		if err != nil {
			return 0, err
		}
		if q, err = s.studies.PublishQuestionnaire(ctx, st.ID, q.ID); err != nil {
			return 0, err
		}
		canonical[name] = q.Canonical()
	}
	if _, err := s.studies.PutSchedule(ctx, st.ID, demoDesign(canonical), time.Time{}); err != nil {
		return 0, err
	}
	if err := s.demoSafety(ctx, st.ID, canonical["phq9"]); err != nil {
		return 0, err
	}
	if _, err := s.studies.AddStaff(ctx, st.ID, "demo-coordinator", auth.Coordinator, ""); err != nil {
		return 0, err
	}
	_, err = s.studies.Publish(ctx, st.ID)
	return st.ID, err
}

// demoDesign: the diary is open around the clock, so that there is an open task at whatever hour the demonstration starts. Mood and worry
// are asked in blocks of three days every fortnight, always in their newest version; a bad day can be told of at any time.
func demoDesign(canonical map[string]string) task.Design {
	newest := func(name string) string {
		url, _ := task.SplitCanonical(canonical[name])
		return url
	}
	fortnightly := func(id, name string) task.Rule {
		return task.Rule{ID: id, Questionnaire: newest(name), Anchor: "enrolment", Offset: "P1D", Repeat: &task.Repeat{Every: "P2W", Until: "P365D"},
			Burst: &task.Burst{Every: "P1D", Count: 3}, Windows: []task.Window{{Opens: "00:00", Due: "20:00", Closes: "00:00", Grace: "PT12H"}},
			Reminders: []task.Reminder{{At: "due", After: "-PT2H"}}}
	}
	return task.Design{
		Rules: []task.Rule{
			{ID: "diary", Questionnaire: canonical["diary"], Anchor: "enrolment", Offset: "P0D", Repeat: &task.Repeat{Every: "P1D", Until: "P365D"},
				Windows: []task.Window{{Opens: "00:00", Due: "20:00", Closes: "00:00", Grace: "PT2H"}},
				Reminders: []task.Reminder{{At: "due", After: "-PT1H"}, {At: "closes", After: "-PT2H", Channels: []string{task.ChannelSMS, task.ChannelEmail}},
					{At: "missed", After: "PT0S"}}},
			fortnightly("mood", "phq9"), fortnightly("worry", "gad7"),
			{ID: "bad-day", Questionnaire: canonical["diary"], Anchor: "enrolment", Offset: "P0D", Repeat: &task.Repeat{Every: "P1D", Until: "P365D"}, Anytime: &task.Anytime{PerDay: 3}},
		},
		Policies: &task.Policies{Offline: "P2D"},
		Messages: &task.Messages{Quiet: &task.Quiet{From: "22:30", Until: "07:00"}, Budget: map[string]int{task.ChannelSMS: 1000}},
	}
}

// demoSafety: any thought of self-harm is an urgent alert to whoever is on duty; a high total of PHQ-9 is one to look at.
func (s *server) demoSafety(ctx context.Context, id int64, canonical string) error {
	url, _ := task.SplitCanonical(canonical)
	none, severe := 0.0, 20.0
	_, err := s.safety.service.PutRules(ctx, id, []safety.Rule{
		{ID: "self-harm", Title: "Thoughts of self-harm", Questionnaire: url, Severity: safety.Critical, Urgent: true,
			When:       safety.Condition{Answer: &safety.AnswerIs{LinkID: "phq9-9", Operator: ">", Number: &none}},
			Escalation: []safety.Escalation{{To: safety.ToSite, After: "PT0S"}, {To: safety.ToManager, After: "PT15M"}}},
		{ID: "severe", Title: "Severe symptoms", Questionnaire: url, Severity: safety.High, When: safety.Condition{Score: &safety.ScoreIs{Name: "total", Operator: ">=", Number: severe}}},
	})
	if err != nil {
		return err
	}
	rota := safety.Rota{Manager: []safety.Contact{{Email: "manager@example.org"}}}
	for _, site := range []string{"S01", "S02"} {
		rota.Sites = append(rota.Sites, safety.Site{Site: site, Duty: []safety.Duty{{Contact: safety.Contact{Email: "duty." + strings.ToLower(site) + "@example.org"}}}})
	}
	_, err = s.safety.service.PutRota(ctx, id, rota)
	return err
}
