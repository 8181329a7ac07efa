// Package migrations carries the schema inside the binary: mysql and sqlite, each with the sets meta and shard.
package migrations

import "embed"

// Files holds the SQL files as <dialect>/<set>/<number>_<name>.sql.
//
//go:embed mysql sqlite
var Files embed.FS
