package usercache_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osse101/usercache"
)

// Set-up: a load has read old and is on its way back when a write runs from
// beginning to end; by each kind of lookup, and with nobody for old.
// Hazard: the load stores old after the write has cleared it.
// Outcome: the load's caller gets old, which it asked for before the write; it
// is not stored, and whoever asks next gets new.
func TestScenario01LoadReadsOldWriteReturnsLoadFinishes(t *testing.T) {
	for i, method := range methods {
		t.Run(method, func(t *testing.T) {
			s := newStage(t)
			u := s.add("old", account("tw", "1"))
			q := asking(u)[i]
			load := s.hold(method, true)
			done := background(func() { s.sees(q, "old") })
			<-load.reached
			u.Username = "new"
			s.must(s.UpdateUser(t.Context(), u))
			close(load.release)
			<-done
			s.sees(q, "new")
			if r := s.Stats().Lookups; r.ID.RefusedFills+r.PlatformID.RefusedFills+r.PlatformUsername.RefusedFills != 1 {
				t.Errorf("refused fills: %+v", r)
			}
		})
	}
	for i, q := range []question{byAccount("tw", "1"), byUsername("tw", "1_name")} {
		t.Run("deleted by "+q.name, func(t *testing.T) { // by a write that names the ID alone
			s := newStage(t)
			u := s.add("old", account("tw", "1"))
			load := s.hold(methods[i+1], true)
			done := background(func() { s.sees(q, "old") })
			<-load.reached
			s.must(s.DeleteUser(t.Context(), u.ID))
			close(load.release)
			<-done
			s.sees(q, "")
		})
	}
	for i, q := range []question{byAccount("tw", "1"), byUsername("tw", "new")} {
		t.Run("nobody by "+q.name, func(t *testing.T) {
			s := newStage(t)
			load := s.hold(methods[i+1], true)
			done := background(func() { s.sees(q, "") })
			<-load.reached
			s.must(s.UpsertUser(t.Context(), &user{Username: "new", Accounts: []usercache.Account{account("tw", "1")}}))
			close(load.release)
			<-done
			s.sees(q, "new")
		})
	}
}

// Set-up: a load has read old; a write runs and returns; then another caller
// asks the same, while the load is still on its way.
// Hazard: the second caller joins the load and gets old after the write.
// Outcome: it starts a load of its own and gets new.
func TestScenario02NoJoiningALoadFromBeforeTheWrite(t *testing.T) {
	for i, method := range methods {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // where whoever joins waits for ever
				s := newStage(t, usercache.WithLoadTimeout(0))
				u := s.add("old", account("tw", "1"))
				q := asking(u)[i]
				load := s.hold(method, true)
				done := background(func() { s.sees(q, "old") })
				<-load.reached
				u.Username = "new"
				s.must(s.UpdateUser(t.Context(), u))
				s.sees(q, "new")
				close(load.release)
				<-done
				s.sees(q, "new")
				if n := s.Stats().Lookups; n.ID.Coalesced+n.PlatformID.Coalesced+n.PlatformUsername.Coalesced != 0 {
					t.Errorf("coalesced: %+v", n)
				}
			})
		})
	}
}

// Set-up: old is cached under all names. A write has committed and has yet to
// return. One reader sees new.
// Hazard: a later reader, by another kind of lookup, still hits old.
// Outcome: during the write everybody is answered by the repository.
func TestScenario03OnceNewIsSeenNobodySeesOld(t *testing.T) {
	s := newStage(t)
	u := s.add("old", account("tw", "1"))
	for _, q := range asking(u)[:3] {
		s.sees(q, "old")
	}
	write := s.hold("UpdateUser", true)
	done := background(func() {
		v := u
		v.Username = "new"
		s.must(s.UpdateUser(t.Context(), v))
	})
	<-write.reached
	for range 2 {
		for _, q := range asking(u)[:3] {
			s.sees(q, "new")
		}
	}
	if b := s.Stats().Bypasses.Fenced; b != 6 {
		t.Errorf("%d lookups met the fence, want 6", b)
	}
	close(write.release)
	<-done
	s.agrees(asking(u)...)
}

// Set-up: two writes of one user; the first commits first and returns last.
// Hazard: its return leaves the cache with what it wrote, or lets a load from
// between the two be stored.
// Outcome: afterwards the cache agrees with the repository.
func TestScenario04WritersReturnInAnotherOrder(t *testing.T) {
	s := newStage(t)
	u := s.add("old", account("tw", "1"))
	write := func(name string) (*held, <-chan struct{}) {
		h := s.hold("UpdateUser", true)
		v := u
		v.Username = name
		done := background(func() { s.must(s.UpdateUser(t.Context(), v)) })
		<-h.reached
		return h, done
	}
	first, firstDone := write("first")
	between := s.hold("GetUserByID", true)
	done := background(func() { s.sees(byID(u.ID), "first") })
	<-between.reached
	second, secondDone := write("second")
	close(second.release)
	<-secondDone
	s.sees(byID(u.ID), "second") // the first has yet to return
	close(between.release)
	<-done
	close(first.release)
	<-firstDone
	s.sees(byID(u.ID), "second")
	s.agrees(asking(u)...)
}

