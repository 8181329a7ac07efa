package submission

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"log/slog"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// Entries is a fast store that other processes share and that may forget anything at any time.
type Entries interface {
	Get(ctx context.Context, key string) (value []byte, ok bool, err error)
	SetMany(ctx context.Context, entries map[string][]byte, ttl time.Duration) error
}

// Memory tells other processes that the log has a record, so that a receipt can be asked for at any of them before a shard
// has it. Losing it loses nothing: a device that is told "not found" sends the same body again.
type Memory struct {
	entries Entries
	queue   chan Receipt
	logger  *slog.Logger
}

const (
	memoryQueue = 8192 // receipts waiting to be told; more are not told
	memoryBatch = 512
	memoryPause = 10 * time.Millisecond // between two batches: one round trip for many receipts instead of one each
	memoryTTL   = 24 * time.Hour
	memorySize  = 8 + 8 + 8 + 32 + 8
)

// NewMemory returns a memory over entries. Run must be running for it to tell anybody anything.
func NewMemory(entries Entries, logger *slog.Logger) *Memory {
	return &Memory{entries: entries, queue: make(chan Receipt, memoryQueue), logger: logger}
}

// Remember hands a receipt over without ever waiting. Safe for concurrent use.
func (m *Memory) Remember(r Receipt) {
	select {
	case m.queue <- r:
	default: // telling is a courtesy; intake is not
	}
}

// Run writes what Remember was given, many at a time, until ctx ends.
func (m *Memory) Run(ctx context.Context) error {
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case first := <-m.queue:
			batch := map[string][]byte{memoryKey(first.Participant, first.Submission): encodeReceipt(first)}
			for len(batch) < memoryBatch && len(m.queue) > 0 {
				r := <-m.queue
				batch[memoryKey(r.Participant, r.Submission)] = encodeReceipt(r)
			}
			err := m.entries.SetMany(ctx, batch, memoryTTL)
			if err != nil && !failing && ctx.Err() == nil {
				m.logger.WarnContext(ctx, "receipts are not shared between processes", "error", err)
			}
			failing = err != nil
			select {
			case <-time.After(memoryPause):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// Receipt returns a remembered receipt; any failure is "not remembered".
func (m *Memory) Receipt(ctx context.Context, participant int64, id uuid.UUID) (Receipt, bool) {
	value, ok, err := m.entries.Get(ctx, memoryKey(participant, id))
	if err != nil || !ok || len(value) != memorySize {
		return Receipt{}, false
	}
	r := Receipt{Participant: participant, Submission: id, State: Received,
		ID: int64(binary.BigEndian.Uint64(value)), Study: int64(binary.BigEndian.Uint64(value[8:])), Task: int64(binary.BigEndian.Uint64(value[16:])),
		ReceivedAt: time.UnixMicro(int64(binary.BigEndian.Uint64(value[56:]))).UTC()}
	copy(r.SHA256[:], value[24:56])
	return r, true
}

func memoryKey(participant int64, id uuid.UUID) string {
	return "receipt:" + strconv.FormatInt(participant, 36) + ":" + hex.EncodeToString(id[:])
}

func encodeReceipt(r Receipt) []byte {
	b := make([]byte, 0, memorySize)
	b = binary.BigEndian.AppendUint64(b, uint64(r.ID))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Study))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Task))
	b = append(b, r.SHA256[:]...)
	return binary.BigEndian.AppendUint64(b, uint64(r.ReceivedAt.UnixMicro()))
}
