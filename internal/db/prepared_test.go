package db

import (
	"context"
	"database/sql/driver"
	"testing"
)

// quietSession is a connection that hears nothing once its caller's context has ended, as the driver's does.
type quietSession struct {
	session
	heard []string
}

func (s *quietSession) IsValid() bool { return true }

func (s *quietSession) BeginTx(ctx context.Context, _ driver.TxOptions) (driver.Tx, error) {
	return nil, s.hear(ctx, "BEGIN")
}

func (s *quietSession) ExecContext(ctx context.Context, query string, _ []driver.NamedValue) (driver.Result, error) {
	return driver.ResultNoRows, s.hear(ctx, query)
}

func (s *quietSession) hear(ctx context.Context, what string) error {
	if ctx.Err() == nil {
		s.heard = append(s.heard, what)
	}
	return ctx.Err()
}

// TestUnfinishedTransactionLeavesThePool: a connection whose server has not heard how its transaction ends is given up.
func TestUnfinishedTransactionLeavesThePool(t *testing.T) {
	for _, c := range []struct {
		name   string
		leave  bool // before the end
		end    func(driver.Tx) error
		usable bool
		heard  int
	}{
		{"commit", false, driver.Tx.Commit, true, 2},
		{"rollback", false, driver.Tx.Rollback, true, 2},
		{"commit after leaving", true, driver.Tx.Commit, false, 1},
		{"rollback after leaving", true, driver.Tx.Rollback, true, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			s := &quietSession{}
			conn := &preparedConn{session: s}
			tx, err := conn.BeginTx(ctx, driver.TxOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if c.leave {
				leave()
			}
			if err := c.end(tx); (err == nil) != c.usable {
				t.Errorf("the end says %v", err)
			}
			if conn.IsValid() != c.usable || len(s.heard) != c.heard {
				t.Errorf("usable: %v, the server heard %v", conn.IsValid(), s.heard)
			}
		})
	}
}
