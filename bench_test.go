package usercache_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"

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
