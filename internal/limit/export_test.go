package limit

import "github.com/redis/go-redis/v9"

// ReplaceScript runs another script from now on, to show what a test would see without a part of it.
func (l *Leased) ReplaceScript(change func(script string) string) {
	l.script = redis.NewScript(change(leaseScript))
}

// Len returns how many keys are remembered.
func (l *Leased) Len() int {
	n := 0
	for i := range l.parts {
		l.parts[i].mu.Lock()
		n += len(l.parts[i].keys)
		l.parts[i].mu.Unlock()
	}
	return n
}
