package coherence

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// row is a user in the fake database of TestHistories: a version that grows
// with each write.
type row struct {
	mu        sync.Mutex
	committed int64
	// floor is the newest version that a finished write has made or a
	// finished read has seen. A read that begins now may see no older one.
	floor atomic.Int64
}

func (r *row) raiseFloor(to int64) {
	for {
		at := r.floor.Load()
		if at >= to || r.floor.CompareAndSwap(at, to) {
			return
		}
	}
}

// Whatever races whatever, no read by any key sees an older version of a user
// than a write has acknowledged, or any read by any key has seen, before it
// began. Writers commit somewhere between the call and the return of the
// repository, or fail after they have committed.
func TestHistories(t *testing.T) {
	const (
		users      = 3
		keys       = 3 // lookups of one user, which have nothing but tags in common
		histories  = 20
		operations = 400
	)
	var hits atomic.Int64
	for history := range histories {
		cfg := config()
		cfg.Size = 1 + history%(users*keys+2) // some are always full
		cfg.TTL = []time.Duration{time.Minute, 50 * time.Microsecond}[history%2]
		cfg.Uncertainty = 20 * time.Microsecond
		e := New(cfg)
		rows := make([]row, users)
		var workers sync.WaitGroup
		for worker := range 8 {
			rng := rand.New(rand.NewPCG(uint64(history), uint64(worker)))
			linger := func() {
				for range rng.IntN(4) {
					runtime.Gosched()
				}
			}
			workers.Go(func() {
				for range operations {
					user := rng.IntN(users)
					r := &rows[user]
					if rng.IntN(5) == 0 {
						w, _ := e.Raise(Scope{Tags: []Tag{Tag(user + 1)}})
						linger()
						r.mu.Lock()
						r.committed++
						mine := r.committed
						r.mu.Unlock()
						linger()
						w.Lower(Scope{}, rng.IntN(4) == 0)
						r.raiseFloor(mine)
						continue
					}
					key := fmt.Sprintf("%d by %d", user, rng.IntN(keys))
					floor := r.floor.Load()
					seen, hit, err := readRow(t.Context(), e, key, Tag(user+1), r, linger)
					if err != nil {
						t.Error(err)
						return
					}
					if seen < floor {
						t.Errorf("history %d: a read of user %d saw version %d after version %d was known", history, user, seen, floor)
						return
					}
					if hit {
						hits.Add(1)
					}
					r.raiseFloor(seen)
				}
			})
		}
		workers.Wait()
		if c := e.Counts(); c.LoadsInFlight != 0 {
			t.Errorf("history %d left loads: %+v", history, c)
		}
	}
	if hits.Load() < histories*operations/10 {
		t.Errorf("only %d hits: the histories prove little", hits.Load())
	}
}

func readRow(ctx context.Context, e *engine, key string, answerTag Tag, r *row, linger func()) (seen int64, hit bool, err error) {
	fetch := func(context.Context) Answer[*doc] {
		r.mu.Lock()
		v := r.committed
		r.mu.Unlock()
		return found(strconv.FormatInt(v, 10), answerTag)
	}
	a, hit := e.Lookup(key)
	if !hit {
		res := e.Load(ctx, Request[string, *doc]{
			Key: key, Tags: []Tag{lookupTag(key)},
			Fetch: func(ctx context.Context) Answer[*doc] {
				a := fetch(ctx)
				runtime.Gosched() // between the read and the store
				return a
			},
		})
		linger()
		switch res.Outcome {
		case Fenced:
			a = fetch(ctx)
		case Disabled, Closed, Left:
			return 0, false, errors.New("unexpected outcome")
		default:
			a = res.Answer
		}
	}
	seen, err = strconv.ParseInt(a.Value.text[0], 10, 64)
	return seen, hit, err
}

// lookupTag is a tag of one key alone.
func lookupTag(key string) Tag {
	t := Tag(1 << 32)
	for _, b := range []byte(key) {
		t = t*31 + Tag(b)
	}
	return t
}
