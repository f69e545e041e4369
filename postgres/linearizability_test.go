package postgres_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/postgres"
	"github.com/osse101/usercache/postgres/pgtest"
	"github.com/osse101/usercache/repositorytest/histories"
)

// A cache over this repository is linearizable, also when writes are cancelled
// while they run: whether they are applied, and when, only the server knows.
func TestCachedIsLinearizable(t *testing.T) {
	const n = 60
	calls, hits := 0, uint64(0)
	for seed := range uint64(n) {
		// A cancelled write may come through when the history is over, so each
		// has a database of its own.
		pool, err := pgxpool.New(t.Context(), pgtest.DSN(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := postgres.Migrate(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		chaos := histories.NewChaos(postgres.New(pool), seed)
		opts := []usercache.Option{usercache.WithRejected(postgres.Rejected), usercache.WithTTL(time.Hour), usercache.WithUncertainty(time.Hour)}
		o := histories.Options{
			Seed: seed, Workers: 6, Calls: 30, Writes: 0.06,
			Rejected: postgres.Rejected,
		}
		switch seed % 3 {
		case 0:
			o.Cancelled = 0.2
		case 1:
			chaos.Faults, chaos.FaultRate = histories.Late|histories.Applied|histories.Dropped, 0.05
		}
		if seed%2 == 0 {
			opts = append(opts, usercache.WithPreciseUsernames())
		}
		c, err := usercache.New(chaos, usercache.UserSchema(), opts...)
		if err != nil {
			t.Fatal(err)
		}
		h, err := histories.Record(t.Context(), c, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Check(); err != nil {
			t.Fatal(err)
		}
		calls += h.Len()
		hits += c.Stats().TotalHits()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		pool.Close()
	}
	t.Logf("%d histories of %d calls, %d of them answered from memory", n, calls, hits)
	if hits < uint64(calls)/10 {
		t.Error("so few hits prove little")
	}
}
