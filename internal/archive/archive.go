// Package archive decides how a locked study leaves the shards and comes back.
//
// A study becomes three kinds of Parquet files and a manifest. Evidence files hold every row of every table of the study, byte for
// byte, in blocks that are sealed with a data key of the archive: from them alone the shards are rebuilt. Response and answer files
// hold the pseudonymous, typed values that researchers read, partitioned Hive-style. Whatever can name a person (contact data,
// patient records, free text, attachments) is in the evidence only.
//
// The order is what keeps data safe: files are written and made durable, read back from the destination and compared with what the
// shards have by count and digest, loaded where ClickHouse is configured and read back from there, listed in the manifest; only then
// is the study archived, and only then do rows leave, block by block, each in a transaction that holds the rows against the block
// once more. Every step is kept in the metadata database and may be repeated, so a run that was killed goes on where it was. One
// process works on a study at a time; a fence on every shard refuses one that was overtaken.
package archive

import (
	"errors"
	"fmt"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// Direction is which way a study moves.
type Direction string

// The directions.
const (
	Out  Direction = "archive" // from the shards into files
	Back Direction = "restore" // from the files into the shards
)

// Step is where a run stands. Steps are passed in the order of Steps.
type Step string

// The steps of both directions.
const (
	StepWrite   Step = "write"   // files are written from the rows of the shards
	StepVerify  Step = "verify"  // every file is read back from the destination and compared
	StepLoad    Step = "load"    // the researchers' files are loaded into ClickHouse and read back, where it is configured
	StepList    Step = "list"    // the manifest is written and read back
	StepClose   Step = "close"   // the study becomes archived: reads are answered from the manifest
	StepRemove  Step = "remove"  // rows leave the shards
	StepCheck   Step = "check"   // restore: the manifest and all files are held against what was recorded
	StepInsert  Step = "insert"  // restore: rows come back
	StepCompare Step = "compare" // restore: all rows of the shards are counted and digested, and compared with the manifest
	StepReopen  Step = "reopen"  // restore: the study becomes locked again
	StepDone    Step = "done"
)

// Steps returns the steps of a direction in order, StepDone last.
func Steps(d Direction) []Step {
	if d == Back {
		return []Step{StepCheck, StepInsert, StepCompare, StepReopen, StepDone}
	}
	return []Step{StepWrite, StepVerify, StepLoad, StepList, StepClose, StepRemove, StepDone}
}

// after returns the step that follows.
func after(d Direction, s Step) Step {
	all := Steps(d)
	for i, at := range all[:len(all)-1] {
		if at == s {
			return all[i+1]
		}
	}
	return StepDone
}

// Run is the move of one study. A study has at most one; a later one replaces it.
type Run struct {
	Study     int64
	ID        int64 // Snowflake; stands in the name of every file
	Direction Direction
	Step      Step
	Actor     Actor
	Reason    string
	Requested time.Time
	Changed   time.Time
	Finished  time.Time // zero until StepDone
	Place     string    // of the manifest, for people; empty until it is written
	Manifest  [32]byte  // SHA-256 of the manifest's bytes
	Key       []byte    // the archive's data key, wrapped
	Lock      int64     // the locking that the study was under when writing began
	Layout    [32]byte  // of the shards when writing began: which bucket was where
	Problem   string    // why the last try ended: a code or a kind, never data; empty where it goes on
	fence     int64
}

// Done reports whether nothing is left to do.
func (r *Run) Done() bool { return r.Step == StepDone }

// Archived reports whether the study's rows are in the archive and not, or not all, on the shards.
func (r *Run) Archived() bool {
	if r.Direction == Back {
		return r.Step != StepDone
	}
	return r.Step == StepRemove || r.Step == StepDone
}

// Actor is who asked for a run.
type Actor struct {
	Kind   string // staff or system
	ID     int64
	Source string // request id
}

// Config bounds what an archive may cost. Start from DefaultConfig.
type Config struct {
	Dir        string        `koanf:"dir"`        // the destination; empty: archiving is off
	FreeText   bool          `koanf:"freeText"`   // whether text that participants wrote stands in the researchers' files
	PartRows   int           `koanf:"partRows"`   // rows of the shards that become one part: what a killed process repeats
	BlockRows  int           `koanf:"blockRows"`  // rows of one sealed block: one transaction of removal and of restoring
	BlockBytes int           `koanf:"blockBytes"` // bytes after which a block is full before it has its rows
	GroupRows  int           `koanf:"groupRows"`  // rows of a row group of the researchers' files, which is held in memory
	ScanRows   int           `koanf:"scanRows"`   // rows of a table without an index by study that one statement looks at
	Pause      time.Duration `koanf:"pause"`      // between two blocks that are removed or restored, so that others have the shard, too
	Poll       time.Duration `koanf:"poll"`       // how often a process looks for a run that nobody works on
	LeaseTTL   time.Duration `koanf:"leaseTtl"`   // how long a dead process keeps others from going on
}

// DefaultConfig returns settings for a server with a few cores.
func DefaultConfig() Config {
	return Config{PartRows: 50_000, BlockRows: 500, BlockBytes: 1 << 20, GroupRows: 32_768, ScanRows: 20_000,
		Pause: 0, Poll: 5 * time.Second, LeaseTTL: 30 * time.Second}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c Config) Validate() error {
	var problems []error
	for _, n := range []struct {
		key              string
		value, low, high int
	}{{"partRows", c.PartRows, 100, 10_000_000}, {"blockRows", c.BlockRows, 1, 1000}, {"blockBytes", c.BlockBytes, 4 << 10, 64 << 20},
		{"groupRows", c.GroupRows, 1000, 1_000_000}, {"scanRows", c.ScanRows, 100, 1_000_000}} {
		if n.value < n.low || n.value > n.high {
			problems = append(problems, fmt.Errorf("%s: %d: must be from %d to %d", n.key, n.value, n.low, n.high))
		}
	}
	if c.Pause < 0 || c.Pause > time.Minute {
		problems = append(problems, fmt.Errorf("pause: %v: must be from 0 to 1m", c.Pause))
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"poll", c.Poll}, {"leaseTtl", c.LeaseTTL}} {
		if d.value < 100*time.Millisecond || d.value > 10*time.Minute {
			problems = append(problems, fmt.Errorf("%s: %v: must be from 100ms to 10m", d.key, d.value))
		}
	}
	return errors.Join(problems...)
}

