package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// delivery is one receipt on its way.
type delivery struct {
	due     time.Time
	message SandboxMessage
	status  string // Twilio's word
	tries   int
}

// A receiver that is not up yet is tried a few times.
const (
	deliveryTries = 5
	deliveryPause = time.Second
	partnerWait   = time.Second // how long a receipt waits for another one to swap with
)

// schedule queues the receipts of a message. The caller holds mu.
func (s *Sandbox) schedule(m SandboxMessage, how SandboxReceipts) {
	statuses := []string{""}
	if m.Provider == TwilioName {
		statuses = []string{"sent", "delivered"}
		if m.outcome == Failed {
			statuses = []string{"sent", "undelivered"}
		}
	}
	for i, status := range statuses {
		d := &delivery{due: m.due.Add(time.Duration(i) * time.Millisecond), message: m, status: status}
		if how.Duplicate {
			s.queue(&delivery{due: d.due.Add(5 * time.Millisecond), message: m, status: status})
		}
		s.queue(d)
		if !how.Reorder {
			continue
		}
		if earlier := s.late[m.Provider]; earlier != nil {
			earlier.due = d.due.Add(time.Millisecond)
			delete(s.late, m.Provider)
		} else {
			d.due = d.due.Add(partnerWait)
			s.late[m.Provider] = d
		}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Sandbox) queue(d *delivery) {
	if len(s.pending) >= maxPending {
		s.log.Warn("sandbox: too many receipts are waiting, one is dropped", "provider", d.message.Provider)
		return
	}
	s.pending = append(s.pending, d)
}

// Run sends receipts until ctx ends, and then lets go of calls that hang. It returns nil.
func (s *Sandbox) Run(ctx context.Context) error {
	defer s.end()
	for {
		d, wait := s.next()
		if d != nil {
			s.deliver(ctx, d)
			if ctx.Err() != nil {
				return nil
			}
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-s.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (s *Sandbox) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	close(s.changed)
	s.changed = make(chan struct{})
	s.client.CloseIdleConnections()
}

// next takes the receipt that is due first, or says how long nothing is.
func (s *Sandbox) next() (*delivery, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) == 0 {
		return nil, time.Hour
	}
	first := 0
	for i, d := range s.pending {
		if d.due.Before(s.pending[first].due) {
			first = i
		}
	}
	d := s.pending[first]
	if wait := d.due.Sub(s.now()); wait > 0 {
		return nil, wait
	}
	s.pending = slices.Delete(s.pending, first, first+1)
	if s.late[d.message.Provider] == d {
		delete(s.late, d.message.Provider)
	}
	return d, 0
}

// deliver sends one receipt; when it is not taken it goes back into the queue, a few times.
func (s *Sandbox) deliver(ctx context.Context, d *delivery) {
	r, err := s.receipt(ctx, d)
	if err == nil {
		err = s.post(r)
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	d.tries++
	s.log.Warn("sandbox: a receipt was not taken", "provider", d.message.Provider, "try", d.tries, "error", withoutURL(err))
	if d.tries < deliveryTries {
		s.mu.Lock()
		d.due = s.now().Add(deliveryPause)
		s.queue(d)
		s.mu.Unlock()
	}
}

func (s *Sandbox) post(r *http.Request) error {
	resp, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxRequest)) // so that the connection can be used again
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// receipt builds the callback as the vendor sends it.
func (s *Sandbox) receipt(ctx context.Context, d *delivery) (*http.Request, error) {
	m, at := d.message, chinaTime(d.message.due).Format(time.DateTime)
	good := m.outcome == Delivered
	var report any
	switch m.Provider {
	case TwilioName:
		return s.twilioReceipt(ctx, d)
	case AliyunName:
		report = map[string]any{"phone_number": aliyunNumber(m.To), "send_time": chinaTime(m.ReceivedAt).Format(time.DateTime), "report_time": at,
			"success": good, "err_code": pick(good, "DELIVERED", "MOBILE_NOT_ON_SERVICE"), "err_msg": "", "sms_size": "1",
			"biz_id": m.Reference, "out_id": m.OutID}
	case TencentName:
		report = map[string]any{"user_receive_time": at, "nationcode": "", "mobile": m.To, "report_status": pick(good, "SUCCESS", "FAIL"),
			"errmsg": pick(good, "DELIVRD", "UNDELIV"), "description": "", "sid": m.Reference}
	}
	body, err := json.Marshal([]any{report})
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, m.callback, strings.NewReader(string(body)))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	return r, nil
}

func (s *Sandbox) twilioReceipt(ctx context.Context, d *delivery) (*http.Request, error) {
	form := url.Values{"AccountSid": {s.config.Twilio.ID}, "ApiVersion": {"2010-04-01"}, "MessageSid": {d.message.Reference},
		"SmsSid": {d.message.Reference}, "MessageStatus": {d.status}, "SmsStatus": {d.status}, "To": {d.message.To}}
	if d.status == "undelivered" {
		form.Set("ErrorCode", "30003")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.message.callback, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("X-Twilio-Signature", twilioSignature(s.config.Twilio.Secret, d.message.callback, form))
	return r, nil
}

func pick(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}
