package lock

import (
	"testing"
	"time"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/testenv"
)

func TestOneHolderAtATime(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		one, two := p.locker(t, "one"), p.locker(t, "two")
		var last int64
		for range 3 {
			s := acquired(t, one, "anna", "n", time.Minute)
			if s.Token <= last || s.Name != "n" {
				t.Errorf("token %d after %d, name %s", s.Token, last, s.Name)
			}
			last = s.Token
			if left := time.Until(s.ValidUntil()); left > time.Minute || left < 55*time.Second {
				t.Errorf("valid for %v", left)
			}
			refused(t, two, "bert", "n", "anna")
			other := acquired(t, two, "bert", "other", time.Minute)
			released(t, s)
			released(t, s)
			next := acquired(t, two, "bert", "n", time.Minute)
			if next.Token <= last {
				t.Errorf("token %d after %d", next.Token, last)
			}
			last = next.Token
			released(t, s) // is over: it must not touch the newer one
			refused(t, one, "anna", "n", "bert")
			released(t, next)
			released(t, other)
		}
	})
}

func TestExpiryGivesItToOthers(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		one, two := p.locker(t, "one"), p.locker(t, "two")
		s := acquired(t, one, "anna", "n", p.ttl)
		next := acquired(t, two, "bert", "n", time.Minute, Wait(20*time.Second))
		if now := time.Now().Add(p.early); now.Before(s.ValidUntil()) {
			t.Errorf("another has it %v before the first must have stopped", s.ValidUntil().Sub(now))
		}
		<-s.Done()
		if next.Token <= s.Token {
			t.Errorf("token %d after %d", next.Token, s.Token)
		}
		released(t, s)
		refused(t, one, "anna", "n", "bert")
		released(t, next)
	})
}

func TestRenewalKeepsIt(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		one, two := p.locker(t, "one"), p.locker(t, "two")
		began, ttl := time.Now(), 2*p.ttl
		s := acquired(t, one, "anna", "n", ttl, Renew(3*ttl))
		next := acquired(t, two, "bert", "n", time.Minute, Wait(30*time.Second))
		if held := time.Since(began); held < 2*ttl {
			t.Errorf("held for %v of %v", held, 3*ttl)
		}
		<-s.Done()
		released(t, s)
		released(t, next)
	})
}

// TestFenceGrowsThroughLoss: a back end that forgets a lock gives it to another, with a greater token, and the holder finds out.
func TestFenceGrowsThroughLoss(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		one, two := p.locker(t, "one"), p.locker(t, "two")
		s := acquired(t, one, "anna", "n", 3*p.ttl, Renew(time.Minute))
		p.forget(t, "n")
		next := acquired(t, two, "bert", "n", time.Minute)
		if next.Token <= s.Token {
			t.Errorf("token %d after %d", next.Token, s.Token)
		}
		<-s.Done() // the test's time limit ends it
		released(t, s)
		refused(t, one, "anna", "n", "bert")
		released(t, next)
	})
}

// TestLostReplies: the server does what it was asked and the answer never arrives.
func TestLostReplies(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		if p.server == "" {
			t.Log("there is no network to lose a reply in")
			return
		}
		proxy := testenv.NewProxy(t, p.server)
		parts := testParts("one")
		parts.Config.Timeout, parts.Config.Tries = 2*time.Second, 4
		one, two := p.open(t, proxy.Address(), parts), p.locker(t, "two")
		released(t, acquired(t, one, "anna", "n", time.Minute)) // so that scripts and statements are known
		for range 5 {
			proxy.LoseReply(p.lose("anna"))
			s := acquired(t, one, "anna", "n", time.Minute)
			if !proxy.Lost() {
				t.Fatal("no reply was lost")
			}
			refused(t, two, "bert", "n", "anna")
			refused(t, one, "carl", "n", "anna")
			proxy.LoseReply(p.lose(s.claim.id))
			released(t, s)
			next := acquired(t, two, "bert", "n", time.Minute)
			if next.Token <= s.Token {
				t.Errorf("token %d after %d", next.Token, s.Token)
			}
			proxy.LoseReply(p.lose("anna")) // of a refusal, where that has such text
			refused(t, one, "anna", "n", "bert")
			released(t, next)
		}
	})
}

// TestHangingServer: an acquisition is over within its time limits, and what it may have taken is free again after its ttl.
func TestHangingServer(t *testing.T) {
	everywhere(t, func(t *testing.T, p place) {
		if p.server == "" {
			t.Log("there is no network to hang")
			return
		}
		proxy := testenv.NewProxy(t, p.server)
		parts := testParts("one")
		parts.Config.Timeout = 200 * time.Millisecond
		one, two := p.open(t, proxy.Address(), parts), p.locker(t, "two")
		released(t, acquired(t, one, "anna", "n", time.Minute))
		held := acquired(t, one, "anna", "held", time.Minute)
		proxy.Silence(true)
		began := time.Now()
		if s, err := one.Acquire(by(t, "anna"), "n", p.ttl); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("got %v %v", s, err)
		}
		if err := held.Release(t.Context()); errs.KindOf(err) != errs.Unavailable || !over(held) {
			t.Errorf("release: %v", err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("took %v", took)
		}
		proxy.Silence(false)
		released(t, acquired(t, two, "bert", "n", time.Minute, Wait(20*time.Second)))
		for held.Release(t.Context()) != nil { // the client needs a moment to connect again
			if t.Context().Err() != nil || time.Since(began) > 20*time.Second {
				t.Fatal("the release cannot be made good")
			}
		}
		released(t, acquired(t, two, "bert", "held", time.Minute))
	})
}
