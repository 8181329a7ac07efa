package main

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/notify"
	"github.com/eprod/eprod/internal/safety"
)

type outgoing struct {
	sent map[notify.Channel]notify.Request
	fail map[notify.Channel]error
}

func (o *outgoing) Send(_ context.Context, r notify.Request) (notify.Status, error) {
	if err := o.fail[r.Channel]; err != nil {
		return notify.Status{}, err
	}
	o.sent[r.Channel] = r
	return notify.Status{}, nil
}

// TestStaffMessages: a person is told by every address; one that never works is made up for by the other, one that may work later is tried
// again, although the other has been told.
func TestStaffMessages(t *testing.T) {
	away, wrong := errs.Away("the shard", errors.New("x")), errs.New(errs.Unprocessable, "sms_not_configured", "no gateway")
	for name, c := range map[string]struct {
		sms, email error
		want       error
	}{
		"Both": {nil, nil, nil}, "OneNeverWorks": {wrong, nil, nil}, "OneLater": {nil, away, away}, "NoneEver": {wrong, wrong, wrong}, "LaterOutweighs": {wrong, away, away}, "EitherOrder": {away, wrong, away},
	} {
		t.Run(name, func(t *testing.T) {
			o := &outgoing{sent: make(map[notify.Channel]notify.Request), fail: map[notify.Channel]error{notify.SMS: c.sms, notify.Email: c.email}}
			told := safety.Told{Study: 3, Participant: 9, Purpose: "alert/1/0/0", To: safety.Contact{Phone: "+12025550101", Email: "day@example.org"}, Language: "en", Protocol: "EP-1", Number: "0042", Severity: "high"}
			err := staffMessages{o}.Tell(t.Context(), told)
			if !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Errorf("%v, want %v", err, c.want)
			}
			want := make(map[notify.Channel]notify.Request)
			for channel, to := range map[notify.Channel]string{notify.SMS: told.To.Phone, notify.Email: told.To.Email} {
				if o.fail[channel] == nil {
					want[channel] = notify.Request{Study: 3, Participant: 9, Purpose: "alert/1/0/0/" + string(channel), Channel: channel, To: to, Template: "alert", Language: "en",
						Params: map[string]string{"study": "EP-1", "number": "0042", "severity": "high"}}
				}
			}
			if diff := cmp.Diff(want, o.sent); diff != "" {
				t.Error(diff)
			}
		})
	}
}
