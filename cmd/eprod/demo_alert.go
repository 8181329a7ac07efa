package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/participant"
)

// alertedNumber is the participant of DEMO-001 whose answer raises alerts. Nobody else gets the activation code.
const alertedNumber = "0007"

// signedIn returns a client of the program's own public door and the token of the demonstration's administrator, whose name and password
// are in the folder.
func (s *server) signedIn(ctx context.Context) (c *demoClient, d demoFile, token string, err error) {
	content, err := os.ReadFile(filepath.Join(s.config.DataDir, "demo.json"))
	if err != nil {
		return nil, d, "", err
	}
	if err := json.Unmarshal(content, &d); err != nil {
		return nil, d, "", err
	}
	c = newDemoClient(s.apiAddress())
	token, err = c.login(ctx, d.Staff[0])
	return c, d, token, err
}

// alertDemo lets a participant of the demonstration study answer the questions about mood, once, so that both of its safety rules fire: the
// urgent one at the door, the one about the total when the answer is stored.
func (s *server) alertDemo(ctx context.Context) error {
	c, d, token, err := s.signedIn(ctx)
	if err != nil {
		return err
	}
	id, err := c.study(ctx, token, "DEMO-001")
	if err != nil {
		return err
	}
	base := "/api/v1/studies/" + id
	var alerts struct{ Items []struct{ ID string } }
	if err := c.call(ctx, "GET", base+"/alerts?limit=1", token, nil, &alerts); err != nil || len(alerts.Items) > 0 {
		return err
	}
	who, err := s.alerted(ctx, d.Staff[0].Username, id)
	if err != nil {
		return err
	}
	var renewed struct{ ActivationCode string } // the first one may be used up, by a run that was interrupted
	if err := c.call(ctx, "POST", fmt.Sprintf("%s/participants/%d/activation", base, who), token, nil, &renewed); err != nil {
		return err
	}
	return c.answer(ctx, renewed.ActivationCode, "mood", moodAnswer)
}

// alerted enrols the participant who answers, or finds who was enrolled by an earlier run.
func (s *server) alerted(ctx context.Context, admin, study string) (int64, error) {
	account, err := s.users.Staff(ctx, admin)
	if err != nil {
		return 0, err
	}
	ctx = asSystem(ctx, account)
	var id int64
	if _, err := fmt.Sscan(study, &id); err != nil {
		return 0, err
	}
	const zone = "Europe/Berlin"
	outcome, err := s.participants.Enrol(ctx, id, participant.Enrolment{Number: alertedNumber, Site: "S01", Arm: "A", Zone: zone, Language: "en", Anchors: map[string]string{"enrolment": yesterday(zone)}}, "demo")
	if errs.KindOf(err) != errs.Conflict || err == nil {
		return outcome.ID, err
	}
	page, _, _, listErr := s.participants.List(ctx, id, 0, 100)
	for _, p := range page {
		if p.Number == alertedNumber {
			return p.ID, nil
		}
	}
	if listErr != nil {
		return 0, listErr
	}
	return 0, err
}

// moodAnswer is a PHQ-9 with the highest weights but for the ninth item, whose smallest one is enough.
func moodAnswer(id uuid.UUID) map[string]any {
	items := make([]any, 0, 9)
	for i := 1; i <= 9; i++ {
		code := "LA6571-9" // nearly every day
		if i == 9 {
			code = "LA6569-3" // several days
		}
		items = append(items, map[string]any{"linkId": fmt.Sprintf("phq9-%d", i), "answer": []any{map[string]any{"valueCoding": map[string]string{"system": "http://loinc.org", "code": code}}}})
	}
	return map[string]any{"resourceType": "QuestionnaireResponse", "identifier": map[string]string{"value": id.String()}, "questionnaire": "https://example.org/q/phq-9|1.0.0",
		"status": "completed", "authored": time.Now().Format(time.RFC3339), "item": items}
}
