package ingest

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/web"
)

// BenchmarkDoor is the door's own share of one submission of 2.2 KB: everything but the network, the token and the log.
func BenchmarkDoor(b *testing.B) {
	s, f, taskID := newDoor(b)
	var items, answers []string
	for i := range 21 {
		items = append(items, fmt.Sprintf(`{"linkId":"q%02d","type":"integer","text":"Symptom %d today, 0 to 10","extension":[{"url":"http://hl7.org/fhir/StructureDefinition/minValue","valueInteger":0},{"url":"http://hl7.org/fhir/StructureDefinition/maxValue","valueInteger":10}]}`, i, i))
		answers = append(answers, fmt.Sprintf(`{"linkId":"q%02d","text":"Symptom %d today, 0 to 10","answer":[{"valueInteger":%d}]}`, i, i, i%11))
	}
	definition, findings := questionnaire.Compile([]byte(`{"resourceType":"Questionnaire","url":"https://example.org/q","version":"1","status":"active","item":[`+strings.Join(items, ",")+`]}`), questionnaire.DefaultLimits())
	if len(findings) > 0 {
		b.Fatal(findings)
	}
	f.definition = definition
	server, err := web.New(web.DefaultConfig(), web.Deps{})
	if err != nil {
		b.Fatal(err)
	}
	(&Door{Service: s, Slots: limit.NewInFlight(100)}).Routes(server.Gin(), server.API())
	body := fmt.Sprintf(`{"task":"%d","response":{"resourceType":"QuestionnaireResponse","identifier":{"value":"%%s"},"questionnaire":"https://example.org/q|1","status":"completed","authored":"2026-11-23T12:00:00Z","item":[%s]}}`, taskID, strings.Join(answers, ","))
	profile := *f.profile
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	ctx := b.Context()
	var participantID int64
	for b.Loop() {
		// Another participant each time, as at 20:00; the same task computes for all because only the profile's person counts.
		participantID++
		f.sent = f.sent[:0]
		f.remembered = f.remembered[:0]
		f.profile = &participant.Profile{ID: participantID, Study: 3, Status: participant.ActiveStatus, Key: profile.Key, Person: profile.Person}
		req := httptest.NewRequestWithContext(auth.With(ctx, auth.Principal{Kind: auth.KindParticipant, ID: participantID, Study: 3}), http.MethodPost, "/api/v1/submissions",
			bytes.NewReader(fmt.Appendf(nil, body, uuid.UUID{byte(participantID), byte(participantID >> 8), byte(participantID >> 16), 1})))
		req.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		server.Handler().ServeHTTP(w, req)
		if w.Code != http.StatusAccepted {
			b.Fatalf("%d %s", w.Code, w.Body)
		}
	}
}
