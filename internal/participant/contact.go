package participant

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/mail"
	"slices"
	"strings"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/keyring"
)

// The channels that a participant can consent to being reached by.
const (
	ChannelSMS   = "sms"
	ChannelEmail = "email"
)

// channels lists them in the order of findings and statements.
var channels = [...]string{ChannelEmail, ChannelSMS}

// Contact is how a participant can be reached, and by what it has agreed to be. Treat it as immutable.
type Contact struct {
	Phone    string          // E.164, such as +8613800138000; empty: not known
	Email    string          // bare address, RFC 5322, 3.4.1; empty: not known
	Consents map[string]bool // by channel; what is absent was not given
	Version  int64           // 0: nothing was ever stated
}

const maxEmail = 254 // RFC 5321, 4.5.3.1.3: a path has 256 octets, of which two are the angle brackets

// findings holds contact data against their forms.
func (c *Contact) findings() []errs.Finding {
	var findings []errs.Finding
	if c.Phone != "" && !phoneNumber(c.Phone) {
		findings = append(findings, errs.Finding{Pointer: "/phone", Code: "invalid_phone",
			Detail: "must be a number in the form of E.164: +, country code and number, digits only, such as +8613800138000"})
	}
	if c.Email != "" && !mailAddress(c.Email) {
		findings = append(findings, errs.Finding{Pointer: "/email", Code: "invalid_email",
			Detail: fmt.Sprintf("must be an address such as name@example.org of at most %d bytes, without a name or brackets around it", maxEmail)})
	}
	return append(findings, consentFindings(c.Consents)...)
}

func consentFindings(consents map[string]bool) []errs.Finding {
	var findings []errs.Finding
	for _, channel := range slices.Sorted(maps.Keys(consents)) {
		if !slices.Contains(channels[:], channel) {
			findings = append(findings, errs.Finding{Pointer: "/consents/" + channel, Code: "unknown_channel",
				Detail: "must be " + strings.Join(channels[:], " or ")})
		}
	}
	return findings
}

// phoneNumber follows ITU-T E.164: at most 15 digits, of which the first, of the country code, is never 0.
func phoneNumber(text string) bool {
	digits, ok := strings.CutPrefix(text, "+")
	return ok && len(digits) >= 7 && len(digits) <= 15 && digits[0] != '0' && strings.Trim(digits, "0123456789") == ""
}

// mailAddress takes an addr-spec in ASCII; what mail servers need an extension for would not arrive everywhere.
func mailAddress(text string) bool {
	if len(text) > maxEmail || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return false
	}
	parsed, err := mail.ParseAddress(text)
	return err == nil && parsed.Address == text
}

// agreed returns the consents with every channel in its place.
func agreed(consents map[string]bool) map[string]bool {
	out := make(map[string]bool, len(channels))
	for _, channel := range channels {
		out[channel] = consents[channel]
	}
	return out
}

// anyConsent reports whether a channel is consented to.
func anyConsent(consents map[string]bool) bool {
	return slices.Contains(slices.Collect(maps.Values(consents)), true)
}

// stated reports whether there is anything to keep.
func (c *Contact) stated() bool {
	return c.Phone != "" || c.Email != "" || len(c.Consents) > 0
}

// members names what of the contact data is there.
func (c *Contact) members() []string {
	var out []string
	if c.Email != "" {
		out = append(out, "email")
	}
	if c.Phone != "" {
		out = append(out, "phone")
	}
	return out
}

// contactAudit is one side of a change as the audit trail keeps it: what changed, never a number or an address.
type contactAudit struct {
	Version  int64           `json:"version,omitempty,string"`
	Changed  []string        `json:"changed,omitempty"` // only on the new side
	Consents map[string]bool `json:"consents,omitempty"`
}

// contactChange returns both sides of a change for the audit trail.
func contactChange(was, is *Contact) (before, after []byte, err error) {
	a, b := contactAudit{Version: was.Version, Consents: make(map[string]bool)}, contactAudit{Version: is.Version, Consents: make(map[string]bool)}
	if was.Email != is.Email {
		b.Changed = append(b.Changed, "email")
	}
	if was.Phone != is.Phone {
		b.Changed = append(b.Changed, "phone")
	}
	for _, channel := range channels {
		if was.Consents[channel] != is.Consents[channel] {
			a.Consents[channel], b.Consents[channel] = was.Consents[channel], is.Consents[channel]
		}
	}
	if before, err = json.Marshal(a); err == nil {
		after, err = json.Marshal(b)
	}
	return before, after, err
}

// SealedContact is contact data as it is kept.
type SealedContact struct {
	Participant int64
	Sealed      []byte          // phone and e-mail, encrypted; empty where neither is known
	Consents    map[string]bool // every channel
	Version     int64
}

// sealedContact is what is encrypted.
type sealedContact struct {
	Phone string `json:"phone,omitempty"`
	Email string `json:"email,omitempty"`
}

// contactPlace binds sealed contact data to its participant. The version is no part of it: a change of consents leaves what is
// sealed as it is.
func contactPlace(participant int64) []byte {
	return fmt.Appendf(nil, "eprod/contact/1/%d", participant)
}

func (c *Contact) seal(participant int64, key *keyring.DataKey) (SealedContact, error) {
	out := SealedContact{Participant: participant, Sealed: []byte{}, Consents: agreed(c.Consents), Version: c.Version}
	if c.Phone == "" && c.Email == "" {
		return out, nil
	}
	plain, err := json.Marshal(sealedContact{c.Phone, c.Email})
	if err == nil {
		out.Sealed, err = key.Seal(plain, contactPlace(participant))
	}
	if err != nil {
		return out, fmt.Errorf("contact of participant %d: %w", participant, err)
	}
	return out, nil
}

func (s *SealedContact) open(key *keyring.DataKey) (Contact, error) {
	out := Contact{Consents: agreed(s.Consents), Version: s.Version}
	if len(s.Sealed) == 0 {
		return out, nil
	}
	plain, err := key.Open(s.Sealed, contactPlace(s.Participant))
	var clear sealedContact
	if err == nil {
		err = json.Unmarshal(plain, &clear)
	}
	if err != nil {
		return Contact{}, fmt.Errorf("contact of participant %d: %w", s.Participant, err)
	}
	out.Phone, out.Email = clear.Phone, clear.Email
	return out, nil
}

func errContactStale() *errs.Error {
	return errs.New(errs.Stale, "stale", "the contact data were changed by somebody else; read them again")
}

func errLeft() *errs.Error {
	return errs.New(errs.Conflict, "participant_withdrawn", "the participant has left the study")
}
