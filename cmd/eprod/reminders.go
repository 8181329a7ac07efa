package main

import (
	"context"
	"time"

	"github.com/eprod/eprod/internal/notify"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/task"
)

// contactsOf shows to the reminders how people can be reached.
type contactsOf struct {
	participants *participant.Service
	profiles     *participant.Profiles
	catalog      *study.Catalog
	now          func() time.Time
}

// Contacts implements notify.Contacts.
func (c contactsOf) Contacts(ctx context.Context, ids []int64) (map[int64]notify.Contact, error) {
	profiles, err := c.profiles.GetMany(ctx, ids)
	if err != nil {
		return nil, err
	}
	contacts, err := c.participants.Contacts(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make(map[int64]notify.Contact, len(profiles))
	for id, p := range profiles {
		contact := contacts[id]
		out[id] = notify.Contact{Study: p.Study, Site: p.Site, Number: p.Number, Phone: contact.Phone, Email: contact.Email, Consents: contact.Consents,
			Language: p.Language, Zone: p.Zone(c.now()), LeftStudy: p.Status == participant.Withdrawn}
	}
	return out, nil
}

// Site implements notify.Contacts. A site reads the study's first language and its clocks.
func (c contactsOf) Site(ctx context.Context, of, id int64) (notify.SiteContact, error) {
	about, err := c.catalog.Study(ctx, of)
	if err != nil {
		return notify.SiteContact{}, err
	}
	site, err := c.catalog.SiteByID(ctx, of, id)
	return notify.SiteContact{Email: site.Email, Phone: site.Phone, Protocol: about.Protocol, Language: about.Languages[0], Zone: about.Zone}, err
}

// openReminders makes what reminds, and the gate that its messages go through.
func (a *app) openReminders() {
	rows := &task.Store{Shards: a.shards}
	contacts := contactsOf{a.participants, a.profiles, a.catalog, time.Now}
	a.messages.Gate = &notify.StillDue{Tasks: rows, Contacts: contacts, Now: time.Now}
	a.reminders = notify.NewReminders(a.config.Reminders, notify.ReminderParts{Shards: a.shards, Tasks: rows, Store: &notify.ReminderStore{Shards: a.shards}, Plans: a.catalog,
		Engine: a.engine, Contacts: contacts, Queue: a.messages, Budget: &notify.Budget{Meta: a.meta}, Now: time.Now, Meter: a.metrics.Messages, Logger: a.log})
}
