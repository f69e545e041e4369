package usercache_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osse101/usercache"
)

// Set-up: lookups that fail by a time-out, a cancellation, or an error of the
// driver, wrapped and not; and a write that fails after it was applied.
// Hazard: an error is stored as nobody; a failed write leaves old in place.
// Outcome: the next lookup asks the repository; after the write it finds new.
func TestScenario13ErrorsAreNotNobody(t *testing.T) {
	for _, failure := range []error{context.DeadlineExceeded, context.Canceled, errors.New("driver: bad connection"), fmt.Errorf("%w while looking for: %w", context.Canceled, usercache.ErrUserNotFound)} {
		s := newStage(t, usercache.WithUncertainty(0))
		u := s.add("old", account("tw", "1"))
		for i, q := range asking(u)[:3] {
			s.fail(methods[i], false, failure)
			if got, err := q.ask(t.Context(), s.cache); !errors.Is(err, failure) || got != nil {
				t.Errorf("%s: %v, %v", q.name, got, err)
			}
			s.sees(q, "old")
			s.sees(q, "old")
		}
		if hits := s.Stats().TotalHits(); hits != 3 {
			t.Errorf("%v: %d hits, want 3", failure, hits)
		}
		s.fail("UpdateUser", true, failure)
		u.Username = "new"
		if err := s.UpdateUser(t.Context(), u); !errors.Is(err, failure) {
			t.Errorf("the write: %v", err)
		}
		for _, q := range asking(u)[:2] {
			s.sees(q, "new")
		}
	}
}

// Set-up: a load fails because a context of the repository's own was cancelled;
// another caller waits for it.
// Hazard: the other caller is told that its context has ended, which it has
// not.
// Outcome: it starts over, and gets the user.
func TestScenario13CancelledLoadIsNobodyElses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		u := s.add("ann", account("tw", "1"))
		load := s.hold("GetUserByID", false)
		load.err = context.Canceled
		starter := background(func() {
			if _, err := s.GetUserByID(t.Context(), u.ID); !errors.Is(err, context.Canceled) {
				t.Errorf("the caller whose load it was: %v", err)
			}
		})
		<-load.reached
		waiter := background(func() { s.sees(byID(u.ID), "ann") })
		synctest.Wait()
		close(load.release)
		<-starter
		<-waiter
	})
}

// Set-up: the repository panics, or calls runtime.Goexit, in a lookup that
// others wait for, and in a write.
// Hazard: waiters hang, fences stay up for ever, or the next call finds
// something half done.
// Outcome: the caller gets the panic, the others their answer; after the
// uncertainty window hits come back.
func TestScenario15PanicAndGoexit(t *testing.T) {
	for name, explode := range map[string]func(){"panic": func() { panic("boom") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				u := s.add("ann", account("tw", "1"))
				before := s.repo.Before
				first := true
				entered, release := make(chan struct{}), make(chan struct{})
				s.repo.Before = func(ctx context.Context, method string) error {
					if first {
						first = false
						close(entered)
						<-release
						explode()
					}
					return before(ctx, method)
				}
				// survived reports whether f returned.
				survived := func(f func()) (returned bool) {
					var wg sync.WaitGroup
					wg.Go(func() {
						defer func() { _ = recover() }()
						f()
						returned = true
					})
					wg.Wait()
					return returned
				}
				q := byAccount("tw", "1")
				starter := background(func() {
					if survived(func() { _, _ = q.ask(context.Background(), s.cache) }) {
						t.Error("the caller whose load it was is none the wiser")
					}
				})
				<-entered
				waiter := background(func() { s.sees(q, "ann") })
				synctest.Wait()
				close(release)
				<-starter
				<-waiter
				s.sees(q, "ann")

				first, entered, release = true, make(chan struct{}), make(chan struct{})
				close(release)
				if survived(func() { _ = s.UpdateUser(context.Background(), u) }) {
					t.Error("the caller whose write it was is none the wiser")
				}
				s.must(s.UpdateUser(t.Context(), u))
				s.sees(q, "ann")
				<-time.After(5 * time.Second)
				s.sees(q, "ann")
				hits := s.Stats().TotalHits()
				s.sees(q, "ann")
				if s.Stats().TotalHits() != hits+1 {
					t.Error("a fence is still up after the window")
				}
			})
		})
	}
}

