package usercache_test

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/repositorytest"
)

// benchmarked is a cache over n users who have one account each.
func benchmarked(b *testing.B, n int, opts ...usercache.Option) *cache {
	b.Helper()
	repo := repositorytest.NewMemory()
	for i := range n {
		u := user{Username: fmt.Sprint("user", i), Accounts: []usercache.Account{{Platform: "twitch", ID: strconv.Itoa(i), Username: fmt.Sprint("user", i)}}}
		if err := repo.UpsertUser(context.Background(), &u); err != nil {
			b.Fatal(err)
		}
	}
	c, err := usercache.New(repo, usercache.UserSchema(), append([]usercache.Option{usercache.WithPreciseUsernames()}, opts...)...)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := c.Close(); err != nil {
			b.Error(err)
		}
	})
	return c
}

func lookUp(b *testing.B, c *cache, platformID string) {
	if _, err := c.GetUserByPlatformID(context.Background(), "twitch", platformID); err != nil {
		b.Error(err)
	}
}

func BenchmarkHit(b *testing.B) {
	c := benchmarked(b, 1)
	lookUp(b, c, "0")
	b.ReportAllocs()
	for b.Loop() {
		lookUp(b, c, "0")
	}
}

func BenchmarkHitParallel(b *testing.B) {
	const users = 1000
	c := benchmarked(b, users)
	ids := make([]string, users)
	for i := range ids {
		ids[i] = strconv.Itoa(i)
		lookUp(b, c, ids[i])
	}
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for i := 0; p.Next(); i++ {
			lookUp(b, c, ids[i%users])
		}
	})
}

func BenchmarkHitNotFound(b *testing.B) {
	c := benchmarked(b, 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.GetUserByPlatformID(context.Background(), "twitch", "0"); err == nil {
			b.Fatal("somebody was found")
		}
	}
}

// Every lookup misses, and evicts another user's answer.
func BenchmarkMiss(b *testing.B) {
	const users = 8 // the fake walks through all of them
	c := benchmarked(b, users, usercache.WithSize(users-1))
	ids := make([]string, users)
	for i := range ids {
		ids[i] = strconv.Itoa(i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		lookUp(b, c, ids[i%users])
	}
}

// Every write drops the answers to one user's lookups, which are then loaded
// anew.
func BenchmarkUpdateAndLookUp(b *testing.B) {
	c := benchmarked(b, 1)
	u, err := c.GetUserByPlatformID(context.Background(), "twitch", "0")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := c.UpdateUser(context.Background(), *u); err != nil {
			b.Fatal(err)
		}
		lookUp(b, c, "0")
	}
}

// What the repository itself takes, for comparison: here it is no database,
// but a map.
func BenchmarkWithoutCache(b *testing.B) {
	c := benchmarked(b, 1)
	ctx := usercache.Fresh(context.Background())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.GetUserByPlatformID(ctx, "twitch", "0"); err != nil {
			b.Fatal(err)
		}
	}
}

// A million names that nobody has: what they leave behind in memory, and how
// many of a hundred users they push out.
func BenchmarkFloodOfUnknownNames(b *testing.B) {
	const flood = 1_000_000
	for range b.N {
		b.StopTimer()
		c := benchmarked(b, 100)
		for i := range 100 {
			lookUp(b, c, strconv.Itoa(i))
		}
		nobody, err := usercache.New(&nobodyHome{}, usercache.UserSchema())
		if err != nil {
			b.Fatal(err)
		}
		heap := heapInUse()
		b.StartTimer()
		for i := range flood {
			if _, err := nobody.GetUserByPlatformID(context.Background(), "twitch", "nobody"+strconv.Itoa(i)); err == nil {
				b.Fatal("somebody was found")
			}
		}
		b.StopTimer()
		b.ReportMetric(float64(heapInUse()-heap), "B-left")
		b.ReportMetric(float64(nobody.Stats().Size.NotFound), "answers-left")
		if err := nobody.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// Half a million entries expire at once, are dropped, and a hot user is looked
// up meanwhile: the slowest of those lookups, against the slowest of as many
// while nothing expires.
func BenchmarkHitsWhileManyExpire(b *testing.B) {
	const many = 500_000
	repo := &nobodyHome{}
	for i := range many {
		id := strconv.Itoa(i)
		repo.known.Store(id, user{ID: id})
	}
	for range b.N {
		b.StopTimer()
		c, err := usercache.New(repo, usercache.UserSchema(), usercache.WithSize(many), usercache.WithTTLJitter(0), usercache.WithTTL(5*time.Second))
		if err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		for i := 1; i < many; i++ {
			if _, err := c.GetUserByID(context.Background(), strconv.Itoa(i)); err != nil {
				b.Fatal(err)
			}
		}
		filled := time.Since(began)
		slowest := func(until func() bool) (worst time.Duration) {
			for !until() {
				began := time.Now()
				if _, err := c.GetUserByID(context.Background(), "0"); err != nil {
					b.Fatal(err)
				}
				worst = max(worst, time.Since(began))
			}
			return worst
		}
		if left := 5*time.Second - time.Since(began); left > 0 {
			<-time.After(left + filled)
		}
		b.StartTimer()
		goroutines, most := runtime.NumGoroutine(), 0
		done := background(func() { c.Stats() })
		during := slowest(func() bool {
			most = max(most, runtime.NumGoroutine()-goroutines)
			select {
			case <-done:
				return true
			default:
				return false
			}
		})
		b.StopTimer()
		quiet := time.Now().Add(b.Elapsed() / time.Duration(b.N))
		baseline := slowest(func() bool { return time.Now().After(quiet) })
		b.ReportMetric(float64(during.Microseconds()), "slowest-µs")
		b.ReportMetric(float64(baseline.Microseconds()), "slowest-when-quiet-µs")
		b.ReportMetric(float64(most), "goroutines-more")
		b.ReportMetric(float64(c.Stats().Evictions.Expired), "expired")
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
