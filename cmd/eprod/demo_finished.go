package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/task"
)

// finishedDemo are the demonstration's studies that have ended: their participants have answered through the public door, like any
// others, and then the study was locked.
func finishedDemo() []finishedStudy {
	return []finishedStudy{{protocol: "DEMO-002"}, {protocol: "DEMO-003", archived: true}}
}

// finishedStudy is a study that has ended, and whose data may have left for the archive.
type finishedStudy struct {
	protocol string
	archived bool
}

// demonstrate lets an answer of the demonstration raise its alerts and brings its finished studies to their end, in the background and once; what
// an earlier run has left is taken up.
func (s *server) demonstrate(ctx context.Context) error {
	if s.config.Demo {
		if err := s.alertDemo(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "the demonstration has raised no alert", "error", err)
		}
		for _, f := range finishedDemo() {
			if err := s.finishDemo(ctx, f); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "a study of the demonstration has not come to its end", "error", err)
			}
		}
	}
	<-ctx.Done()
	return nil
}

func (s *server) finishDemo(ctx context.Context, f finishedStudy) error {
	c, d, token, err := s.signedIn(ctx)
	if err != nil {
		return err
	}
	id, err := c.study(ctx, token, f.protocol)
	if err != nil {
		return err
	}
	if id == "" {
		if id, err = s.designFinished(ctx, d.Staff[0].Username, f.protocol, c); err != nil {
			return err
		}
	}
	var lock struct{ State string }
	if err := c.call(ctx, "GET", "/api/v1/studies/"+id+"/lock", token, nil, &lock); err != nil {
		return err
	}
	if lock.State == study.Active {
		err = c.call(ctx, "POST", "/api/v1/studies/"+id+"/lock", token, map[string]string{"password": d.Staff[0].Password, "reason": "the demonstration's pilot has ended"}, nil)
	}
	if err != nil || !f.archived || lock.State == study.Archived {
		return err
	}
	if err := c.locked(ctx, id, token); err != nil {
		return err
	}
	return c.call(ctx, "POST", "/api/v1/studies/"+id+"/archive", token, map[string]string{"reason": "the demonstration's pilot is closed out"}, nil)
}

