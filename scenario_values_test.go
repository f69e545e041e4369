package usercache_test

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osse101/usercache"
)

// Set-up: callers overwrite all that they can reach of what a miss, a hit and
// a shared load gave them, and of what they gave to a write; some give nil.
// Hazard: they share memory with the cache, or with each other.
// Outcome: later lookups are unaffected; a nil user is an error.
func TestScenario18Vandals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		given := user{Username: "ann", Accounts: []usercache.Account{account("tw", "1")}}
		s.must(s.UpsertUser(t.Context(), &given))
		id := given.ID
		vandalise := func(u *user) {
			u.Username = "vandal"
			u.Accounts[0] = usercache.Account{Platform: "xx", ID: "vandal"}
			u.Accounts = append(u.Accounts, usercache.Account{Platform: "yy"})
		}
		vandalise(&given)
		for range 3 {
			u := s.sees(byID(id), "ann")
			if len(u.Accounts) != 1 || u.Accounts[0] != account("tw", "1") {
				t.Errorf("somebody's changes show: %+v", u)
			}
			vandalise(u)
		}
		s.Flush()
		load := s.hold("GetUserByID", false)
		var together sync.WaitGroup
		for range 5 {
			together.Go(func() {
				u := s.sees(byID(id), "ann")
				if u.Accounts[0] != account("tw", "1") {
					t.Errorf("somebody's changes show: %+v", u)
				}
				vandalise(u)
			})
		}
		synctest.Wait()
		close(load.release)
		together.Wait()
		if s.Stats().Lookups.ID.Coalesced != 4 {
			t.Errorf("not shared: %+v", s.Stats().Lookups.ID)
		}
		if err := s.UpsertUser(t.Context(), nil); err == nil {
			t.Error("a nil user is no error")
		}
		s.agrees(byID(id), byAccount("tw", "1"))
	})
}

// Set-up: one user is looked up every second, without a pause.
// Hazard: each hit extends the entry's life, and a write elsewhere is never
// seen.
// Outcome: the entry expires at its TTL, counted from the start of its load,
// which itself took a while.
func TestScenario19ConstantHitsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, usercache.WithTTL(time.Minute), usercache.WithTTLJitter(0))
		u := s.add("old", account("tw", "1"))
		load := s.hold("GetUserByID", true)
		done := background(func() { s.sees(byID(u.ID), "old") })
		<-load.reached
		u.Username = "new"
		s.must(s.repo.UpdateUser(t.Context(), u)) // that nobody tells the cache of
		<-time.After(4500 * time.Millisecond)
		close(load.release)
		<-done
		for range 55 {
			<-time.After(time.Second)
			s.sees(byID(u.ID), "old")
		}
		<-time.After(time.Second)
		s.sees(byID(u.ID), "new")
	})
}

// Set-up: a cache of one answer; one whose answers live for a nanosecond; an
// answer that is evicted while another load of it runs; hours that pass.
// Hazard: bookkeeping that assumes some room or some time.
// Outcome: every answer is right.
func TestScenario20Extremes(t *testing.T) {
	for name, opts := range map[string][]usercache.Option{
		"size 1":   {usercache.WithSize(1)},
		"TTL 1 ns": {usercache.WithTTL(1), usercache.WithNegativeTTL(1)},
		"both":     {usercache.WithSize(1), usercache.WithTTL(1)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, opts...)
				ann, ben := s.add("ann", account("tw", "1")), s.add("ben", account("tw", "2"))
				qs := append(append(asking(ann), asking(ben)...), byAccount("tw", "nobody"))
				s.agrees(qs...)
				s.Flush()
				load := s.hold("GetUserByPlatformID", true)
				done := background(func() { s.sees(byAccount("tw", "1"), "ann") })
				<-load.reached
				s.sees(byID(ann.ID), "ann") // each evicts the other
				s.sees(byID(ben.ID), "ben")
				ann.Username = "anna"
				s.must(s.UpdateUser(t.Context(), ann))
				close(load.release)
				<-done
				s.sees(byAccount("tw", "1"), "anna")
				<-time.After(time.Hour)
				s.agrees(qs...)
				if n := s.Stats().Size.Found; n > uint64(s.Stats().Capacity) {
					t.Errorf("%d answers", n)
				}
			})
		})
	}
}

