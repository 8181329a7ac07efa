package db

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/go-sql-driver/mysql"
	gormmysql "gorm.io/driver/mysql"
	gormsqlite "gorm.io/driver/sqlite"
	"gorm.io/gorm"
	"modernc.org/sqlite"

	"github.com/eprod/eprod/internal/errs"
)

// Error gives a database error its kind: a missing row is errs.NotFound of what, a duplicate key errs.Conflict (and still
// IsDuplicate), a database that does not answer errs.Unavailable. Errors that have a kind already, and nil, stay as they are.
func Error(what string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errs.As(err); ok {
		return err
	}
	switch {
	case errors.Is(err, gorm.ErrRecordNotFound), errors.Is(err, sql.ErrNoRows):
		return errs.Absent(what).WithCause(err)
	case IsDuplicate(err):
		return errs.Exists(what).WithCause(err)
	case down(err):
		return errs.Away(what, err)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}

// mysqlDialector and sqliteDialector let gorm's own names for refusals be found in errors, beside the driver's error: gorm
// would replace it, and the name of the key with it.
type mysqlDialector struct{ *gormmysql.Dialector }

// Translate implements gorm.ErrorTranslator.
func (mysqlDialector) Translate(err error) error { return translate(err) }

type sqliteDialector struct{ *gormsqlite.Dialector }

// Translate implements gorm.ErrorTranslator.
func (sqliteDialector) Translate(err error) error { return translate(err) }

func translate(err error) error {
	name := error(nil)
	var my *mysql.MySQLError
	var lite *sqlite.Error
	switch {
	case IsDuplicate(err):
		name = gorm.ErrDuplicatedKey
	case errors.As(err, &my) && (my.Number == 1451 || my.Number == 1452), errors.As(err, &lite) && lite.Code() == sqliteForeignKey:
		name = gorm.ErrForeignKeyViolated
	}
	if name == nil || errors.Is(err, name) {
		return err
	}
	return fmt.Errorf("%w: %w", name, err)
}

// SQLite's extended result codes (sqlite.org/rescode.html).
const (
	sqliteBusy       = 5
	sqliteLocked     = 6
	sqliteReadOnly   = 8
	sqliteInterrupt  = 9
	sqliteIO         = 10
	sqliteFull       = 13
	sqliteCannotOpen = 14
	sqliteTooBig     = 18
	sqliteConstraint = 19
	sqliteMismatch   = 20
	sqliteForeignKey = 787
	sqlitePrimaryKey = 1555
	sqliteUnique     = 2067
)

// MySQL's error numbers (the server's error message reference).
const (
	mysqlDuplicate   = 1062
	mysqlLockWait    = 1205
	mysqlDeadlock    = 1213
	mysqlPacketLarge = 1153
)

// IsDuplicate reports whether a unique key refused the write.
func IsDuplicate(err error) bool {
	var my *mysql.MySQLError
	if errors.As(err, &my) {
		return my.Number == mysqlDuplicate
	}
	var lite *sqlite.Error
	return errors.As(err, &lite) && (lite.Code() == sqlitePrimaryKey || lite.Code() == sqliteUnique)
}

// DuplicateKey names the unique key that refused a write: the index, or PRIMARY, on MySQL; the columns, as table.column
// joined by ", ", on SQLite; "" for any other error. A collision of ids must raise an alarm instead of passing for success.
func DuplicateKey(err error) string {
	if !IsDuplicate(err) {
		return ""
	}
	var my *mysql.MySQLError
	if errors.As(err, &my) {
		_, key, _ := strings.Cut(my.Message, " for key '")
		key = strings.TrimSuffix(key, "'")
		return key[strings.LastIndexByte(key, '.')+1:]
	}
	var lite *sqlite.Error
	errors.As(err, &lite)
	// The text reads "constraint failed: UNIQUE constraint failed: table.column (2067)".
	columns := lite.Error()
	columns, _, _ = strings.Cut(columns[strings.LastIndex(columns, ": ")+2:], " (")
	return columns
}

// IsRefused reports whether the database refuses these very values: repeating the write cannot help, and it is no
// duplicate.
func IsRefused(err error) bool {
	var my *mysql.MySQLError
	if errors.As(err, &my) {
		switch my.Number {
		case 1406, 1048, 1264, 1265, 1292, 1366, 1364, 3819, mysqlPacketLarge:
			return true
		}
		return false
	}
	var lite *sqlite.Error
	if !errors.As(err, &lite) {
		return errors.Is(err, mysql.ErrPktTooLarge) // the driver did not even send it
	}
	if IsDuplicate(err) {
		return false
	}
	primary := lite.Code() & 0xff
	return primary == sqliteConstraint || primary == sqliteTooBig || primary == sqliteMismatch
}

// repeatable reports whether the database undid the transaction for the sake of another one.
func repeatable(err error) bool {
	var my *mysql.MySQLError
	if errors.As(err, &my) {
		return my.Number == mysqlDeadlock || my.Number == mysqlLockWait
	}
	var lite *sqlite.Error
	return errors.As(err, &lite) && lite.Code()&0xff == sqliteBusy
}

// down reports whether the database did not answer, or is shutting down, or will not take writes: nothing about the
// statement itself.
func down(err error) bool {
	var my *mysql.MySQLError
	if errors.As(err, &my) {
		switch my.Number {
		case 1021, 1114, 1203, 1226, 1317, 1461, 3100, // no room for more: disk, connections, statements; killed; refused by the group
			1040, 1053, 1077, 1079, 1080, 1129, 1130, 1152, 1158, 1159, 1160, 1161, 1184, 1290, 1836, 3024, 3169, 1045, 1044, 1049, mysqlDeadlock, mysqlLockWait:
			return true
		}
		return false
	}
	var network net.Error
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		switch lite.Code() & 0xff {
		case sqliteBusy, sqliteLocked, sqliteReadOnly, sqliteInterrupt, sqliteIO, sqliteFull, sqliteCannotOpen:
			return true
		}
	}
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, sql.ErrConnDone) ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.As(err, &network)
}
