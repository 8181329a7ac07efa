// Package user decides who may sign in: staff with a user name and a password, participants with an activation code once
// and a PIN afterwards. It keeps their sessions, in which refresh tokens rotate.
//
// Whatever is wrong with a sign-in, the answer is the same and takes the same time, so that nobody can find out which
// accounts exist. An account that was tried too often refuses everything for a while that doubles from try to try.
// Passwords and PINs are hashed with argon2id, and only so many at once; codes and refresh tokens are random, so their
// SHA-256 is enough and costs nothing in a burst.
package user

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
)

// Staff is the account of a staff member.
type Staff struct {
	ID           int64
	Username     string
	PasswordHash string // PHC string of argon2id
	Role         auth.Role
	Disabled     bool
	OTPSecret    []byte // sealed TOTP secret; nil: no second factor
	OTPStep      int64  // the last TOTP time step that was used, which never works again
	Attempts     Attempts
	CreatedAt    time.Time
}

// Account is what a participant signs in with.
type Account struct {
	Participant int64
	Study       int64
	Activation  *[32]byte // hash of an activation code that was not used yet; nil: none
	ActivatedAt time.Time // zero: never
	PINHash     string    // PHC string of argon2id; empty: no PIN
	Closed      bool      // the participant has left; nothing works any more
	Attempts    Attempts
}

// Attempts counts failed sign-ins since the last good one.
type Attempts struct {
	Failed      int
	LockedUntil time.Time // zero: not locked
}

// Locked reports whether the account refuses every sign-in now.
func (a Attempts) Locked(now time.Time) bool { return now.Before(a.LockedUntil) }

// Fail returns the attempts after one more failure at now. The first free ones cost nothing; from then on each locks the
// account, at first for base and twice as long each time, up to limit.
func (a Attempts) Fail(now time.Time, free int, base, limit time.Duration) Attempts {
	a.Failed++
	if over := a.Failed - free; over > 0 {
		delay := limit
		if over <= 30 {
			delay = min(base<<(over-1), limit)
		}
		if delay <= 0 { // shifted out
			delay = limit
		}
		a.LockedUntil = now.Add(delay)
	}
	return a
}

const (
	minPassword = 8
	maxPassword = 256
	minPIN      = 4
	maxPIN      = 12
)

// usernameForm is applied to the lower-case form, which is the one that is kept.
var usernameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._@+-]{1,63}$`)

// normalUsername returns the form of a user name that is kept and looked up.
func normalUsername(name string) string { return strings.ToLower(strings.TrimSpace(name)) }

func usernameFindings(name string) []errs.Finding {
	if usernameForm.MatchString(name) {
		return nil
	}
	return []errs.Finding{{Pointer: "/username", Code: "invalid_username",
		Detail: "must be 2 to 64 letters a-z, digits or . _ @ + - and begin with a letter or digit"}}
}

func passwordFindings(password string) []errs.Finding {
	if n := utf8.RuneCountInString(password); n >= minPassword && len(password) <= maxPassword {
		return nil
	}
	return []errs.Finding{{Pointer: "/password", Code: "invalid_password",
		Detail: fmt.Sprintf("must have at least %d characters and at most %d bytes", minPassword, maxPassword)}}
}

func pinFindings(pin string) []errs.Finding {
	ok := len(pin) >= minPIN && len(pin) <= maxPIN
	for _, r := range pin {
		ok = ok && r >= '0' && r <= '9'
	}
	if ok {
		return nil
	}
	return []errs.Finding{{Pointer: "/pin", Code: "invalid_pin", Detail: fmt.Sprintf("must be %d to %d digits", minPIN, maxPIN)}}
}

// errSignIn is the one refusal of a sign-in by staff; it must not tell which part was wrong.
func errSignIn() *errs.Error {
	return errs.NoCredentials("user name or password is wrong, or there were too many attempts; wait some minutes then")
}

func errParticipant() *errs.Error {
	return errs.NoCredentials("study, number or PIN is wrong, or there were too many attempts; wait some minutes then")
}

func errCode() *errs.Error {
	return errs.NoCredentials("the activation code is not valid or was used already; ask your study team for a new one")
}

func errPINRequired() *errs.Error {
	return errs.InvalidField(errs.Finding{Pointer: "/pin", Code: "required", Detail: fmt.Sprintf("this study needs a PIN of %d to %d digits", minPIN, maxPIN)})
}

func errOTP() *errs.Error {
	return errs.New(errs.Unauthenticated, "otp_required", "this account needs a current one-time code as otp; each works once")
}

func errRefresh() *errs.Error {
	return errs.NoCredentials("the refresh token is not valid any more; sign in again")
}
