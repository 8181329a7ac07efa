package user

import (
	"crypto/rand"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
)

func TestRefreshRotates(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		in, err := w.Activate(ctx, w.enrolled(t), "", "")
		if err != nil {
			t.Fatal(err)
		}
		first, err := w.Refresh(ctx, in.Refresh, "")
		if err != nil {
			t.Fatal(err)
		}
		p, err := w.signer.Verify(first.Access)
		if err != nil || p.ID != theParticipant || p.Study != theStudy {
			t.Errorf("principal %+v, %v", p, err)
		}
		second, err := w.Refresh(ctx, first.Refresh, "")
		if err != nil {
			t.Fatal(err)
		}
		w.clock.Advance(w.config.ParticipantSession - time.Second)
		third, err := w.Refresh(ctx, second.Refresh, "")
		want(t, "just before the session's end", err, "ok")
		w.clock.Advance(w.config.ParticipantSession)
		_, err = w.Refresh(ctx, third.Refresh, "")
		want(t, "at the session's end", err, "unauthenticated")
	})
}

func TestReusedRefreshTokenEndsTheSession(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		in, err := w.Activate(ctx, w.enrolled(t), "", "")
		if err != nil {
			t.Fatal(err)
		}
		next, err := w.Refresh(ctx, in.Refresh, "")
		if err != nil {
			t.Fatal(err)
		}
		forged, _ := readRefresh(next.Refresh)
		forged.family = [16]byte{1}
		_, err = w.Refresh(ctx, forged.String(), "")
		want(t, "forged", err, "unauthenticated")
		if next, err = w.Refresh(ctx, next.Refresh, ""); err != nil {
			t.Fatalf("a forged token ended somebody's session: %v", err)
		}
		_, err = w.Refresh(ctx, in.Refresh, "")
		want(t, "used before", err, "unauthenticated")
		_, err = w.Refresh(ctx, next.Refresh, "")
		want(t, "the current one, after the reuse", err, "unauthenticated")
		if diff := cmp.Diff([]string{"auth.activate", "auth.refresh_reused"}, actions(t, w.store.Shards.For(theParticipant))); diff != "" {
			t.Error(diff)
		}
	})
}

// TestRefreshRace lets many callers present one token at once: at most one may get through, and then nobody holds a session.
func TestRefreshRace(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		in, err := w.Activate(ctx, w.enrolled(t), "", "")
		if err != nil {
			t.Fatal(err)
		}
		results := make(chan SignedIn, 8)
		for range cap(results) {
			go func() {
				out, err := w.Refresh(ctx, in.Refresh, "")
				if err != nil && errs.KindOf(err) != errs.Unauthenticated {
					t.Errorf("refresh: %v", err)
				}
				results <- out
			}()
		}
		var winners []string
		for range cap(results) {
			if out := <-results; out.Refresh != "" {
				winners = append(winners, out.Refresh)
			}
		}
		if len(winners) != 1 {
			t.Fatalf("%d callers got new tokens for one", len(winners))
		}
		_, err = w.Refresh(ctx, winners[0], "")
		want(t, "after the race", err, "unauthenticated")
	})
}

func TestStaffSessionEnds(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		if _, err := w.AddStaff(ctx, "anna", "correct horse", auth.Monitor); err != nil {
			t.Fatal(err)
		}
		in, err := w.Login(ctx, "anna", "correct horse", "", "")
		if err != nil {
			t.Fatal(err)
		}
		w.clock.Advance(w.config.StaffSession - time.Second)
		next, err := w.Refresh(ctx, in.Refresh, "")
		want(t, "before the end", err, "ok")
		w.clock.Advance(time.Second)
		_, err = w.Refresh(ctx, next.Refresh, "")
		want(t, "at the end, though it was used", err, "unauthenticated")
	})
}

func TestLogout(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		want(t, "nobody", w.Logout(ctx, "", ""), "unauthenticated")
		want(t, "garbage", w.Logout(ctx, "abc", ""), "ok")
		in, err := w.Activate(ctx, w.enrolled(t), "4321", "")
		if err != nil {
			t.Fatal(err)
		}
		want(t, "by refresh token", w.Logout(ctx, in.Refresh, ""), "ok")
		want(t, "again", w.Logout(ctx, in.Refresh, ""), "ok")
		_, err = w.Refresh(ctx, in.Refresh, "")
		want(t, "refresh after logout", err, "unauthenticated")

		if in, err = w.SignIn(ctx, "EP-001", "0001", "4321", ""); err != nil {
			t.Fatal(err)
		}
		p, err := w.signer.Verify(in.Access)
		if err != nil {
			t.Fatal(err)
		}
		want(t, "by access token", w.Logout(auth.With(ctx, p), "", ""), "ok")
		_, err = w.Refresh(ctx, in.Refresh, "")
		want(t, "refresh after logout", err, "unauthenticated")
		if diff := cmp.Diff([]string{"auth.activate", "auth.logout", "auth.login", "auth.logout"}, actions(t, w.store.Shards.For(theParticipant))); diff != "" {
			t.Error(diff)
		}
	})
}

func TestCloseAndRenew(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		shard := w.store.Shards.For(theParticipant)
		in, err := w.Activate(ctx, w.enrolled(t), "1234", "")
		if err != nil {
			t.Fatal(err)
		}
		renewed, hash, err := NewActivation(theParticipant, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := shard.Tx(ctx, func(tx *gorm.DB) error { return RenewActivation(tx, theParticipant, hash) }); err != nil {
			t.Fatal(err)
		}
		_, err = w.Refresh(ctx, in.Refresh, "")
		want(t, "old session after renewal", err, "unauthenticated")
		_, err = w.SignIn(ctx, "EP-001", "0001", "1234", "")
		want(t, "old PIN after renewal", err, "unauthenticated")
		if in, err = w.Activate(ctx, renewed, "5678", ""); err != nil {
			t.Fatal(err)
		}
		if err := shard.Tx(ctx, func(tx *gorm.DB) error { return CloseAccount(tx, theParticipant) }); err != nil {
			t.Fatal(err)
		}
		_, err = w.Refresh(ctx, in.Refresh, "")
		want(t, "session of a closed account", err, "unauthenticated")
		_, err = w.SignIn(ctx, "EP-001", "0001", "5678", "")
		want(t, "PIN of a closed account", err, "unauthenticated")
		err = shard.Tx(ctx, func(tx *gorm.DB) error { return RenewActivation(tx, theParticipant, sha256.Sum256(nil)) })
		want(t, "renewal of a closed account", err, "not_found")
	})
}

func TestEndedSessionsAreClearedAway(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		if _, err := w.AddStaff(ctx, "anna", "correct horse", auth.Monitor); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := w.Login(ctx, "anna", "correct horse", "", ""); err != nil {
				t.Fatal(err)
			}
			w.clock.Advance(w.config.StaffSession)
		}
		var n int64
		if err := w.store.Meta.Read(ctx).Table("staff_session").Count(&n).Error; err != nil || n != 1 {
			t.Errorf("%d sessions are kept, %v; want the last alone", n, err)
		}
	})
}
