package db

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"time"
)

// Guard keeps callers from waiting for a database that is down. limit.Breaker implements it.
type Guard interface {
	// Do calls fn and returns its error, or refuses at once with errs.Unavailable when fn failed too often lately.
	Do(ctx context.Context, fn func(ctx context.Context) error) error
}

// Protect puts a guard before every statement and every transaction's begin; without one everything is tried. What the database itself
// answers, duplicates and deadlocks too, speaks for it. Call it before the database is used.
func (d *DB) Protect(g Guard) {
	if d.guarded != nil { // a file needs none
		d.guarded.guard = g
	}
}

// guardedPool is what gorm works on. A transaction is guarded at its begin, which goes to the server: what fails later in it may be the
// fault of something else that it waits for.
type guardedPool struct {
	*sql.DB
	guard Guard // nil: none
}

// GetDBConn lets gorm find the pool beneath.
func (p *guardedPool) GetDBConn() (*sql.DB, error) { return p.DB, nil }

// ExecContext implements gorm.ConnPool.
func (p *guardedPool) ExecContext(ctx context.Context, query string, args ...any) (result sql.Result, err error) {
	err = p.do(ctx, func() error {
		result, err = p.DB.ExecContext(ctx, query, args...)
		return err
	})
	return result, err
}

// QueryContext implements gorm.ConnPool.
func (p *guardedPool) QueryContext(ctx context.Context, query string, args ...any) (rows *sql.Rows, err error) {
	err = p.do(ctx, func() error {
		rows, err = p.DB.QueryContext(ctx, query, args...)
		return err
	})
	return rows, err
}

// BeginTx implements gorm.TxBeginner.
func (p *guardedPool) BeginTx(ctx context.Context, options *sql.TxOptions) (tx *sql.Tx, err error) {
	err = p.do(ctx, func() error {
		tx, err = p.DB.BeginTx(ctx, options)
		return err
	})
	return tx, err
}

// do runs a call under the guard. The call keeps its caller's context, since rows are read after it; a hung one ends by that, or by
// the driver's time-out for a reply.
func (p *guardedPool) do(ctx context.Context, call func() error) error {
	if p.guard == nil {
		return call()
	}
	var answer error // of a database that answers
	err := p.guard.Do(ctx, func(context.Context) error {
		err := call()
		if err == nil || down(err) && !repeatable(err) {
			return err
		}
		answer = err
		return nil
	})
	if err != nil {
		return err
	}
	return answer
}

// rollbackTimeout is the wait for a rollback's reply. Without one the connection is given up, and the server rolls back by itself.
const rollbackTimeout = 250 * time.Millisecond

// boundTx ends a transaction within its context. The driver's own Commit and Rollback know no context: against a server that hangs they
// would wait as long as for any reply.
type boundTx struct {
	ctx  context.Context
	conn *preparedConn
}

// Commit implements driver.Tx. A failure leaves the outcome unknown.
func (t *boundTx) Commit() error { return t.end(t.ctx, "COMMIT") }

// Rollback implements driver.Tx.
func (t *boundTx) Rollback() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), rollbackTimeout)
	defer cancel()
	return t.end(ctx, "ROLLBACK")
}

// end gives the connection up when the server has perhaps not heard of the end: in the pool it would go on holding the transaction's locks,
// and make its next user's work a part of it.
func (t *boundTx) end(ctx context.Context, statement string) error {
	_, err := t.conn.session.ExecContext(ctx, statement, nil)
	t.conn.spoilt = t.conn.spoilt || err != nil
	return err
}

// BeginTx implements driver.ConnBeginTx.
func (c *preparedConn) BeginTx(ctx context.Context, options driver.TxOptions) (driver.Tx, error) {
	if _, err := c.session.BeginTx(ctx, options); err != nil {
		c.spoilt = true
		return nil, err
	}
	return &boundTx{ctx, c}, nil
}

// IsValid implements driver.Validator.
func (c *preparedConn) IsValid() bool { return !c.spoilt && c.session.IsValid() }
