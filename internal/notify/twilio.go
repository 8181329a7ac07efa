package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha1" // Twilio's choice for callbacks; HMAC-SHA-1 is not broken
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Twilio sends through the Messages resource of Twilio's REST API 2010-04-01. Safe for concurrent use.
type Twilio struct {
	Parts
	config  TwilioConfig
	gateway gateway
}

var _ Reporter = (*Twilio)(nil)

// NewTwilio returns the sender. The config must be valid.
func NewTwilio(config TwilioConfig, parts Parts) *Twilio {
	return &Twilio{Parts: parts, config: config, gateway: newGateway(TwilioName, parts.Client)}
}

// Name returns TwilioName.
func (*Twilio) Name() string { return TwilioName }

// Channel returns SMS.
func (*Twilio) Channel() Channel { return SMS }

// twilioMessage is a Message resource, or a refusal: then Code is a number and SID is empty.
type twilioMessage struct {
	SID         string `json:"sid"`
	Status      any    `json:"status"` // a word in a message, the HTTP status in a refusal
	Body        string `json:"body"`
	Direction   string `json:"direction"`
	DateCreated string `json:"date_created"`
	DateUpdated string `json:"date_updated"`
	ErrorCode   *int   `json:"error_code"`
	Code        int    `json:"code"`
}

// Send creates a Message resource. The reference is its SID. The message's id travels in the address of the status callback, which Twilio
// signs. See Sender.
func (t *Twilio) Send(ctx context.Context, m Message) (string, error) {
	template, err := t.Templates.find(m)
	if err != nil {
		return "", err
	}
	form := url.Values{"To": {m.To}, "StatusCallback": {t.config.Callback + "?id=" + strconv.FormatInt(m.ID, 10)}}
	if strings.HasPrefix(t.config.From, "MG") {
		form.Set("MessagingServiceSid", t.config.From)
	} else {
		form.Set("From", t.config.From)
	}
	if code := codeOf(t.config.Templates, m); code != "" {
		variables := make(map[string]string, len(template.Params))
		for i, value := range template.values(m) {
			variables[strconv.Itoa(i+1)] = value
		}
		filled, err := json.Marshal(variables)
		if err != nil {
			return "", errTemplateRefused(TwilioName, "json")
		}
		form.Set("ContentSid", code)
		form.Set("ContentVariables", string(filled))
	} else {
		text, err := t.Templates.Render(m)
		if err != nil {
			return "", err
		}
		form.Set("Body", text)
	}
	var answer twilioMessage
	if err := t.call(ctx, http.MethodPost, "Messages.json", strings.NewReader(form.Encode()), &answer); err != nil {
		return "", err
	}
	if !messageSID.MatchString(answer.SID) {
		return "", t.gateway.garbage(http.StatusCreated)
	}
	return answer.SID, nil
}

// Query fetches the Message resource. Without a reference it looks among the newest 50 messages to the number for exactly one that we
// created in the minutes around sentAt with the same text; two of them leave it unknown. See Sender.
func (t *Twilio) Query(ctx context.Context, m Message, reference string, sentAt time.Time) (Receipt, error) {
	receipt := Receipt{ID: m.ID, Provider: TwilioName, Reference: reference, State: Unknown, At: t.Now()}
	if reference != "" {
		var found twilioMessage
		err := t.call(ctx, http.MethodGet, "Messages/"+url.PathEscape(reference)+".json", nil, &found)
		switch {
		case errors.Is(err, errTwilioAbsent):
			return receipt, nil
		case err != nil:
			return Receipt{}, err
		case found.SID != reference:
			return Receipt{}, t.gateway.garbage(http.StatusOK)
		}
		return t.receiptOf(receipt, found), nil
	}
	text, err := t.Templates.Render(m)
	if err != nil {
		return Receipt{}, err
	}
	var answer struct {
		Messages []twilioMessage `json:"messages"`
	}
	query := url.Values{"To": {m.To}, "PageSize": {"50"}}
	if err := t.call(ctx, http.MethodGet, "Messages.json?"+query.Encode(), nil, &answer); err != nil {
		return Receipt{}, err
	}
	var same []twilioMessage
	for _, found := range answer.Messages {
		created, err := time.Parse(time.RFC1123Z, found.DateCreated)
		if err == nil && messageSID.MatchString(found.SID) && found.Body == text && strings.HasPrefix(found.Direction, "outbound") &&
			created.After(sentAt.Add(-time.Minute)) && created.Before(sentAt.Add(5*time.Minute)) {
			same = append(same, found)
		}
	}
	if len(same) != 1 {
		return receipt, nil
	}
	return t.receiptOf(receipt, same[0]), nil
}

