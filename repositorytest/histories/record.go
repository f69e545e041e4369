package histories

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/osse101/usercache"
)

// Options say what a history is made of.
type Options struct {
	// Seed makes the same calls, though never the same meeting of them.
	Seed uint64
	// Workers call at the same time, Calls times each. Both must be at least 1.
	Workers, Calls int
	// Writes is the part of the calls that write.
	Writes float64
	// Cancelled is the part of the writes, creations aside, whose context ends
	// while they run.
	Cancelled float64
	// Disturb is called now and then, between two calls of a worker.
	Disturb func(random *rand.Rand)
	// Rejected says by which errors, besides [usercache.ErrUserNotFound], the
	// repository refuses a write that it has certainly not applied. Required.
	Rejected func(error) bool
}

// outcome is how a call ended.
type outcome int

const (
	done    outcome = iota
	refused         // for want of a user, or because of other users
	failed          // which says nothing about the users
)

// event is a call and what came of it.
type event struct {
	worker       int
	call         call
	began, ended int64
	found        person
	outcome      outcome
	fate         fate
	created      string
	errorText    string
}

// History is what workers did to a repository, and what it answered.
type History struct {
	seed   uint64
	events []event
}

// Len is the number of calls.
func (h History) Len() int { return len(h.events) }

// Record lets workers call an empty repository at random and returns what
// happened. An error says that a lookup returned what nobody has stored, or
// failed for a reason of its own.
func Record(ctx context.Context, repo usercache.Repository[usercache.User], o Options) (History, error) {
	r := &recorder{repo: repo, Options: o, failed: make(chan error, o.Workers)}
	var workers sync.WaitGroup
	r.worker(ctx, o.Workers, []call{ // somebody to begin with, one after another
		{method: upsert, user: person{name: "ann", accounts: [2]account{{}, {"1", "ann"}}}},
		{method: upsert, user: person{name: "ben", accounts: [2]account{{"1", "Ann"}, {"2", "cat"}}}},
		{method: upsert, user: person{name: "cat", accounts: [2]account{{"2", ""}, {}}}},
	}...)
	for w := range o.Workers {
		workers.Go(func() { r.worker(ctx, w) })
	}
	workers.Wait()
	r.late.Wait()
	close(r.failed)
	return History{seed: o.Seed, events: r.events}, <-r.failed
}

type recorder struct {
	Options
	repo   usercache.Repository[usercache.User]
	clock  atomic.Int64 // counts beginnings and ends
	failed chan error
	late   sync.WaitGroup // writes that are applied after they have failed

	mu     sync.Mutex
	events []event
	ids    []string // of all users that were created
}

// worker makes the calls given, or as many random ones as the options say.
func (r *recorder) worker(ctx context.Context, number int, calls ...call) {
	random := rand.New(rand.NewPCG(r.Seed, uint64(number)+2))
	for i := range max(r.Calls, len(calls)) {
		if len(calls) > 0 {
			if i == len(calls) {
				return
			}
			if err := r.do(ctx, number, calls[i], false); err != nil {
				r.failed <- err
				return
			}
			continue
		}
		if r.Disturb != nil && random.IntN(20) == 0 {
			r.Disturb(random)
		}
		c := r.choose(random)
		cancelled := !c.reads() && (c.method != upsert || c.user.id != "") && random.Float64() < r.Cancelled
		if err := r.do(ctx, number, c, cancelled); err != nil {
			r.failed <- err
			return
		}
	}
}

func pick[T any](random *rand.Rand, from []T) T { return from[random.IntN(len(from))] }

// id is that of a user who exists or has existed, or seldom of nobody.
func (r *recorder) id(random *rand.Rand) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Most are of the latest, so that most exist.
	latest := r.ids[max(0, len(r.ids)-5):]
	if random.IntN(10) == 0 || len(latest) == 0 {
		latest = append(slices.Clone(r.ids), "00000000-0000-4000-8000-000000000000")
	}
	return pick(random, latest)
}

