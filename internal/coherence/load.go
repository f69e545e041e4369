package coherence

import (
	"context"
	"runtime"
	"slices"
)

// Outcome says how Load came by its answer, or why it has none.
type Outcome uint8

const (
	// Hit means that memory held the answer after all.
	Hit Outcome = iota
	// Loaded means that this caller's own load brought it.
	Loaded
	// Joined means that it came by a load which another caller had started.
	Joined
	// Left means that the caller's context ended first; Err is the context's
	// error.
	Left
	// Fenced means that a write of the looked-up name is under way or of uncertain
	// outcome. There is no answer: the caller asks the repository itself.
	Fenced
	// Disabled is as Fenced, because the engine is off.
	Disabled
	// Closed is as Fenced, because the engine is closed.
	Closed
)

// Result is what Load returns.
type Result[V any] struct {
	Answer[V]
	Outcome Outcome
	// Stored is set if the load stored its answer.
	Stored bool
	// Full is set if it did not because that would have evicted another.
	Full bool
}

// Request is one lookup.
type Request[K comparable, V any] struct {
	Key K
	// Tags are what the lookup depends on whatever its answer is: the names
	// that it looks up.
	Tags []Tag
	// Fetch asks the repository. It runs on a goroutine of its own, with the
	// values of the context of the caller that started the load.
	Fetch func(context.Context) Answer[V]
	// KeepOthers makes a load that this request starts evict nothing but what
	// has expired.
	KeepOthers bool
}

// joinRounds is how often a caller waits for the load of another before it
// insists on one of its own.
const joinRounds = 3

// call is one load. Its key, tags, since and began are fixed when it begins;
// its results are fixed when done is closed.
type call[K comparable, V any] struct {
	key        K
	tags       []Tag  // of the lookup
	since      uint64 // reading of the fence clock when it began
	began      int64  // reading of the engine's clock when it began
	keepOthers bool
	cancel     context.CancelFunc
	done       chan struct{}

	// Under the engine's lock.
	waiters     int
	starterLeft bool
	settled     bool
	prev, next  *call[K, V]

	answer   Answer[V] // as the repository gave it, for the starter
	copy     V         // a clone of the answer's value, for everybody else
	shared   bool      // no fence was up or moved: whoever joined may have it
	stored   bool
	full     bool
	returned bool // false: the load panicked, or left by runtime.Goexit
	panicked any
}

// Load answers a request: from memory if it is there by now, else by a load of
// the caller's own, else by one that is under way. A load that panics, or
// calls runtime.Goexit, does so to the caller that started it.
func (e *Engine[K, V]) Load(ctx context.Context, r Request[K, V]) Result[V] {
	r.Tags = distinct(r.Tags)
	for round := range joinRounds + 1 {
		c, en, outcome := e.enter(ctx, r, round < joinRounds)
		switch outcome {
		case Hit:
			return Result[V]{Answer: e.answer(en)}
		case Left:
			return left[V](ctx)
		case Loaded:
			e.start(ctx, c, r.Fetch)
		case Joined:
		default:
			return Result[V]{Outcome: outcome}
		}
		started := outcome == Loaded

		select {
		case <-c.done:
		case <-ctx.Done():
			if e.leave(c, started) {
				return left[V](ctx)
			}
			<-c.done
		}
		switch {
		case started:
			if !c.returned {
				c.passOn()
			}
			return Result[V]{Answer: c.answer, Outcome: Loaded, Stored: c.stored, Full: c.full}
		case c.shared:
			return Result[V]{
				Answer: Answer[V]{
					Value: e.cfg.Clone(c.copy), Err: c.answer.Err,
					Class: c.answer.Class, Note: c.answer.Note,
				},
				Outcome: Joined, Stored: c.stored, Full: c.full,
			}
		}
	}
	panic("unreachable: the last round joins no load")
}

func left[V any](ctx context.Context) Result[V] {
	return Result[V]{Answer: Answer[V]{Err: ctx.Err()}, Outcome: Left}
}

