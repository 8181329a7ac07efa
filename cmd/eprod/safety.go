package main

import (
	"context"
	"time"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/notify"
	"github.com/eprod/eprod/internal/safety"
	"github.com/eprod/eprod/internal/study"
)

// The consumer groups of safety: one for what was stored, one for what urgent rules have found at the door.
const (
	safetyGroup = "safety"
	urgentGroup = "safety-urgent"
)

// alerting is safety in this process.
type alerting struct {
	service   *safety.Service
	watch     *safety.Watch
	escalator *safety.Escalator
	consumer  *safety.Consumer
	urgent    *safety.UrgentConsumer
}

// openSafety makes the rules, what applies them, and who is told.
func (s *server) openSafety() {
	store := &safety.Store{Meta: s.meta, Shards: s.shards, Mutable: study.Mutable}
	book := safety.NewBook(store, s.config.Safety.RulesTTL, time.Now)
	raiser := &safety.Raiser{Store: store, Receipts: s.submissions, IDs: s.ids, Now: time.Now, Meter: s.metrics.Alerts, Logger: s.log}
	intake := s.keyring.Intake()
	s.safety.service = &safety.Service{Store: store, Catalog: s.catalog, People: s.profiles, Guard: s.guard, Sealer: intake, IDs: s.ids, Now: time.Now}
	s.safety.watch = safety.NewWatch(s.config.Safety, safety.Parts{Book: book, People: s.profiles, Log: s.producer, Breaker: s.breaker, Raiser: raiser, Partitions: s.kafka.Partitions,
		Meter: s.metrics.Alerts, Logger: s.log})
	s.safety.escalator = safety.NewEscalator(s.config.Safety, safety.EscalatorParts{Store: store, Catalog: s.catalog, People: s.profiles, Messenger: staffMessages{s.messages},
		Sealer: intake, IDs: s.ids, Now: time.Now, Meter: s.metrics.Alerts, Logger: s.log})
	s.safety.consumer = &safety.Consumer{Book: book, Catalog: s.catalog, People: s.profiles, Responses: s.submissions, Raiser: raiser, Intake: intake, Logger: s.log}
	s.safety.urgent = &safety.UrgentConsumer{People: s.profiles, Raiser: raiser, Logger: s.log}
}

// staffMessages tells staff of alerts by every address that they have.
type staffMessages struct {
	// messages writes a message down and sends it; the same purpose again sends nothing.
	messages interface {
		Send(ctx context.Context, r notify.Request) (notify.Status, error)
	}
}

// Tell implements safety.Messenger.
func (m staffMessages) Tell(ctx context.Context, t safety.Told) error {
	request := notify.Request{Study: t.Study, Participant: t.Participant, Template: "alert", Language: t.Language,
		Params: map[string]string{"study": t.Protocol, "number": t.Number, "severity": t.Severity}}
	var failed error
	told := 0
	for channel, to := range map[notify.Channel]string{notify.SMS: t.To.Phone, notify.Email: t.To.Email} {
		if to == "" {
			continue
		}
		request.Channel, request.To, request.Purpose = channel, to, t.Purpose+"/"+string(channel)
		_, err := m.messages.Send(ctx, request)
		switch {
		case err == nil:
			told++
		case failed == nil || errs.Permanent(failed):
			failed = err
		}
	}
	if told > 0 && errs.Permanent(failed) {
		return nil // one address is enough, unless the other will take it later
	}
	return failed
}
