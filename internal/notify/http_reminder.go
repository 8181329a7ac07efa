package notify

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/web"
)

type remindersInput struct {
	Study       web.ID `path:"id"`
	Participant web.ID `path:"pid"`
	Task        web.ID `path:"tid"`
}

type reminderView struct {
	Rung      string    `json:"rung" doc:"at, after and to of the rule's reminder"`
	Channel   string    `json:"channel" enum:"sms,email"`
	Outcome   string    `json:"outcome" enum:"queued,overtaken,closed,quiet,stale,no_consent,no_address,no_gateway,budget" doc:"queued, or why none was sent"`
	Message   web.ID    `json:"message,omitempty" doc:"of the participant's messages"`
	DecidedAt time.Time `json:"decidedAt"`
}

type remindersOutput struct {
	Body struct {
		Items []reminderView `json:"items"`
	}
}

// RemindersOf tells staff what became of a task's reminders, as far as it is decided.
func (s *Service) RemindersOf(ctx context.Context, study int64, key task.Key) ([]Reminded, error) {
	if err := s.Guard.Participant(ctx, s.People, study, key.Participant, auth.TaskRead); err != nil {
		return nil, err
	}
	store := ReminderStore{s.Shards}
	return store.Of(ctx, key)
}

func (s *Service) reminderRoutes(api huma.API) {
	web.Register(api, huma.Operation{OperationID: "list-reminders", Method: http.MethodGet, Path: "/api/v1/studies/{id}/participants/{pid}/tasks/{tid}/reminders",
		Summary: "What became of a task's reminders, and why one was not sent", Tags: []string{"messages"}},
		func(ctx context.Context, in *remindersInput) (*remindersOutput, error) {
			list, err := s.RemindersOf(ctx, int64(in.Study), task.Key{Participant: int64(in.Participant), Task: int64(in.Task)})
			if err != nil {
				return nil, err
			}
			out := &remindersOutput{}
			out.Body.Items = make([]reminderView, len(list))
			for i, r := range list {
				out.Body.Items[i] = reminderView{r.Rung, r.Channel, r.Outcome, web.ID(r.Message), r.At}
			}
			return out, nil
		})
}
