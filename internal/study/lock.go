package study

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/eprod/eprod/internal/errs"
)

// Locking is the status of a study between the wish to lock it and the lock: it takes nothing new, and what was accepted before still
// comes in.
const Locking = "locking"

// States of a Closure.
const (
	ClosureLocking   = "locking"
	ClosureLocked    = "locked"
	ClosureUnlocking = "unlocking" // two people have agreed; the shards are being opened
	ClosureReleased  = "released"
)

// The steps of a lock, in their order. Each may be begun again after a kill; the next one begins when it is done.
const (
	stepDoors     = "doors"     // no shard admits anything new; the processes' doors learn of it
	stepSpools    = "spools"    // what waits in the spools goes into the log
	stepBarrier   = "barrier"   // a mark goes through every partition: all before it is stored
	stepFollowers = "followers" // those who follow the events have seen all of it
	stepMessages  = "messages"  // nobody is reminded any more
	stepClose     = "close"     // no shard admits anything at all
	stepReport    = "report"    // counts and hashes, signed
)

// Closure is one locking of a study, from the wish to the unlock.
type Closure struct {
	ID, Study int64
	State     string
	Step      string
	Waiting   string    // what the step waits for, for people
	StepAt    time.Time // when the step began

	By       int64
	At       time.Time
	Reason   string
	LockedAt time.Time // zero until then

	Report    json.RawMessage // Report, exactly as it was signed
	Signature string          // JWS in compact form over Report

	UnlockBy     int64 // who asked for the unlock; 0: nobody
	UnlockAt     time.Time
	UnlockReason string

	ReleasedBy     int64 // the second person
	ReleasedAt     time.Time
	ReleasedReason string
}

// Report is what a locked study holds: what anybody can count again.
type Report struct {
	Study          string               `json:"study"`
	Protocol       string               `json:"protocol"`
	Lock           string               `json:"lock"` // the id of the locking
	LockedAt       time.Time            `json:"lockedAt"`
	Reason         string               `json:"reason"`
	Responses      int64                `json:"responses"`
	Quarantined    int64                `json:"quarantined"`
	Conflicts      int64                `json:"conflicts"`
	Questionnaires []QuestionnaireCount `json:"questionnaires"`
	Tasks          map[string]int64     `json:"tasks"` // by state: completed, completedLate, missed, open, excused, cancelled
	Quarantine     map[string]int64     `json:"quarantine"`
	Shards         []ShardReport        `json:"shards"`
}

// QuestionnaireCount counts the responses to one version by status.
type QuestionnaireCount struct {
	Questionnaire string           `json:"questionnaire"`
	Version       string           `json:"version"`
	Status        map[string]int64 `json:"status"`
}

// ShardReport is a study's data on one shard: the rows of each table, and a SHA-256 over all of them. Two shards with the same rows
// have the same hash, on whichever database.
type ShardReport struct {
	Name   string           `json:"name"`
	Rows   int64            `json:"rows"`
	Tables map[string]int64 `json:"tables"`
	SHA256 string           `json:"sha256"`
}

// LockConfig bounds the locking of studies.
type LockConfig struct {
	Interval  time.Duration `koanf:"interval"`  // how often studies that are being locked are looked at
	Settle    time.Duration `koanf:"settle"`    // how long the doors of all processes have to learn of it; more than twice catalog.ttl
	Followers time.Duration `koanf:"followers"` // how long consumers of events are waited for; what they find later is refused
	Lease     time.Duration `koanf:"lease"`     // how long a study stays with a process that has stopped working
	Page      int           `koanf:"page"`      // rows that are read at once for the hashes
}

// DefaultLockConfig returns settings for studies of some million responses.
func DefaultLockConfig() LockConfig {
	return LockConfig{Interval: time.Second, Settle: 5 * time.Second, Followers: 2 * time.Minute, Lease: 30 * time.Second, Page: 500}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c LockConfig) Validate() error {
	var problems []error
	for _, d := range []struct {
		key        string
		value, low time.Duration
	}{{"interval", c.Interval, 10 * time.Millisecond}, {"settle", c.Settle, 0}, {"followers", c.Followers, 0}, {"lease", c.Lease, time.Second}} {
		if d.value < d.low {
			problems = append(problems, fmt.Errorf("%s: %v: must be %v or more", d.key, d.value, d.low))
		}
	}
	if c.Page < 1 || c.Page > 10_000 {
		problems = append(problems, fmt.Errorf("page: %d: must be from 1 to 10000", c.Page))
	}
	return errors.Join(problems...)
}

const maxReason = 1000 // characters; the column has room for them

func reasonFinding(reason string) []errs.Finding {
	if n := utf8.RuneCountInString(reason); strings.TrimSpace(reason) == "" || n > maxReason {
		return []errs.Finding{{Pointer: "/reason", Code: "invalid_length", Detail: fmt.Sprintf("must say why, in 1 to %d characters", maxReason)}}
	}
	return nil
}

func errNotActive(status string) *errs.Error {
	if status == Draft {
		return errs.New(errs.Conflict, "study_not_active", "only an active study can be locked; this one is a draft")
	}
	return errs.New(errs.Conflict, "study_locked", "the study is "+status+" already")
}

func errNotLocked(status string) *errs.Error {
	return errs.New(errs.Conflict, "study_not_locked", "only a locked study can be unlocked; this one is "+status)
}

func errSecondPerson() *errs.Error {
	return errs.New(errs.Conflict, "second_person_needed", "you have asked for this unlock yourself; somebody else must agree")
}
