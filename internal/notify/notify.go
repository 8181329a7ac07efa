// Package notify decides how a message reaches a phone or a mailbox: what may stand in it, how each gateway is asked to send it, which
// failures mean that it was certainly not sent, and which reports about its delivery are believed.
//
// No gateway deduplicates. So a message is sent at most once per row: the row is written first, its id travels with the message, and
// after a failure that is not Unsent only a receipt or a query says what became of it.
package notify

import (
	"errors"
	"net/mail"
	"regexp"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/limit"
)

// The names of the senders, as in settings, receipts and callback addresses.
const (
	AliyunName  = "aliyun"
	TencentName = "tencent"
	TwilioName  = "twilio"
	SMTPName    = "smtp"
)

// Channel is a way to people. A sender serves exactly one.
type Channel string

// The channels.
const (
	SMS   Channel = "sms"
	Email Channel = "email"
)

// fits reports whether an address is one of the channel's.
func (c Channel) fits(address string) bool {
	switch c {
	case SMS:
		return e164.MatchString(address)
	case Email:
		return mailAddress(address)
	default:
		return false
	}
}

// Message is one message to one phone or mailbox.
type Message struct {
	ID       int64 // Snowflake of the send row; the gateway gets it as its out-id, so that receipts come back with it
	Channel  Channel
	To       string            // E.164, such as +8613800138000, or a mail address without a name
	Template string            // key of a Template
	Language string            // BCP 47; the nearest text that exists is taken
	Params   map[string]string // exactly what the template allows
}

// State is what is known of a message that a gateway may have got.
type State string

// The states. Delivered and Failed are final; Unknown means that the gateway knows nothing of the message, at least not yet.
const (
	Accepted  State = "accepted"
	Delivered State = "delivered"
	Failed    State = "failed"
	Unknown   State = "unknown"
)

// Final reports whether no later receipt changes the state.
func (s State) Final() bool { return s == Delivered || s == Failed }

// Receipt is what a gateway says of one message. Receipts may come twice, late and in any order: a final state stays.
type Receipt struct {
	ID        int64  // of the message; 0 where the gateway reports only its own reference
	Provider  string // name of the sender
	Reference string // the gateway's own name of the message, as Send returned it, at most 128 bytes; empty where only Query by id found it
	Code      string // the gateway's or operator's word for the outcome; never holds a number or text
	State     State
	At        time.Time // when it happened as the gateway says, else when it was read
}

// Unsent reports whether err, from Sender.Send, means that the message was certainly not sent, so that another sender may be asked or
// the same one later. It holds for a refusal by us or the gateway (errs.Invalid, Unprocessable, Forbidden, RateLimited), for a gateway
// that was never reached, and for an open breaker. Anything else, a nil error too, means that the message may be under way.
func Unsent(err error) bool {
	e, ok := errs.As(err)
	if !ok {
		return false
	}
	switch e.Kind {
	case errs.Invalid, errs.Unprocessable, errs.Forbidden, errs.RateLimited:
		return true
	case errs.Unavailable:
		return e.Code == SMS.code("unreachable") || e.Code == Email.code("unreachable") || errors.Is(err, limit.ErrOpen)
	default:
		return false
	}
}

// Undeliverable reports whether no sender will ever take the message, because it is wrong in itself: no address of its channel, an unknown
// template, a parameter that the template does not allow. It implies Unsent.
func Undeliverable(err error) bool { return errs.KindOf(err) == errs.Invalid }

// code is the stable word of the API for what happened on a channel.
func (c Channel) code(what string) string { return string(c) + "_" + what }

func errAddress(c Channel) *errs.Error {
	switch c {
	case SMS:
		return errs.New(errs.Invalid, "sms_number", "the number is not E.164: a plus sign and 7 to 15 digits, such as +8613800138000")
	case Email:
		return errs.New(errs.Invalid, "email_address", "the address must be one plain mail address of at most 254 ASCII characters, such as someone@example.org")
	default:
		return errs.New(errs.Invalid, "message_channel", "there is no channel "+printable(string(c))+": it must be sms or email")
	}
}

func errNoSender(c Channel) *errs.Error {
	what := map[Channel]string{SMS: "no gateway for text messages (channel sms)", Email: "no mail server (channel email)"}[c]
	return errs.New(errs.Unprocessable, c.code("not_configured"), what+" is set up: see notify in the settings")
}

func errTemplate(key string) *errs.Error {
	return errs.New(errs.Invalid, "sms_template", "there is no message template "+printable(key))
}

func errParameter(key, name, problem string) *errs.Error {
	return errs.New(errs.Invalid, "sms_parameter", "template "+printable(key)+", parameter "+printable(name)+": "+problem)
}

func errNumberRefused(gateway, code string) *errs.Error {
	return errs.New(errs.Unprocessable, "sms_number_refused", gateway+" does not send to this number ("+printable(code)+")")
}

func errTemplateRefused(gateway, code string) *errs.Error {
	return errs.New(errs.Unprocessable, "sms_template_refused", gateway+" does not accept the template or its parameters ("+printable(code)+")")
}

func errSenderRefused(gateway, code string) *errs.Error {
	return errs.New(errs.Forbidden, "sms_sender_refused", gateway+" refuses our account, key, signature or sender ("+printable(code)+")")
}

func errThrottled(gateway, code string) *errs.Error {
	return errs.New(errs.RateLimited, "sms_throttled", gateway+" takes no more messages now ("+printable(code)+")").WithRetryAfter(30 * time.Second)
}

func errUnreachable(gateway string, cause error) *errs.Error {
	return errs.New(errs.Unavailable, SMS.code("unreachable"), gateway+" cannot be reached; nothing was sent").WithCause(cause).WithRetryAfter(2 * time.Second)
}

func errOutcomeUnknown(gateway string, cause error) *errs.Error {
	return errs.New(errs.Unavailable, "sms_outcome_unknown", gateway+" gave no usable answer; the message may have been sent").WithCause(cause)
}

func errReceipt(detail string) *errs.Error { return errs.New(errs.Invalid, "sms_receipt", detail) }

func errReceiptUnsigned(gateway string) *errs.Error {
	return errs.New(errs.Unauthenticated, "sms_receipt_unsigned", "the receipt is not proven to come from "+gateway)
}

// e164 follows ITU-T E.164: at most 15 digits, the country code never starting with 0.
var e164 = regexp.MustCompile(`^\+[1-9][0-9]{6,14}$`)

// mailAddress takes the addr-spec of RFC 5322, section 3.4.1, in ASCII and without quotes, comments or a name, and no longer than
// RFC 5321 lets a path be.
func mailAddress(address string) bool {
	if len(address) > 254 || strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return false
	}
	parsed, err := mail.ParseAddress(address)
	return err == nil && parsed.Address == address // anything else is an address with more around it
}

// printable keeps what a gateway or caller called something fit for logs: its first 48 letters, digits and joining signs.
func printable(code string) string {
	kept := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("._-:", r):
			return r
		default:
			return -1
		}
	}, code)
	return kept[:min(len(kept), 48)]
}
