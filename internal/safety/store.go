package safety

import (
	"context"
	"encoding/json"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// Store keeps rules and rotas in the metadata database and alerts on the shards. It is safe for concurrent use.
type Store struct {
	Meta   *db.DB
	Shards *db.Shards
	// Mutable refuses, in a transaction of the metadata database, a study whose design may not change.
	Mutable func(tx *gorm.DB, study int64) error
}

type rulesRow struct {
	Version, CreatedBy, CreatedAt int64
	Body                          []byte
}

// Rules returns a version of a study's rules, 0 for the newest; errs.NotFound where there is none.
func (s *Store) Rules(ctx context.Context, study, version int64) (Rules, error) {
	tx := s.Meta.Read(ctx).Table("safety_rules").Select("version", "body", "created_by", "created_at").Where("study_id = ?", study)
	if version != 0 {
		tx = tx.Where("version = ?", version)
	}
	var row rulesRow
	if err := tx.Order("version DESC").Limit(1).Take(&row).Error; err != nil {
		return Rules{}, db.Error("safety rules", err)
	}
	r := Rules{Version: row.Version, By: row.CreatedBy, At: db.Time(row.CreatedAt)}
	if err := json.Unmarshal(row.Body, &r.Rules); err != nil {
		return r, errs.New(errs.Internal, "internal", "stored safety rules are damaged").WithCause(err)
	}
	return r, nil
}

// RulesAt returns the version that applied at an instant, and until when it does: zero where no later one is known. A study that had none
// then has rules without a version.
func (s *Store) RulesAt(ctx context.Context, study int64, at time.Time) (r Rules, until time.Time, err error) {
	var edges struct{ Version, Until int64 }
	err = s.Meta.Read(ctx).Raw("SELECT COALESCE(MAX(CASE WHEN created_at <= ? THEN version END), 0) AS version, COALESCE(MIN(CASE WHEN created_at > ? THEN created_at END), 0) AS until "+
		"FROM safety_rules WHERE study_id = ?", db.Micros(at), db.Micros(at), study).Scan(&edges).Error
	if err != nil {
		return Rules{}, time.Time{}, db.Error("safety rules", err)
	}
	if edges.Version > 0 {
		r, err = s.Rules(ctx, study, edges.Version)
	}
	return r, db.Time(edges.Until), err
}

// PutRules writes the version after was; errs.Stale where somebody else has written it.
func (s *Store) PutRules(ctx context.Context, study int64, r Rules, entry audit.Entry) error {
	body, err := json.Marshal(r.Rules)
	if err != nil {
		return err
	}
	err = s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		if err := s.Mutable(tx, study); err != nil {
			return err
		}
		err := db.Insert(tx, "safety_rules", []string{"study_id", "version", "body", "created_by", "created_at"}, [][]any{{study, r.Version, body, r.By, db.Micros(r.At)}})
		if err != nil {
			return err
		}
		return audit.Append(tx, entry)
	})
	if db.IsDuplicate(err) {
		return errStale()
	}
	return db.Error("safety rules", err)
}

func errStale() *errs.Error {
	return errs.New(errs.Stale, "stale", "somebody else changed it; read it again and repeat your change")
}

// Rota returns a study's sealed rota and its version; version 0 where there is none.
func (s *Store) Rota(ctx context.Context, study int64) (sealed []byte, version int64, err error) {
	var rows []struct {
		Version int64
		Sealed  []byte
	}
	err = s.Meta.Read(ctx).Table("safety_rota").Select("version", "sealed").Where("study_id = ?", study).Limit(1).Find(&rows).Error
	if err != nil || len(rows) == 0 {
		return nil, 0, db.Error("rota", err)
	}
	return rows[0].Sealed, rows[0].Version, nil
}

// PutRota writes a sealed rota over the version was; errs.Stale where it is another.
func (s *Store) PutRota(ctx context.Context, study, was int64, sealed []byte, entry audit.Entry) error {
	err := s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		if err := s.Mutable(tx, study); err != nil {
			return err
		}
		if was == 0 {
			err := db.Insert(tx, "safety_rota", []string{"study_id", "version", "sealed", "changed_by", "changed_at"}, [][]any{{study, int64(1), sealed, entry.Actor, db.Micros(entry.At)}})
			if err != nil {
				return err
			}
			return audit.Append(tx, entry)
		}
		done := tx.Exec("UPDATE safety_rota SET version = ?, sealed = ?, changed_by = ?, changed_at = ? WHERE study_id = ? AND version = ?", was+1, sealed, entry.Actor, db.Micros(entry.At), study, was)
		if done.Error != nil {
			return done.Error
		}
		if done.RowsAffected != 1 {
			return errStale()
		}
		return audit.Append(tx, entry)
	})
	if db.IsDuplicate(err) {
		return errStale()
	}
	return db.Error("rota", err)
}
