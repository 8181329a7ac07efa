package main

import (
	"context"
	"time"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/task"
)

// peopleOf shows the participants of the shards, as they are now, to whoever issues tasks.
type peopleOf struct{ *participant.Store }

func persons(list []*participant.Participant) []task.Person {
	out := make([]task.Person, len(list))
	for i, p := range list {
		out[i] = p.Person()
	}
	return out
}

// InBucket implements task.Roster.
func (p peopleOf) InBucket(ctx context.Context, shard *db.DB, study int64, bucket int, after int64, limit int) ([]task.Person, error) {
	list, err := p.Store.InBucket(ctx, shard, study, bucket, after, limit)
	return persons(list), err
}

// People implements task.Roster.
func (p peopleOf) People(ctx context.Context, ids []int64) ([]task.Person, error) {
	found, err := p.ByID(ctx, ids)
	list := make([]*participant.Participant, 0, len(found))
	for _, one := range found {
		list = append(list, one)
	}
	return persons(list), err
}

// InStudy implements task.Pages.
func (p peopleOf) InStudy(ctx context.Context, study, after int64, limit int) ([]task.Person, error) {
	list, err := p.Page(ctx, study, nil, after, limit)
	return persons(list), err
}

// leaseOwner is processName, as far as a lease has room for it.
func leaseOwner() string {
	name := processName()
	return name[max(0, len(name)-64):]
}

// openTasks makes the task lists, and what issues tasks.
func (a *app) openTasks(people *participant.Store, shelf *study.Store) {
	rows := &task.Store{Shards: a.shards}
	a.tasks = &task.Service{Engine: a.engine, Plans: a.catalog, People: personOf{a.profiles}, Questionnaires: a.catalog, Completions: rows, Reports: rows,
		Drafts: a.studies, Pages: peopleOf{people}, Numbers: a.profiles, IDs: a.ids, Guard: a.guard, Now: time.Now}
	a.generator = task.NewGenerator(a.config.Tasks, task.GeneratorParts{Store: rows, Engine: a.engine, Plans: a.catalog, Studies: shelf, Roster: peopleOf{people},
		Owner: leaseOwner(), Now: time.Now, Logger: a.log})
}
