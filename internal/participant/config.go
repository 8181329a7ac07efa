package participant

import (
	"errors"
	"fmt"
	"net/url"
	"time"
)

// Config holds the settings of participants. Start from DefaultConfig.
type Config struct {
	PublicURL     string        `koanf:"publicUrl"`     // where participants reach the server; activation links begin with it
	ImportLines   int           `koanf:"importLines"`   // most lines of one import
	ImportBytes   int64         `koanf:"importBytes"`   // largest body of an import
	ImportLine    int           `koanf:"importLine"`    // longest line of an import, in bytes
	ImportBatch   int           `koanf:"importBatch"`   // lines written together
	ImportTimeout time.Duration `koanf:"importTimeout"` // for a whole import; what is not done then is restarted by number
	Imports       int           `koanf:"imports"`       // imports running at once in this process
	Profiles      ProfileConfig `koanf:"profiles"`
}

// DefaultConfig returns settings for a server on this machine.
func DefaultConfig() Config {
	return Config{
		PublicURL:     "http://localhost:8080",
		ImportLines:   20_000,
		ImportBytes:   16 << 20,
		ImportLine:    8 << 10,
		ImportBatch:   500,
		ImportTimeout: 5 * time.Minute,
		Imports:       2,
		Profiles:      ProfileConfig{Size: 100_000, TTL: time.Minute, LoadTimeout: 2 * time.Second},
	}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c Config) Validate() error {
	var problems []error
	bad := func(key string, value any, want string) {
		problems = append(problems, fmt.Errorf("%s: %v: %s", key, value, want))
	}
	between := func(key string, value, low, high int64) {
		if value < low || value > high {
			bad(key, value, fmt.Sprintf("must be between %d and %d", low, high))
		}
	}
	if u, err := url.Parse(c.PublicURL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		bad("publicUrl", c.PublicURL, "must be an http or https address without query, such as https://epro.example.org")
	}
	between("importLines", int64(c.ImportLines), 1, 1_000_000)
	between("importBytes", c.ImportBytes, 1<<10, 256<<20)
	between("importLine", int64(c.ImportLine), 256, 1<<20)
	between("importBatch", int64(c.ImportBatch), 1, 500)
	between("imports", int64(c.Imports), 1, 64)
	between("profiles.size", int64(c.Profiles.Size), 1, 10_000_000)
	for key, d := range map[string]time.Duration{"importTimeout": c.ImportTimeout, "profiles.ttl": c.Profiles.TTL, "profiles.loadTimeout": c.Profiles.LoadTimeout} {
		if d <= 0 || d > time.Hour {
			bad(key, d, "must be above zero and at most 1h")
		}
	}
	return errors.Join(problems...)
}
