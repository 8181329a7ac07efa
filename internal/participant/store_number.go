package participant

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
)

// reserveTries bounds how often a reservation starts again because somebody else reserved one of its numbers just then.
const reserveTries = 5

// Reserve takes participant numbers of a study for the proposed ids. It returns the id that each number stands for now: the
// proposed one, or that of an earlier reservation, whose participant may or may not have come to its shard.
func (s *Store) Reserve(ctx context.Context, study int64, proposed map[string]int64) (map[string]int64, error) {
	numbers := slices.Sorted(maps.Keys(proposed)) // in order, so that two reservations do not wait for one another
	for range reserveTries {
		taken, err := s.taken(ctx, study, numbers)
		if err != nil {
			return nil, err
		}
		rows := make([][]any, 0, len(numbers))
		for _, number := range numbers {
			if _, ok := taken[number]; !ok {
				taken[number] = proposed[number]
				rows = append(rows, []any{study, number, proposed[number]})
			}
		}
		if len(rows) == 0 {
			return taken, nil
		}
		err = s.Meta.Tx(ctx, func(tx *gorm.DB) error {
			return db.Insert(tx, "participant_number", []string{"study_id", "number", "participant_id"}, rows)
		})
		if err == nil {
			return taken, nil
		}
		if !db.IsDuplicate(err) {
			return nil, db.Error("participant numbers", err)
		}
	}
	return nil, db.Error("participant numbers", errors.New("reserved by others at the same time, again and again"))
}

func (s *Store) taken(ctx context.Context, study int64, numbers []string) (map[string]int64, error) {
	out := make(map[string]int64, len(numbers))
	for piece := range slices.Chunk(numbers, maxIn) {
		var rows []struct {
			Number        string
			ParticipantID int64
		}
		err := s.Meta.Read(ctx).Raw("SELECT number, participant_id FROM participant_number WHERE study_id = ? AND number IN ?", study, piece).Scan(&rows).Error
		if err != nil {
			return nil, db.Error("participant numbers", err)
		}
		for _, r := range rows {
			out[r.Number] = r.ParticipantID
		}
	}
	return out, nil
}

// IDByNumber returns the id that a number of a study stands for, or errs.NotFound.
func (s *Store) IDByNumber(ctx context.Context, study int64, number string) (int64, error) {
	var row struct{ ParticipantID int64 }
	err := s.Meta.Read(ctx).Table("participant_number").Select("participant_id").Where("study_id = ? AND number = ?", study, number).Take(&row).Error
	if err != nil {
		return 0, fmt.Errorf("participant number: %w", db.Error("participant", err))
	}
	return row.ParticipantID, nil
}
