package notify

import (
	"errors"
	"net"
	"net/mail"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// How the way to the mail server is protected.
const (
	SecurityStartTLS = "starttls" // the server must offer it (RFC 3207), or nothing is sent
	SecurityTLS      = "tls"      // from the first byte (RFC 8314)
	SecurityNone     = "none"     // only to a server on this machine
)

// SMTPConfig holds the settings of the mail server that takes our mail. Start from DefaultSMTPConfig.
type SMTPConfig struct {
	Enabled     bool   `koanf:"enabled"`
	Host        string `koanf:"host"`     // name, as its certificate has it
	Port        int    `koanf:"port"`     // 587 for starttls, 465 for tls
	Security    string `koanf:"security"` // starttls, tls or none
	Username    string `koanf:"username"` // empty: the server knows us otherwise, and is not logged in to
	From        string `koanf:"from"`     // address of the sender, with a name before it in <> where wanted
	Helo        string `koanf:"helo"`     // name that we say we are; empty: the domain of from
	Credentials Credentials
}

// DefaultSMTPConfig returns what is the same for most servers: message submission of RFC 6409.
func DefaultSMTPConfig() SMTPConfig { return SMTPConfig{Port: 587, Security: SecurityStartTLS} }

// hostName takes a DNS name or, for a helo, an address literal of RFC 5321, section 4.1.3.
var hostName = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[A-Za-z0-9:.]{3,50}\])$`)

// Validate returns every problem of an enabled sender at once, each as "key: value: what would be right". Secrets are named, never shown.
func (c SMTPConfig) Validate() error {
	if !c.Enabled {
		return nil
	}
	var p problems
	if net.ParseIP(c.Host) == nil && !hostName.MatchString(c.Host) {
		p.add("host: %q: must be the name of the mail server, such as smtp.example.org", c.Host)
	}
	if c.Port < 1 || c.Port > 65535 {
		p.add("port: %d: must be between 1 and 65535, usually 587", c.Port)
	}
	if all := []string{SecurityStartTLS, SecurityTLS, SecurityNone}; !slices.Contains(all, c.Security) {
		p.add("security: %q: must be one of %v", c.Security, all)
	}
	if c.Security == SecurityNone && !thisMachine(c.Host) {
		p.add("security: none: must be starttls or tls: addresses would cross the network in the clear; none is for a server on this machine")
	}
	if (c.Username == "") != (c.Credentials.Secret == "") {
		p.add("password: must be set where username is, and only there")
	}
	from, err := mail.ParseAddress(c.From)
	if err != nil || !mailAddress(from.Address) || strings.ContainsFunc(c.From, unicode.IsControl) {
		p.add("from: %q: must be a mail address, such as no-reply@example.org or Study team <no-reply@example.org>", c.From)
	}
	if c.Helo != "" && !hostName.MatchString(c.Helo) {
		p.add("helo: %q: must be a host name, such as epro.example.org", c.Helo)
	}
	return errors.Join(p...)
}

func thisMachine(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
