package usercache_test

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/repositorytest"
	"github.com/osse101/usercache/repositorytest/histories"
)

// history records one history of a cache, whose options and disturbances
// depend on the seed, and returns how many lookups memory answered.
func history(t *testing.T, seed uint64) (histories.History, usercache.Stats) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 0))
	chaos := histories.NewChaos(repositorytest.NewMemory(), seed)
	opts := []usercache.Option{usercache.WithTTL(time.Hour)}
	switch random.IntN(4) {
	case 0: // writes that fail and are applied later: the window covers them
		chaos.Faults, chaos.FaultRate = histories.Late|histories.Applied|histories.Dropped, 0.05
		opts = append(opts, usercache.WithUncertainty(time.Hour))
	case 1: // writes that are applied before they fail need no window
		chaos.Faults, chaos.FaultRate = histories.Applied|histories.Dropped, 0.2
		opts = append(opts, usercache.WithUncertainty(time.Duration(random.IntN(20))*time.Microsecond))
	}
	if random.IntN(2) == 0 {
		opts = append(opts, usercache.WithPreciseUsernames())
	}
	if random.IntN(2) == 0 {
		opts = append(opts, usercache.WithSize(1+random.IntN(8)))
	}
	if random.IntN(4) == 0 {
		opts = append(opts, usercache.WithTTL(50*time.Microsecond), usercache.WithNegativeTTL(30*time.Microsecond))
	}
	opts = append(opts, usercache.WithRejected(repositorytest.Rejected))
	c, err := usercache.New(chaos, usercache.UserSchema(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	o := histories.Options{Seed: seed, Workers: 2 + random.IntN(6), Calls: 40, Writes: 0.02 + 0.15*random.Float64(), Rejected: repositorytest.Rejected}
	if random.IntN(3) == 0 {
		o.Disturb = func(random *rand.Rand) {
			switch random.IntN(4) {
			case 0:
				c.Flush()
			case 1:
				c.SetEnabled(random.IntN(2) == 0)
			case 2:
				c.Invalidate(usercache.Identity{Usernames: []string{"ann"}})
			default:
				c.SetEnabled(true)
			}
		}
	}
	h, err := histories.Record(t.Context(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	return h, c.Stats()
}

// However lookups and writes meet, there is an order of them in which every
// answer is that of a repository that does one thing at a time.
func TestLinearizable(t *testing.T) {
	n, budget := 2000, time.Duration(0)
	if s := os.Getenv("USERCACHE_SOAK"); s != "" {
		var err error
		if budget, err = time.ParseDuration(s); err != nil {
			t.Fatalf("USERCACHE_SOAK=%q: must be a duration, such as 10m", s)
		}
	}
	calls, hits := 0, uint64(0)
	began := time.Now()
	first := uint64(0)
	if budget > 0 {
		first = rand.Uint64()
	}
	done := 0
	for ; done < n || time.Since(began) < budget; done++ {
		h, stats := history(t, first+uint64(done))
		if err := h.Check(); err != nil {
			t.Fatal(err)
		}
		calls += h.Len()
		hits += stats.TotalHits()
	}
	t.Logf("%d histories of %d calls, %d of them answered from memory, in %v", done, calls, hits, time.Since(began).Round(time.Second))
	if hits < uint64(calls)/10 {
		t.Error("so few hits prove little")
	}
}