// enter decides how a request is answered: by an entry (Hit), by a load that
// the caller must start (Loaded) or wait for (Joined), or not at all.
func (e *Engine[K, V]) enter(ctx context.Context, r Request[K, V], join bool) (*call[K, V], *entry[K, V], Outcome) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return nil, nil, Closed
	case !e.enabled:
		return nil, nil, Disabled
	}
	now := e.now()
	e.fences.expire(now)
	if e.fences.blocked(r.Tags) {
		return nil, nil, Fenced
	}
	if en := e.index.find(e.hash(r.Key), r.Key); en != nil {
		if en.expires > now {
			e.use(en, now)
			return nil, en, Hit
		}
		e.drop(en)
		e.evictedExpired++
	}
	if ctx.Err() != nil {
		return nil, nil, Left
	}
	if c := e.calls[r.Key]; join && c != nil && !e.fences.movedSince(c.since, r.Tags) {
		c.waiters++
		return c, nil, Joined
	}
	c := &call[K, V]{
		key:        r.Key,
		tags:       r.Tags,
		since:      e.fences.clock,
		began:      now,
		keepOthers: r.KeepOthers,
		done:       make(chan struct{}),
		waiters:    1,
	}
	e.loads.push(c)
	if join {
		e.calls[r.Key] = c
	}
	return c, nil, Loaded
}

// start runs the load. Its context outlives the caller's, so that those who
// join it do not depend on who came first.
func (e *Engine[K, V]) start(ctx context.Context, c *call[K, V], fetch func(context.Context) Answer[V]) {
	ctx = context.WithoutCancel(ctx)
	if e.cfg.LoadTimeout > 0 {
		ctx, c.cancel = context.WithTimeout(ctx, e.cfg.LoadTimeout)
	} else {
		ctx, c.cancel = context.WithCancel(ctx)
	}
	go func() {
		defer c.cancel()
		defer e.settle(c)
		defer func() {
			if !c.returned {
				c.panicked = recover()
			}
		}()
		answer := fetch(ctx)
		if answer.Class != Private {
			c.copy = e.cfg.Clone(answer.Value)
		}
		c.answer = answer
		c.returned = true
	}()
}

// settle ends a load: it stores the answer if it is fit, and lets the waiters
// go. That the check and the store happen under one hold of the lock is what
// keeps a write from coming between them.
func (e *Engine[K, V]) settle(c *call[K, V]) {
	tags := distinct(append(slices.Clone(c.answer.Tags), c.tags...))

	e.mu.Lock()
	e.fences.expire(e.now())
	fit := c.returned && !e.fences.blocked(tags) && !e.fences.movedSince(c.since, tags)
	c.shared = fit && c.answer.Class != Private
	store := c.answer.Class == Found || c.answer.Class == Absent && e.cfg.NegativeTTL > 0
	if fit && store {
		c.stored, c.full = e.insert(c, tags)
	}
	if e.calls[c.key] == c {
		delete(e.calls, c.key)
	}
	e.loads.remove(c)
	e.forget()
	c.settled = true
	orphaned := !c.returned && c.starterLeft
	e.mu.Unlock()

	if c.returned && store && !fit && e.cfg.Refused != nil {
		e.cfg.Refused(c.key)
	}
	if orphaned && e.cfg.Orphaned != nil {
		e.cfg.Orphaned(c.panicked)
	}
	close(c.done)
}

// leave ends one caller's interest in a load, and reports false if the load
// has just ended. The last one to leave cancels it.
func (e *Engine[K, V]) leave(c *call[K, V], starter bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.settled {
		return false
	}
	c.starterLeft = c.starterLeft || starter
	c.waiters--
	if c.waiters == 0 {
		c.cancel()
		if e.calls[c.key] == c {
			delete(e.calls, c.key) // nobody shall join what is cancelled
		}
	}
	return true
}

// passOn does to the caller what the load did to its goroutine.
func (c *call[K, V]) passOn() {
	if c.panicked != nil {
		panic(c.panicked)
	}
	runtime.Goexit()
}

// loadList lists the loads in flight in the order in which they began.
type loadList[K comparable, V any] struct {
	first, last *call[K, V]
	count       int
}

func (l *loadList[K, V]) push(c *call[K, V]) {
	c.prev = l.last
	if l.last != nil {
		l.last.next = c
	} else {
		l.first = c
	}
	l.last = c
	l.count++
}

func (l *loadList[K, V]) remove(c *call[K, V]) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		l.last = c.prev
	}
	l.count--
}