// The refusals.

func errOff() *errs.Error {
	return errs.New(errs.Conflict, "archive_off", "this installation has no archive: the operator sets archive.dir")
}

func errBusy(r *Run) *errs.Error {
	return errs.New(errs.Conflict, "archive_busy", "the study is being moved already").WithMembers(map[string]any{"direction": string(r.Direction), "step": string(r.Step)})
}

const codeNotLocked = "study_not_locked"

func errNotLocked() *errs.Error {
	return errs.New(errs.Conflict, codeNotLocked, "only a locked study can be archived")
}

func errNotArchived() *errs.Error {
	return errs.New(errs.Conflict, "study_not_archived", "only an archived study can be restored")
}

// CodeOvertaken is the code of what a process is told that another has taken over from.
const CodeOvertaken = "archive_overtaken"

func errOvertaken() *errs.Error {
	return errs.New(errs.Stale, CodeOvertaken, "another process has taken over the move of this study")
}

// CodeArchived is the code of the answer to a read of a study whose data are in the archive.
const CodeArchived = "study_archived"

// ErrArchived answers a read of a study whose data are in the archive: errs.Conflict, since a restore makes it readable again. Its
// members say where the data are.
func ErrArchived(r *Run) *errs.Error {
	return errs.New(errs.Conflict, CodeArchived, "the study is archived; its data are where the manifest says, and can be restored").
		WithMembers(map[string]any{"archive": map[string]any{"manifest": r.Place, "sha256": fmt.Sprintf("%x", r.Manifest), "run": fmt.Sprint(r.ID)}})
}

// damaged is a difference between what was recorded and what is there. It stops a run until somebody has looked: what names it says
// where, and never what stands there.
type damaged struct{ what string }

// Error implements error.
func (d *damaged) Error() string { return "the archive and the shards do not agree: " + d.what }

func differs(format string, args ...any) error { return &damaged{fmt.Sprintf(format, args...)} }