// Set-up: three callers share a load that hangs; the one that started it is
// cancelled, then another, then the last.
// Hazard: the load dies with its starter, or lives on for nobody; a cancelled
// caller has to wait.
// Outcome: each returns at once when its context ends; with the last the load's
// context ends; and the answer reaches whoever still waits.
func TestScenario16Cancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		u := s.add("ann", account("tw", "1"))
		var loading []context.Context
		release := make(chan struct{})
		s.repo.Before = func(ctx context.Context, _ string) error {
			loading = append(loading, ctx)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-release:
				return nil
			}
		}
		ask := func() (context.CancelFunc, <-chan error) {
			ctx, cancel := context.WithCancel(t.Context())
			answered := make(chan error, 1)
			go func() {
				_, err := s.GetUserByID(ctx, u.ID)
				answered <- err
			}()
			synctest.Wait()
			return cancel, answered
		}
		began := time.Now()
		for _, last := range []bool{false, true} {
			loading = nil
			var cancels []context.CancelFunc
			var answers []<-chan error
			for range 3 {
				cancel, answered := ask()
				cancels, answers = append(cancels, cancel), append(answers, answered)
			}
			for i := range 2 { // the starter first
				cancels[i]()
				if err := <-answers[i]; !errors.Is(err, context.Canceled) {
					t.Errorf("caller %d: %v", i, err)
				}
				if loading[0].Err() != nil {
					t.Errorf("the load ended with caller %d", i)
				}
			}
			if last {
				close(release)
				if err := <-answers[2]; err != nil {
					t.Errorf("the last caller: %v", err)
				}
			}
			cancels[2]()
			synctest.Wait()
			if !last {
				if err := <-answers[2]; !errors.Is(err, context.Canceled) || loading[0].Err() == nil {
					t.Errorf("the last caller: %v, its load: %v", err, loading[0].Err())
				}
			}
			if len(loading) != 1 {
				t.Errorf("%d loads, want one", len(loading))
			}
		}
		if time.Since(began) != 0 {
			t.Errorf("somebody waited %v", time.Since(began))
		}
	})
}

// Set-up: ann is cached, ben is not; the database is gone for an hour, then
// back, with a hundred callers waiting.
// Hazard: hits fail with the misses; an error is kept; or all callers rush to
// the database that has just come back.
// Outcome: ann is answered until her TTL, ben's lookups return the
// repository's error, and on recovery one load serves all.
func TestScenario17Outage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, usercache.WithTTL(10*time.Minute), usercache.WithTTLJitter(0))
		ann, ben := s.add("ann", account("tw", "1")), s.add("ben", account("tw", "2"))
		s.sees(byID(ann.ID), "ann")
		gone := errors.New("connection refused")
		s.repo.Before = func(context.Context, string) error { return gone }
		for range 9 {
			<-time.After(time.Minute)
			s.sees(byID(ann.ID), "ann")
			if _, err := s.GetUserByID(t.Context(), ben.ID); !errors.Is(err, gone) {
				t.Errorf("a miss: %v", err)
			}
		}
		<-time.After(time.Minute)
		if _, err := s.GetUserByID(t.Context(), ann.ID); !errors.Is(err, gone) {
			t.Errorf("after the TTL: %v", err)
		}

		loads := 0
		back := make(chan struct{})
		s.repo.Before = func(context.Context, string) error {
			loads++
			<-back
			return nil
		}
		for range 100 {
			go s.sees(byID(ben.ID), "ben")
		}
		synctest.Wait()
		close(back)
		synctest.Wait()
		if loads != 1 {
			t.Errorf("%d loads at once of one user", loads)
		}
	})
}
