package user

import (
	"errors"
	"fmt"
	"time"

	"github.com/eprod/eprod/internal/auth"
)

// Config holds the settings of sign-in. Start from DefaultConfig.
type Config struct {
	AccessTTL          time.Duration `koanf:"accessTtl"`          // life of an access token, at most 10m: as long a signed-out caller still gets in
	StaffSession       time.Duration `koanf:"staffSession"`       // from a staff sign-in to the next, however busy
	ParticipantSession time.Duration `koanf:"participantSession"` // from a participant's last refresh to the next sign-in
	HashMemory         int           `koanf:"hashMemory"`         // KiB per argon2id hash
	HashPasses         int           `koanf:"hashPasses"`         // passes over that memory
	HashParallel       int           `koanf:"hashParallel"`       // hashes computed at once in this process
	HashWaiting        int           `koanf:"hashWaiting"`        // sign-ins that wait for a hash; more are told to come back
	HashWait           time.Duration `koanf:"hashWait"`           // how long one waits
	FreeAttempts       int           `koanf:"freeAttempts"`       // failed sign-ins in a row before an account is locked
	LockBase           time.Duration `koanf:"lockBase"`           // first lock; it doubles with each further failure
	LockLimit          time.Duration `koanf:"lockLimit"`          // longest lock
}

// DefaultConfig returns settings for production on few cores.
func DefaultConfig() Config {
	return Config{
		AccessTTL:          auth.MaxTTL,
		StaffSession:       12 * time.Hour,
		ParticipantSession: 180 * 24 * time.Hour,
		HashMemory:         19 * 1024, // the OWASP password storage recommendation
		HashPasses:         2,
		HashParallel:       2,
		HashWaiting:        16,
		HashWait:           time.Second,
		FreeAttempts:       4,
		LockBase:           5 * time.Second,
		LockLimit:          15 * time.Minute,
	}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c Config) Validate() error {
	var problems []error
	bad := func(key string, value any, want string) {
		problems = append(problems, fmt.Errorf("%s: %v: %s", key, value, want))
	}
	within := func(key string, value, low, high time.Duration) {
		if value < low || value > high {
			bad(key, value, fmt.Sprintf("must be between %s and %s", low, high))
		}
	}
	between := func(key string, value, low, high int) {
		if value < low || value > high {
			bad(key, value, fmt.Sprintf("must be between %d and %d", low, high))
		}
	}
	within("accessTtl", c.AccessTTL, time.Second, auth.MaxTTL)
	within("staffSession", c.StaffSession, c.AccessTTL, 7*24*time.Hour)
	within("participantSession", c.ParticipantSession, c.AccessTTL, 2*365*24*time.Hour)
	between("hashMemory", c.HashMemory, 8*1024, 1024*1024)
	between("hashPasses", c.HashPasses, 1, 16)
	between("hashParallel", c.HashParallel, 1, 256)
	between("hashWaiting", c.HashWaiting, 0, 4096)
	within("hashWait", c.HashWait, 0, 5*time.Second)
	between("freeAttempts", c.FreeAttempts, 1, 100)
	within("lockBase", c.LockBase, time.Second, time.Hour)
	within("lockLimit", c.LockLimit, c.LockBase, 24*time.Hour)
	return errors.Join(problems...)
}