// choose invents a call.
func (r *recorder) choose(random *rand.Rand) call {
	if random.Float64() >= r.Writes {
		switch random.IntN(3) {
		case 0:
			return call{method: getByID, id: r.id(random)}
		case 1:
			return call{method: getByAccount, platform: pick(random, platforms), name: pick(random, accountIDs)}
		default:
			return call{method: getByName, platform: pick(random, platforms), name: pick(random, names)}
		}
	}
	p := person{name: pick(random, names)}
	link := func() {
		p.accounts[random.IntN(len(platforms))] = account{pick(random, accountIDs), pick(random, append(names, ""))}
	}
	link()
	switch random.IntN(10) {
	case 0, 1, 2: // by an account: a creation, or a renaming
		return call{method: upsert, user: p}
	case 3, 4: // a link
		p.id = r.id(random)
		return call{method: upsert, user: p}
	case 5, 6, 7: // links come and go
		p.id = r.id(random)
		if random.IntN(2) == 0 {
			p.accounts = [2]account{}
		}
		link()
		return call{method: update, user: p}
	case 8:
		return call{method: remove, id: r.id(random)}
	default:
		p.id = r.id(random)
		return call{method: merge, user: p, other: r.id(random)}
	}
}

// do makes a call and records it.
func (r *recorder) do(ctx context.Context, worker int, c call, cancelled bool) error {
	var tell attempt
	ctx = context.WithValue(ctx, attemptKey{}, &tell)
	if cancelled {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		go cancel() // before the call, during it, or after it
	}
	e := event{worker: worker, call: c, began: r.clock.Add(1)}
	u, id, err := r.make(ctx, c)
	e.ended = r.clock.Add(1)
	e.outcome = r.outcome(err)
	e.created = id
	if err != nil {
		e.errorText = err.Error()
	}
	if c.reads() {
		if e.outcome == failed {
			return fmt.Errorf("histories: %v: %w", c, err)
		}
		if u != nil {
			if e.found, err = personOf(u); err != nil {
				return fmt.Errorf("%v: %w", c, err)
			}
		}
	}
	if tell.late != nil {
		r.late.Go(func() {
			<-tell.late
			e.fate, e.created, e.ended = tell.fate, tell.created, r.clock.Add(1)
			r.record(e)
		})
		return nil
	}
	if e.outcome == failed {
		e.fate, e.created = tell.fate, tell.created
		if e.fate == asAnswered {
			// It may be applied at any time, or never.
			e.fate, e.ended = unknown, math.MaxInt64
		}
	}
	r.record(e)
	return nil
}

func (r *recorder) record(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	if e.created != "" {
		r.ids = append(r.ids, e.created)
	}
}

func (r *recorder) outcome(err error) outcome {
	switch {
	case err == nil:
		return done
	case errors.Is(err, usercache.ErrUserNotFound) || r.Rejected(err):
		return refused
	default:
		return failed
	}
}

// make makes the call. A write that creates a user returns the ID.
func (r *recorder) make(ctx context.Context, c call) (u *usercache.User, created string, err error) {
	switch c.method {
	case getByID:
		u, err = r.repo.GetUserByID(ctx, c.id)
	case getByAccount:
		u, err = r.repo.GetUserByPlatformID(ctx, c.platform, c.name)
	case getByName:
		u, err = r.repo.GetUserByPlatformUsername(ctx, c.platform, c.name)
	case upsert:
		user := c.user.user()
		err = r.repo.UpsertUser(ctx, &user)
		created = user.ID
	case update:
		err = r.repo.UpdateUser(ctx, c.user.user())
	case remove:
		err = r.repo.DeleteUser(ctx, c.id)
	default:
		err = r.repo.MergeUsers(ctx, c.user.id, c.other, c.user.user())
	}
	return u, created, err
}
