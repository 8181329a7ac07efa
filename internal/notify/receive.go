package notify

import (
	"context"
	"net/http"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// Receive verifies a gateway's delivery callback and settles what it reports. Receipts that come twice, late or in any order change
// nothing that is final. A receipt of no message of ours is passed over.
func (s *Service) Receive(ctx context.Context, provider string, r *http.Request, body []byte) error {
	g := s.gate(provider)
	if g == nil || g.reporter == nil {
		return errs.Absent("gateway")
	}
	receipts, err := g.reporter.Receipts(r, body)
	if err != nil {
		return err
	}
	for _, receipt := range receipts {
		// A locked study does not change, whatever a gateway has to tell.
		if err := s.settle(ctx, receipt); err != nil && errs.KindOf(err) != errs.NotFound && !db.IsClosed(err) {
			return err
		}
	}
	return nil
}

// settle applies a receipt, again when somebody else changed the row meanwhile.
func (s *Service) settle(ctx context.Context, r Receipt) error {
	for range 5 {
		d, err := s.Deliveries.ByReceipt(ctx, r)
		if err != nil {
			return err
		}
		next, changed := d.told(r, s.instant())
		if !changed {
			return nil
		}
		ok, err := s.Deliveries.Change(ctx, d, next)
		if err != nil {
			return err
		}
		if ok {
			s.Meter.Message(r.Provider, string(next.State))
			return nil
		}
	}
	return errs.Away("the message", nil)
}