func (t *Twilio) receiptOf(receipt Receipt, found twilioMessage) Receipt {
	status, _ := found.Status.(string)
	receipt.Reference, receipt.State, receipt.Code = found.SID, twilioState(status), printable(status)
	if found.ErrorCode != nil {
		receipt.Code = strconv.Itoa(*found.ErrorCode)
	}
	if updated, err := time.Parse(time.RFC1123Z, found.DateUpdated); err == nil {
		receipt.At = updated
	}
	return receipt
}

// Receipts reads a status callback, form-encoded and signed in X-Twilio-Signature over the configured callback address with the query of
// this request: behind a proxy the address seen here is not the one that Twilio called. See Sender.
func (t *Twilio) Receipts(r *http.Request, body []byte) ([]Receipt, error) {
	if len(body) > maxCallback {
		return nil, errReceipt("more than 1 MiB")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, errReceipt("must be form-encoded")
	}
	address := t.config.Callback
	if r.URL.RawQuery != "" {
		address += "?" + r.URL.RawQuery
	}
	want := twilioSignature(t.config.Credentials.Secret, address, form)
	if t.config.Credentials.Secret == "" || !hmac.Equal([]byte(want), []byte(r.Header.Get("X-Twilio-Signature"))) ||
		form.Get("AccountSid") != t.config.AccountSID {
		return nil, errReceiptUnsigned(TwilioName)
	}
	status := form.Get("MessageStatus")
	if status == "" || !messageSID.MatchString(form.Get("MessageSid")) {
		return nil, errReceipt("must have MessageStatus and a MessageSid of SM or MM and 32 hexadecimal digits")
	}
	id, _ := strconv.ParseInt(r.URL.Query().Get("id"), 10, 64) // 0 where it was not sent by us
	receipt := Receipt{ID: id, Provider: TwilioName, Reference: form.Get("MessageSid"), Code: printable(status),
		State: twilioState(status), At: t.Now()}
	if code := form.Get("ErrorCode"); code != "" && code != "0" {
		receipt.Code = printable(code)
	}
	return []Receipt{receipt}, nil
}

// twilioState follows "Outbound Message Status in Status Callbacks".
func twilioState(status string) State {
	switch status {
	case "accepted", "scheduled", "queued", "sending", "sent":
		return Accepted
	case "delivered", "read":
		return Delivered
	case "undelivered", "failed", "canceled":
		return Failed
	default:
		return Unknown
	}
}

// call makes one authenticated request below the account and reads its answer into out.
func (t *Twilio) call(ctx context.Context, method, path string, body io.Reader, out any) error {
	address := strings.TrimSuffix(t.config.Endpoint, "/") + "/2010-04-01/Accounts/" + url.PathEscape(t.config.AccountSID) + "/" + path
	r, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return errSenderRefused(TwilioName, "endpoint")
	}
	r.SetBasicAuth(t.config.AccountSID, t.config.Credentials.Secret)
	if body != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	status, answer, err := t.gateway.call(r)
	if err != nil {
		return err
	}
	if status >= 400 {
		var refused twilioMessage
		if json.Unmarshal(answer, &refused) != nil || refused.Code == 0 {
			return t.gateway.garbage(status)
		}
		return twilioRefusal(status, refused.Code)
	}
	if json.Unmarshal(answer, out) != nil {
		return t.gateway.garbage(status)
	}
	return nil
}

// errTwilioAbsent is the cause where an account or a message does not exist.
var errTwilioAbsent = errors.New("no such resource")

// twilioRefusal sorts the codes of the "Error and Warning Dictionary". A status below 500 means that no message was made.
func twilioRefusal(status, code int) error {
	word := strconv.Itoa(code)
	if status == http.StatusTooManyRequests {
		return errThrottled(TwilioName, word)
	}
	switch code {
	case 20429, 21611, 63038: // too many requests, queue of the sender full, daily limit
		return errThrottled(TwilioName, word)
	case 21211, 21214, 21217, 21265, 21604, 21608, 21610, 21612, 21614: // no or no mobile number, unverified, unsubscribed, not routable
		return errNumberRefused(TwilioName, word)
	case 21602, 21617, 21619, 21655, 21656: // text missing or too long, content template unknown or wrongly filled
		return errTemplateRefused(TwilioName, word)
	case 20404:
		return errSenderRefused(TwilioName, word).WithCause(errTwilioAbsent)
	case 20500, 20503, 20504: // internal error, unavailable, time-out
		return errOutcomeUnknown(TwilioName, fmt.Errorf("code %d", code))
	}
	return errSenderRefused(TwilioName, word)
}

// twilioSignature signs a callback: the address as called, then every parameter by name, its values sorted and each only once.
func twilioSignature(token, address string, form url.Values) string {
	mac := hmac.New(sha1.New, []byte(token))
	mac.Write([]byte(address))
	for _, name := range slices.Sorted(maps.Keys(form)) {
		for _, value := range slices.Compact(slices.Sorted(slices.Values(form[name]))) {
			mac.Write([]byte(name + value))
		}
	}
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
