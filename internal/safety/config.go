package safety

import (
	"errors"
	"fmt"
	"time"
)

func (c Config) problems() error {
	var problems []error
	for _, d := range []struct {
		key        string
		value, low time.Duration
	}{{"rulesTtl", c.RulesTTL, 10 * time.Millisecond}, {"interval", c.Interval, 10 * time.Millisecond}, {"lease", c.Lease, time.Second}, {"timeout", c.Timeout, 10 * time.Millisecond}} {
		if d.value < d.low {
			problems = append(problems, fmt.Errorf("%s: %v: must be %v or more", d.key, d.value, d.low))
		}
	}
	for _, n := range []struct {
		key         string
		value, most int
	}{{"queue", c.Queue, 1_000_000}, {"workers", c.Workers, 64}, {"batch", c.Batch, 5000}} {
		if n.value < 1 || n.value > n.most {
			problems = append(problems, fmt.Errorf("%s: %d: must be from 1 to %d", n.key, n.value, n.most))
		}
	}
	return errors.Join(problems...)
}
