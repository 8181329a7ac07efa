package participant

import (
	"errors"
	"fmt"
	"time"
)

// Config holds the settings of imports. Start from DefaultConfig.
type Config struct {
	ImportLines   int           `koanf:"importLines"`   // most lines of one import
	ImportBytes   int64         `koanf:"importBytes"`   // largest body of an import
	ImportLine    int           `koanf:"importLine"`    // longest line of an import, in bytes
	ImportBatch   int           `koanf:"importBatch"`   // lines written together
	ImportTimeout time.Duration `koanf:"importTimeout"` // for a whole import; what is not done then is restarted by number
	Imports       int           `koanf:"imports"`       // imports running at once in this process
}

// DefaultConfig returns settings for a small production server.
func DefaultConfig() Config {
	return Config{
		ImportLines:   20_000,
		ImportBytes:   16 << 20,
		ImportLine:    8 << 10,
		ImportBatch:   500,
		ImportTimeout: 5 * time.Minute,
		Imports:       2,
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
	between("importLines", int64(c.ImportLines), 1, 1_000_000)
	between("importBytes", c.ImportBytes, 1<<10, 256<<20)
	between("importLine", int64(c.ImportLine), 256, 1<<20)
	between("importBatch", int64(c.ImportBatch), 1, 500)
	between("imports", int64(c.Imports), 1, 64)
	if c.ImportTimeout <= 0 || c.ImportTimeout > time.Hour {
		bad("importTimeout", c.ImportTimeout, "must be above zero and at most 1h")
	}
	return errors.Join(problems...)
}

// DefaultProfileConfig returns room for one large study.
func DefaultProfileConfig() ProfileConfig {
	return ProfileConfig{Size: 100_000, TTL: time.Minute, LoadTimeout: 2 * time.Second}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c ProfileConfig) Validate() error {
	var problems []error
	if c.Size < 1 || c.Size > 10_000_000 {
		problems = append(problems, fmt.Errorf("size: %d: must be between 1 and 10000000", c.Size))
	}
	if c.TTL <= 0 || c.TTL > time.Hour {
		problems = append(problems, fmt.Errorf("ttl: %s: must be above zero and at most 1h", c.TTL))
	}
	if c.LoadTimeout <= 0 || c.LoadTimeout > time.Minute {
		problems = append(problems, fmt.Errorf("loadTimeout: %s: must be above zero and at most 1m", c.LoadTimeout))
	}
	return errors.Join(problems...)
}