// Set-up: a load has found nobody under an account, or a name, and is on its
// way back when that user is created.
// Hazard: nobody is stored, and the new user is not found for the negative TTL.
// Outcome: the next lookup finds the user. The same where the create has
// committed and has yet to return.
func TestScenario05CreateCommitsDuringALoadOfNobody(t *testing.T) {
	for i, q := range []question{byAccount("tw", "1"), byUsername("tw", "1_name"), byUsername("tw", "new")} {
		t.Run(q.name, func(t *testing.T) {
			s := newStage(t)
			s.sees(q, "") // known to be nobody
			s.Flush()
			load := s.hold(methods[min(i, 1)+1], true)
			done := background(func() { s.sees(q, "") })
			<-load.reached
			create := s.hold("UpsertUser", true)
			created := background(func() {
				s.must(s.UpsertUser(t.Context(), &user{Username: "new", Accounts: []usercache.Account{account("tw", "1")}}))
			})
			<-create.reached
			s.sees(q, "new")
			close(load.release)
			<-done
			s.sees(q, "new")
			close(create.release)
			<-created
			s.sees(q, "new")
			s.sees(q, "new")
		})
	}
}

// Set-up: a load has read old. While it is on its way a write runs, and then
// the cache, which holds two answers, is filled by others many times over; or
// it is flushed before that and after it.
// Hazard: what remembers the write is evicted or flushed with the answers.
// Outcome: the load is refused all the same.
func TestScenario06FencesSurviveEvictionAndFlush(t *testing.T) {
	for name, flush := range map[string]bool{"eviction": false, "flush": true} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, usercache.WithSize(2))
			u := s.add("old", account("tw", "1"))
			var others []user
			for i := range 10 {
				others = append(others, s.add(fmt.Sprint("other", i), account("tw", strconv.Itoa(i+2))))
			}
			fill := func() {
				for _, o := range others {
					s.sees(byID(o.ID), o.Username)
				}
				if flush {
					s.Flush()
				}
			}
			fill()
			load := s.hold("GetUserByPlatformID", true)
			done := background(func() { s.sees(byAccount("tw", "1"), "old") })
			<-load.reached
			u.Username = "new"
			s.must(s.UpdateUser(t.Context(), u))
			fill()
			fill()
			close(load.release)
			<-done
			s.sees(byAccount("tw", "1"), "new")
		})
	}
}

// Set-up: one user is written again and again by four writers, without a
// pause, while four readers ask for it.
// Hazard: readers start over for ever because writes keep coming, or every
// reader asks the repository several times.
// Outcome: readers go on, and no lookup costs more than four calls.
func TestScenario07ReadersMakeProgressUnderWrites(t *testing.T) {
	s := newStage(t)
	u := s.add("hot", account("tw", "1"))
	var stop atomic.Bool
	var writers, readers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for !stop.Load() {
				if err := s.UpdateUser(t.Context(), u); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	const each = 500
	for range 4 {
		readers.Go(func() {
			for range each {
				s.sees(byAccount("tw", "1"), "hot")
			}
		})
	}
	readers.Wait()
	stop.Store(true)
	writers.Wait()
	if n := s.count("GetUserByPlatformID"); n > 4*4*each {
		t.Errorf("%d lookups cost %d calls", 4*each, n)
	}
}

// Set-up: a write fails after it was cancelled, and commits a second later.
// Old was cached before.
// Hazard: old is read and stored between failure and commit, and served after.
// Outcome: within the window every lookup goes to the repository, so that it
// sees old until the commit and new from then on; after the window too. A load
// that began inside the window, before the commit, is not stored after it.
func TestScenario14CancelledCommitLandsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, usercache.WithUncertainty(5*time.Second), usercache.WithLoadTimeout(0))
		u := s.add("old", account("tw", "1"))
		q := byAccount("tw", "1")
		s.sees(q, "old")
		s.fail("UpdateUser", false, context.Canceled)
		v := u
		v.Username = "new"
		if err := s.UpdateUser(t.Context(), v); !errors.Is(err, context.Canceled) {
			t.Fatalf("the write: %v", err)
		}
		s.sees(q, "old")
		<-time.After(time.Second)
		s.sees(q, "old")
		late := s.hold("GetUserByPlatformID", true)
		done := background(func() { s.sees(q, "old") })
		<-late.reached
		s.must(s.repo.UpdateUser(t.Context(), v)) // the commit
		s.sees(q, "new")
		<-time.After(3 * time.Second)
		s.sees(q, "new")
		<-time.After(2 * time.Second) // the window is over
		s.sees(q, "new")
		close(late.release)
		<-done
		s.sees(q, "new")
		if hits := s.Stats().TotalHits(); hits == 0 {
			t.Error("after the window nothing is cached")
		}
		s.agrees(asking(v)...)
	})
}
