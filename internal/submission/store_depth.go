package submission

import (
	"context"
	"time"

	"github.com/eprod/eprod/internal/db"
)

// SpoolDepth returns how many records wait in a shard's spool, counting no further than 100,000.
func SpoolDepth(ctx context.Context, shard *db.DB) (int64, error) {
	var n int64
	err := shard.Read(ctx).Raw("SELECT COUNT(*) FROM (SELECT participant_id FROM spool LIMIT 100000) AS waiting").Scan(&n).Error
	return n, db.Error("spool", err)
}

// SpoolOldest returns when the first record of a shard's spool was received: the zero time where there is none. Ids ascend with the time
// of receipt, within the seconds that the processes' clocks may differ.
func SpoolOldest(ctx context.Context, shard *db.DB) (time.Time, error) {
	var received []int64
	err := shard.Read(ctx).Table("spool").Order("id").Limit(1).Pluck("received_at", &received).Error
	if err != nil || len(received) == 0 {
		return time.Time{}, db.Error("spool", err)
	}
	return db.Time(received[0]), nil
}

// QuarantineDepth returns how many submissions are in a shard's quarantine, counting no further than 10,000.
func QuarantineDepth(ctx context.Context, shard *db.DB) (int64, error) {
	var n int64
	err := shard.Read(ctx).Raw("SELECT COUNT(*) FROM (SELECT study_id FROM quarantine LIMIT 10000) AS waiting").Scan(&n).Error
	return n, db.Error("quarantine", err)
}
