package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync/atomic"
	"time"
)

// Sender is one gateway. Its methods may be called concurrently, end soon after their context does, and return errors without numbers,
// texts, keys or addresses.
type Sender interface {
	// Name is the same as in settings and callback addresses.
	Name() string

	// Channel is what it serves; it gets messages of no other.
	Channel() Channel

	// Send asks the gateway once, never again by itself, and returns the gateway's reference.
	//
	// Certainly not sent (Unsent is true): errs.Invalid for a message that Templates.Check refuses; Unprocessable where the gateway refuses
	// the number, template or parameters; Forbidden where it refuses our account, key or sender; RateLimited where it throttles; and
	// Unavailable with the code sms_unreachable or email_unreachable where no connection came about, or it broke before the message was
	// handed over.
	//
	// Unknown (Unsent is false): Unavailable with the code sms_outcome_unknown or email_outcome_unknown after a time-out, a broken
	// connection, a 5xx of HTTP or an answer that makes no sense. The message may have been sent: settle it by Receipts or Query, never by
	// sending again.
	Send(ctx context.Context, m Message) (reference string, err error)
}

// Reporter is a Sender whose gateway tells afterwards what became of a message. Of any other sender, what it accepted stays accepted, and
// what is unknown stays unknown: nobody can be asked.
type Reporter interface {
	Sender

	// Query asks what became of m, sent at about sentAt. Reference may be empty where Send did not return one; the gateway is then asked for
	// the message's id, or Twilio for the number, text and minute. Unknown and no error: the gateway has no such message, or not yet.
	// Errors as from Send; they say nothing of the message.
	Query(ctx context.Context, m Message, reference string, sentAt time.Time) (Receipt, error)

	// Receipts verifies a delivery callback and reads it. R gives headers and address; body is what it carried, at most 1 MiB. Refused: a
	// callback that the gateway did not sign or whose address lacks our token (errs.Unauthenticated), and one that cannot be read
	// (errs.Invalid). It never blocks. Acknowledgement says what to answer.
	Receipts(r *http.Request, body []byte) ([]Receipt, error)
}

// Parts are what a sender needs. All are required.
type Parts struct {
	Client    *http.Client // its transport is shared; redirects are never followed and every call is bounded by its context
	Now       func() time.Time
	Random    io.Reader // safe for concurrent use
	Templates *Templates
}

// Acknowledgement returns what the named gateway wants to read after a callback that was taken, with status 200. After any other status
// it repeats the callback.
func Acknowledgement(provider string) (contentType string, body []byte) {
	switch provider {
	case AliyunName: // "SmsReport": only the presence of a numeric code is checked
		return "application/json", []byte(`{"code":0,"msg":"OK"}`)
	case TencentName: // "SMS Sending Status Notification"
		return "application/json", []byte(`{"result":0,"errmsg":"OK"}`)
	default: // Twilio reads TwiML; an empty response asks for nothing
		return "text/xml", []byte(`<Response/>`)
	}
}

// Bounds on what is read from outside.
const (
	maxAnswer   = 1 << 20
	maxCallback = 1 << 20
	maxReceipts = 1000 // of one callback
)

// fitsReference keeps a gateway's own name of a message within what the send row has room for.
func fitsReference(reference string) bool { return reference != "" && len(reference) <= 128 }

// gateway makes one HTTP call and says whether it can have had an effect.
type gateway struct {
	name   string
	client *http.Client
}

func newGateway(name string, client *http.Client) gateway {
	own := *client
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // 307 and 308 would send twice
	return gateway{name: name, client: &own}
}

// call returns status and body. Its errors are errUnreachable while no connection stood, afterwards errOutcomeUnknown: what was written
// may have arrived.
func (g gateway) call(r *http.Request) (int, []byte, error) {
	var connected atomic.Bool
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }}
	resp, err := g.client.Do(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	if err != nil {
		err = withoutURL(err)
		if !connected.Load() {
			return 0, nil, errUnreachable(g.name, err)
		}
		return 0, nil, errOutcomeUnknown(g.name, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return 0, nil, errOutcomeUnknown(g.name, withoutURL(err))
	case len(body) > maxAnswer:
		return 0, nil, errOutcomeUnknown(g.name, fmt.Errorf("status %d with more than %d bytes", resp.StatusCode, maxAnswer))
	case resp.StatusCode >= 500 || resp.StatusCode >= 300 && resp.StatusCode < 400:
		return 0, nil, errOutcomeUnknown(g.name, fmt.Errorf("status %d", resp.StatusCode))
	}
	return resp.StatusCode, body, nil
}

// garbage is the error for an answer that cannot be read. The answer itself stays out of it: it may repeat the number.
func (g gateway) garbage(status int) error {
	return errOutcomeUnknown(g.name, fmt.Errorf("status %d with an answer of the wrong form", status))
}

// withoutURL drops the address that net/http puts into its errors: it holds the number, and at some gateways the signature.
func withoutURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

func sha256Hex(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func hmacSHA256(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// tokenMatches compares the token of a callback's address in constant time. No token set: nothing matches.
func tokenMatches(r *http.Request, token string) bool {
	got := sha256.Sum256([]byte(r.URL.Query().Get("token")))
	want := sha256.Sum256([]byte(token))
	return token != "" && subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

// decodeReports reads a JSON array of bounded length.
func decodeReports[T any](body []byte, out *[]T) error {
	if len(body) > maxCallback {
		return errReceipt("more than 1 MiB")
	}
	if json.Unmarshal(body, out) != nil {
		return errReceipt("must be a JSON array of reports")
	}
	if len(*out) > maxReceipts {
		return errReceipt("more than 1000 reports")
	}
	return nil
}

// chinaTime is what both Chinese gateways mean by a time without a zone: UTC+8, without summer time.
func chinaTime(t time.Time) time.Time { return t.In(time.FixedZone("CST", 8*60*60)) }

// chinaDate reads "2006-01-02 15:04:05"; what it cannot read counts as now.
func chinaDate(text string, now time.Time) time.Time {
	t, err := time.ParseInLocation(time.DateTime, text, chinaTime(now).Location())
	if err != nil {
		return now
	}
	return t
}