// Set-up: a hundred users are cached; then names that nobody has are looked
// up, a hundred times as many as there is room for.
// Hazard: they push the users out, or memory grows with them.
// Outcome: the users are still there, and no more not-found answers than the
// size allows.
func TestScenario21FloodOfUnknownNames(t *testing.T) {
	const flood = 100_000 // BenchmarkFloodOfUnknownNames asks for a million
	unknown := &nobodyHome{}
	c, err := usercache.New(unknown, usercache.UserSchema(), usercache.WithSize(1000))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	askAll := func() {
		for i := range 100 {
			if _, err := c.GetUserByID(t.Context(), strconv.Itoa(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 100 {
		unknown.known.Store(strconv.Itoa(i), user{ID: strconv.Itoa(i)})
	}
	askAll()
	heap := heapInUse()
	for i := range flood {
		if _, err := c.GetUserByPlatformID(t.Context(), "tw", "nobody"+strconv.Itoa(i)); !errors.Is(err, usercache.ErrUserNotFound) {
			t.Fatal(err)
		}
	}
	if grown := heapInUse() - heap; grown > 1<<20 {
		t.Errorf("memory grew by %d bytes", grown)
	}
	if st := c.Stats(); st.Size.NotFound > 1000 || st.Size.Found != 100 {
		t.Errorf("%+v", st.Size)
	}
	before := c.Stats().TotalHits()
	askAll()
	if hits := c.Stats().TotalHits() - before; hits != 100 {
		t.Errorf("%d of 100 users are still cached", hits)
	}
}

// nobodyHome is a repository of users by ID that finds nobody otherwise.
type nobodyHome struct {
	usercache.Repository[user]
	known sync.Map
}

func (r *nobodyHome) GetUserByID(_ context.Context, id string) (*user, error) {
	u, _ := r.known.Load(id)
	found := u.(user)
	return &found, nil
}

func (*nobodyHome) GetUserByPlatformID(context.Context, string, string) (*user, error) {
	return nil, usercache.ErrUserNotFound
}

func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Set-up: a write is under way while the cache is disabled; it is enabled
// before the write ends, and a load runs in between.
// Hazard: a disabled cache raises no fence, and the load's old answer stays.
// Outcome: the old answer is not stored.
func TestScenario22aEnabledDuringAWrite(t *testing.T) {
	s := newStage(t)
	u := s.add("old", account("tw", "1"))
	s.SetEnabled(false)
	write := s.hold("UpdateUser", false)
	v := u
	v.Username = "new"
	written := background(func() { s.must(s.UpdateUser(t.Context(), v)) })
	<-write.reached
	s.SetEnabled(true)
	load := s.hold("GetUserByID", true)
	loaded := background(func() { s.sees(byID(u.ID), "old") })
	<-load.reached
	close(write.release)
	<-written
	close(load.release)
	<-loaded
	s.sees(byID(u.ID), "new")
	s.agrees(asking(v)...)
}

// Set-up: a cache is closed, twice, while a load, a write and a lookup of a
// bypass are under way.
// Hazard: a panic, a hang, a leak, or a lookup without an answer.
// Outcome: all end as if nothing had happened, and every later call goes to
// the repository.
func TestScenario22Close(t *testing.T) {
	s := newStage(t)
	u := s.add("old", account("tw", "1"))
	load := s.hold("GetUserByID", true)
	loaded := background(func() { s.sees(byID(u.ID), "old") })
	<-load.reached
	write := s.hold("UpdateUser", false)
	v := u
	v.Username = "new"
	written := background(func() { s.must(s.UpdateUser(t.Context(), v)) })
	<-write.reached
	bypass := s.hold("GetUserByPlatformID", true)
	bypassed := background(func() { s.sees(byAccount("tw", "1"), "old") })
	<-bypass.reached
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	s.sees(byUsername("tw", "old"), "old")
	close(load.release)
	close(write.release)
	close(bypass.release)
	<-loaded
	<-written
	<-bypassed
	for range 2 {
		s.sees(byID(u.ID), "new")
	}
	s.SetEnabled(true)
	s.must(s.DeleteUser(t.Context(), u.ID))
	s.sees(byID(u.ID), "")
	if st := s.Stats(); st.TotalHits() != 0 || st.Size.Found != 0 || st.Enabled || st.Bypasses.Closed != 4 {
		t.Errorf("%+v", st)
	}
}

// Set-up: very many entries expire at the same moment, while a hot user is
// looked up.
// Hazard: whoever drops them holds the lock for all of them, or starts a
// goroutine for each.
// Outcome: the hot user is answered throughout, no goroutine is started, and
// the entries are all gone in the end. (How long the hits take is measured by
// BenchmarkHitsWhileManyExpire, since a test cannot tell.)
func TestScenario23ManyExpireAtOnce(t *testing.T) {
	const many = 50_000
	synctest.Test(t, func(t *testing.T) {
		repo := &nobodyHome{}
		c, err := usercache.New(repo, usercache.UserSchema(), usercache.WithSize(many+1), usercache.WithTTLJitter(0))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for i := range many {
			id := strconv.Itoa(i)
			repo.known.Store(id, user{ID: id})
			if _, err := c.GetUserByID(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(time.Minute)
		repo.known.Store("hot", user{ID: "hot"})
		if _, err := c.GetUserByID(t.Context(), "hot"); err != nil {
			t.Fatal(err)
		}
		<-time.After(4 * time.Minute) // all but the hot one are over
		goroutines := runtime.NumGoroutine()
		hits := c.Stats().TotalHits()
		var stop atomic.Bool
		purged := background(func() {
			defer stop.Store(true)
			if n := c.Stats().Size.Found; n != 1 {
				t.Errorf("%d entries are left", n)
			}
		})
		asked := uint64(0)
		for !stop.Load() || asked == 0 {
			if _, err := c.GetUserByID(t.Context(), "hot"); err != nil {
				t.Error(err)
			}
			if n := runtime.NumGoroutine(); n > goroutines+1 {
				t.Errorf("%d goroutines, %d before", n, goroutines)
			}
			asked++
			runtime.Gosched()
		}
		<-purged
		if n := c.Stats().TotalHits() - hits; n != asked {
			t.Errorf("%d of %d lookups were hits", n, asked)
		}
		if e := c.Stats().Evictions; e.Expired != many {
			t.Errorf("%d expired, want %d", e.Expired, many)
		}
	})
}
