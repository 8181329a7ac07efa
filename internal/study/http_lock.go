package study

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/eprod/eprod/internal/web"
)

type lockInput struct {
	ID   web.ID `path:"id"`
	Body struct {
		Password string `json:"password" maxLength:"1000" doc:"your own password again"`
		Reason   string `json:"reason" doc:"kept in the audit trail and in the report"`
	}
}

type lockPerson struct {
	By     web.ID    `json:"by"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
}

type lockView struct {
	State   string          `json:"state" enum:"draft,active,locking,locked,unlock_requested,unlocking,archived"`
	Lock    web.ID          `json:"lock,omitzero" doc:"of the last locking"`
	Step    string          `json:"step,omitempty" doc:"while it is being locked"`
	Waiting string          `json:"waitingFor,omitempty"`
	Asked   *lockPerson     `json:"asked,omitempty"`
	Unlock  *lockPerson     `json:"unlockRequested,omitempty"`
	Agreed  *lockPerson     `json:"unlockAgreed,omitempty"`
	Report  json.RawMessage `json:"report,omitempty" doc:"what the study held when it was locked; the payload of the signature, byte for byte"`
	JWS     string          `json:"signature,omitempty" doc:"JWS in compact form over the report, for the key at /.well-known/jwks.json"`
}

type lockOutput struct {
	Status int
	Body   lockView
}

func lockViewOf(status string, c Closure) lockView {
	v := lockView{State: status, Lock: web.ID(c.ID)}
	if c.ID == 0 {
		return v
	}
	v.Asked = &lockPerson{web.ID(c.By), c.At, c.Reason}
	v.Report, v.JWS = c.Report, c.Signature
	if c.UnlockBy != 0 {
		v.Unlock = &lockPerson{web.ID(c.UnlockBy), c.UnlockAt, c.UnlockReason}
	}
	if c.ReleasedBy != 0 {
		v.Agreed = &lockPerson{web.ID(c.ReleasedBy), c.ReleasedAt, c.ReleasedReason}
	}
	switch {
	case c.State == ClosureLocking:
		v.Step, v.Waiting = c.Step, c.Waiting
	case c.State == ClosureUnlocking:
		v.State = ClosureUnlocking
	case c.State == ClosureLocked && c.UnlockBy != 0 && status == Locked:
		v.State = "unlock_requested"
	}
	return v
}

// Routes registers locking and unlocking.
func (s *LockService) Routes(api huma.API) {
	op := func(id, method, path, summary string, status int) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{"study lock"}, DefaultStatus: status}
	}
	web.Register(api, op("lock-study", http.MethodPost, "/api/v1/studies/{id}/lock", "Lock the study: nothing of it can change any more", http.StatusAccepted),
		func(ctx context.Context, in *lockInput) (*lockOutput, error) {
			c, err := s.Lock(ctx, int64(in.ID), in.Body.Password, in.Body.Reason)
			if err != nil {
				return nil, err
			}
			return &lockOutput{http.StatusAccepted, lockViewOf(Locking, c)}, nil
		})
	web.Register(api, op("read-study-lock", http.MethodGet, "/api/v1/studies/{id}/lock", "How far the lock is, and its signed report", http.StatusOK),
		func(ctx context.Context, in *studyID) (*lockOutput, error) {
			st, c, err := s.Closure(ctx, int64(in.ID))
			if err != nil {
				return nil, err
			}
			return &lockOutput{http.StatusOK, lockViewOf(st.Status, c)}, nil
		})
	web.Register(api, op("unlock-study", http.MethodPost, "/api/v1/studies/{id}/unlock", "Ask for an unlock, or agree to one that somebody else has asked for", http.StatusAccepted),
		func(ctx context.Context, in *lockInput) (*lockOutput, error) {
			st, c, err := s.Unlock(ctx, int64(in.ID), in.Body.Password, in.Body.Reason)
			if err != nil {
				return nil, err
			}
			status := http.StatusAccepted
			if st.Status == Active {
				status = http.StatusOK
			}
			return &lockOutput{status, lockViewOf(st.Status, c)}, nil
		})
}