// locked waits until a study is locked.
func (c *demoClient) locked(ctx context.Context, id, token string) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for range 600 {
		var lock struct{ State string }
		if err := c.call(ctx, "GET", "/api/v1/studies/"+id+"/lock", token, nil, &lock); err != nil || lock.State == study.Locked {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return errors.New("the study was not locked within two minutes")
}

// designFinished makes a study with four participants who have all answered once.
func (s *server) designFinished(ctx context.Context, admin, protocol string, c *demoClient) (string, error) {
	account, err := s.users.Staff(ctx, admin)
	if err != nil {
		return "", err
	}
	system := asSystem(ctx, account)
	id, err := s.finishedDesign(system, protocol)
	if err != nil {
		return "", err
	}
	for i := range 4 {
		outcome, err := s.participants.Enrol(system, id, participant.Enrolment{Number: fmt.Sprintf("%04d", i+1), Site: "S01", Arm: "A", Zone: "Europe/Berlin", Language: "en",
			Anchors: map[string]string{"enrolment": yesterday("Europe/Berlin")}}, "demo")
		if err != nil {
			return "", err
		}
		if err := c.answer(ctx, outcome.Code, "diary", func(id uuid.UUID) map[string]any { return diaryAnswer(id, i) }); err != nil {
			return "", err
		}
	}
	return fmt.Sprint(id), nil
}

func (s *server) finishedDesign(ctx context.Context, protocol string) (int64, error) {
	st, err := s.studies.Create(ctx, study.Study{Protocol: protocol, Title: "Pilot that has ended", Zone: "Europe/Berlin", Languages: []string{"en"}, ParticipantPin: study.PinOptional})
	if err != nil {
		return 0, err
	}
	if _, err := s.studies.AddSite(ctx, st.ID, "S01", "Demonstration Hospital"); err != nil {
		return 0, err
	}
	if _, err := s.studies.AddArm(ctx, st.ID, "A", "Arm A"); err != nil {
		return 0, err
	}
	body, err := instruments.ReadFile("demo/diary.json")
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
	design := task.Design{Rules: []task.Rule{{ID: "diary", Questionnaire: q.Canonical(), Anchor: "enrolment", Offset: "P0D", Repeat: &task.Repeat{Every: "P1D", Until: "P365D"},
		Windows: []task.Window{{Opens: "00:00", Due: "20:00", Closes: "00:00"}}}}}
	if _, err := s.studies.PutSchedule(ctx, st.ID, design, time.Time{}); err != nil {
		return 0, err
	}
	_, err = s.studies.Publish(ctx, st.ID)
	return st.ID, err
}

// demoClient speaks to the program's own public door.
type demoClient struct {
	base string
	http *http.Client
}

func newDemoClient(base string) *demoClient {
	return &demoClient{base: base, http: &http.Client{Timeout: 30 * time.Second}}
}

// login returns an access token of one of the demonstration's staff.
func (c *demoClient) login(ctx context.Context, who demoStaff) (string, error) {
	var signed struct{ AccessToken string }
	err := c.call(ctx, "POST", "/api/v1/auth/login", "", map[string]string{"username": who.Username, "password": who.Password}, &signed)
	return signed.AccessToken, err
}

// study returns the id of the study with a protocol number, or "".
func (c *demoClient) study(ctx context.Context, token, protocol string) (string, error) {
	var list struct {
		Items []struct{ ID, Protocol string }
	}
	if err := c.call(ctx, "GET", "/api/v1/studies?limit=100", token, nil, &list); err != nil {
		return "", err
	}
	for _, item := range list.Items {
		if item.Protocol == protocol {
			return item.ID, nil
		}
	}
	return "", nil
}

// answer signs a participant in, answers the open task of a rule and waits until that is stored.
func (c *demoClient) answer(ctx context.Context, code, rule string, response func(id uuid.UUID) map[string]any) error {
	var tokens struct{ AccessToken string }
	if err := c.call(ctx, "POST", "/api/v1/auth/activate", "", map[string]string{"code": code}, &tokens); err != nil {
		return err
	}
	var tasks struct {
		Items []struct{ ID, Rule, State string }
	}
	if err := c.call(ctx, "GET", "/api/v1/me/tasks", tokens.AccessToken, nil, &tasks); err != nil {
		return err
	}
	for _, t := range tasks.Items {
		if t.Rule != rule || t.State != string(task.Open) {
			continue
		}
		id := uuid.New()
		if err := c.call(ctx, "POST", "/api/v1/submissions", tokens.AccessToken, map[string]any{"task": t.ID, "response": response(id)}, nil); err != nil {
			return err
		}
		return c.stored(ctx, id, tokens.AccessToken)
	}
	return errors.New("no task is open")
}

func (c *demoClient) stored(ctx context.Context, id uuid.UUID, token string) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for range 300 {
		var receipt struct{ State string }
		if err := c.call(ctx, "GET", "/api/v1/submissions/"+id.String(), token, nil, &receipt); err == nil && receipt.State == "stored" {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return errors.New("an answer was not stored within a minute")
}

func diaryAnswer(id uuid.UUID, variant int) map[string]any {
	coding := func(code string) map[string]any {
		return map[string]any{"valueCoding": map[string]string{"system": "https://example.org/code/diary", "code": code}}
	}
	item := func(link string, answer map[string]any) map[string]any {
		return map[string]any{"linkId": link, "answer": []any{answer}}
	}
	return map[string]any{"resourceType": "QuestionnaireResponse", "identifier": map[string]string{"value": id.String()}, "questionnaire": "https://example.org/q/diary|1.0.0",
		"status": "completed", "authored": time.Now().Format(time.RFC3339), "item": []any{
			item("pain", map[string]any{"valueInteger": variant + 2}),
			map[string]any{"linkId": "pain-detail", "item": []any{item("pain-site", coding("head"))}},
			item("fatigue", map[string]any{"valueInteger": 3}), item("sleep", map[string]any{"valueDecimal": 7.5}), item("nausea", coding("none")),
			item("medicine", map[string]any{"valueBoolean": true}), item("medicine-time", map[string]any{"valueTime": "08:00:00"}),
		}}
}

// call sends JSON and reads the answer into out; any status from 400 on is an error.
func (c *demoClient) call(ctx context.Context, method, path, token string, body, out any) error {
	var content io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, content)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("%s %s: status %d", method, path, res.StatusCode)
	}
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(raw, out)
}
