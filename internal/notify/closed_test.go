package notify

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/testenv"
)

// asked is a gateway that is asked about a message; before its answer is written something happens.
type asked struct {
	Reporter
	meanwhile func()
}

// Query implements Reporter.
func (a asked) Query(ctx context.Context, m Message, reference string, sentAt time.Time) (Receipt, error) {
	receipt, err := a.Reporter.Query(ctx, m, reference, sentAt)
	a.meanwhile()
	return receipt, err
}

// TestLockedWhileAGatewayIsAsked: what a gateway says once messages have ended does not change the message of a study, neither while it
// is being locked nor afterwards.
func TestLockedWhileAGatewayIsAsked(t *testing.T) {
	for dialect, shards := range testenv.Shards(t) {
		t.Run(dialect, func(t *testing.T) {
			w := newDesk(t, shards, []string{AliyunName})
			closing := &study.ClosingStore{Shards: shards, Page: 100}
			enrolled := []string{"id", "study_id", "site_id", "arm", "number", "status", "zone", "language", "anchors", "data_key", "version", "created_at", "bucket", "left_at"}
			err := shards.For(someone).Tx(t.Context(), func(tx *gorm.DB) error {
				return db.Insert(tx, "participant", enrolled, [][]any{{someone, theStudy, 30, "", "0007", "active", "UTC", "en", "{}", []byte{1}, 1, 1, db.Bucket(someone), 0}})
			})
			if err != nil {
				t.Fatal(err)
			}
			digest := func() (all []study.ShardReport) {
				t.Helper()
				messages := int64(0)
				for _, shard := range shards.All() {
					one, err := closing.Digest(t.Context(), shard, theStudy)
					if err != nil {
						t.Error(err)
					}
					all, messages = append(all, one), messages+one.Tables["message"]
				}
				if messages != 1 {
					t.Errorf("%d messages are hashed, so no change of them is seen", messages)
				}
				return all
			}
			w.command(SandboxCommand{Mode: ModeHang, Accept: true, Receipts: SandboxReceipts{DelayMs: 60_000}})
			status := w.send("task:1")
			w.settled(status.ID, Unknown)
			w.command(SandboxCommand{Mode: ModeNormal})
			var ended []study.ShardReport
			g := w.gate(AliyunName)
			g.reporter = asked{g.reporter, func() {
				if ended != nil {
					t.Error("a gateway is asked for a study that is being locked")
					return
				}
				if err := closing.Stand(t.Context(), theStudy, db.Closing, 1); err != nil {
					t.Error(err)
				}
				if sending, err := closing.Quiet(t.Context(), theStudy, true, w.clock.Now()); sending != 0 || err != nil {
					t.Errorf("%d messages are being sent, %v", sending, err)
				}
				ended = digest()
			}}
			later := func() {
				t.Helper()
				w.clock.Advance(w.config.AskAfter + w.config.Lease)
				w.Once(t.Context())
			}
			for range 20 {
				if later(); ended != nil {
					break
				}
			}
			if ended == nil {
				t.Fatal("the gateway was not asked")
			}
			later()
			if diff := cmp.Diff(ended, digest()); diff != "" {
				t.Errorf("after messages had ended: %s", diff)
			}
			if err := closing.Stand(t.Context(), theStudy, db.Closed, 1); err != nil {
				t.Fatal(err)
			}
			// Even a message that is due by its row, whoever wrote that.
			if _, err := shards.For(someone).Pool().ExecContext(t.Context(), "UPDATE message SET next_at = 1"); err != nil {
				t.Fatal(err)
			}
			locked := digest()
			later()
			if diff := cmp.Diff(locked, digest()); diff != "" {
				t.Errorf("a locked study has changed: %s", diff)
			}
		})
	}
}
