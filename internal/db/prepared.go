package db

import (
	"context"
	"database/sql/driver"
	"fmt"
)

// maxPrepared is how many statements one MySQL connection keeps prepared: those of a processor's batches, of any size, with room for the rest.
// The server bounds those of all its clients together (max_prepared_stmt_count, 16,382); most connections never have more than a few.
const maxPrepared = 160

// preparing makes connections that keep their statements prepared. gorm's own cache prepares a statement anew in every
// transaction, makes callers wait for each other, and hands one caller's cancellation to others; here a statement belongs
// to its connection, which has one user at a time.
type preparing struct{ driver.Connector }

// Connect implements driver.Connector.
func (p preparing) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := p.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	s, ok := conn.(session)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("a connection of type %T cannot keep statements", conn)
	}
	return &preparedConn{session: s, kept: make(map[string]*keptStatement)}, nil
}

// session is everything that database/sql asks of a MySQL connection.
type session interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

type statement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

type keptStatement struct {
	statement
	used uint64 // the connection's count of uses at the last one
}

// preparedConn is a connection with its prepared statements; closing it ends them too. A MySQL connection has at most one
// open result, which must be read to its end before the next statement, so no kept statement is in use when it is evicted.
type preparedConn struct {
	session
	kept   map[string]*keptStatement
	uses   uint64
	spoilt bool // in an unknown state: not for the pool
}

// ExecContext implements driver.ExecerContext.
func (c *preparedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if len(args) == 0 { // the text protocol: what has no values may be something that cannot be prepared
		return c.session.ExecContext(ctx, query, args)
	}
	s, err := c.prepared(ctx, query)
	if err != nil {
		return nil, err
	}
	return s.ExecContext(ctx, args)
}

// QueryContext implements driver.QueryerContext.
func (c *preparedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if len(args) == 0 {
		return c.session.QueryContext(ctx, query, args)
	}
	s, err := c.prepared(ctx, query)
	if err != nil {
		return nil, err
	}
	return s.QueryContext(ctx, args)
}

func (c *preparedConn) prepared(ctx context.Context, query string) (statement, error) {
	c.uses++
	if s, ok := c.kept[query]; ok {
		s.used = c.uses
		return s.statement, nil
	}
	prepared, err := c.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	s, ok := prepared.(statement)
	if !ok {
		_ = prepared.Close()
		return nil, fmt.Errorf("a statement of type %T takes no context", prepared)
	}
	if len(c.kept) >= maxPrepared {
		c.evict()
	}
	c.kept[query] = &keptStatement{statement: s, used: c.uses}
	return s, nil
}

// evict ends the statement that was not used for longest.
func (c *preparedConn) evict() {
	var oldest string
	least := c.uses
	for query, s := range c.kept {
		if s.used < least {
			oldest, least = query, s.used
		}
	}
	_ = c.kept[oldest].Close() // has no reply; a broken connection shows at the next statement
	delete(c.kept, oldest)
}
