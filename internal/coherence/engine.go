package coherence

import (
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"time"
)

// Class says what may be done with the answer of a load.
type Class uint8

const (
	// Private answers go to the caller that loaded them and to nobody else.
	Private Class = iota
	// Transient answers are shared with those who waited for the load, and
	// are not stored: an error, or an answer that nobody recognised.
	Transient
	// Found answers are stored for Config.TTL.
	Found
	// Absent answers say that there is nothing; they are stored for
	// Config.NegativeTTL, apart from those found.
	Absent
)

// Answer is what a lookup yields.
type Answer[V any] struct {
	Value V
	Err   error
	Class Class

	// Tags are what a Found answer depends on besides the tags of the lookup
	// itself. A load sets them; answers from memory leave them nil.
	Tags []Tag
	// Note is passed on to those who share the load, and to nobody else.
	Note any
}

// Config says how an engine works. New takes it as valid: the caller checks.
type Config[K comparable, V any] struct {
	Size        int           // entries found, and as many absent; at least 1
	TTL         time.Duration // of entries found, from the start of their load; positive
	NegativeTTL time.Duration // of entries absent; 0: they are not stored
	Jitter      float64       // the part of a lifetime, below 1, that chance may take off it
	LoadTimeout time.Duration // of a load; 0: none
	Uncertainty time.Duration // how long fences stay up after a write of uncertain outcome; 0: not at all

	// Clone returns a deep copy of a value. It must be a pure function.
	Clone func(V) V
	// Refused is called when a write has made the answer of a load unfit to
	// store. It may be nil, must not block, and is called without the lock.
	Refused func(K)
	// Orphaned is called when a load panicked after the caller that started
	// it had left. It may be nil and is called without the lock.
	Orphaned func(panicked any)
}

// Counts are running totals, and the present numbers of entries.
type Counts struct {
	Found, Absent    int    // live entries
	EvictedCapacity  uint64 // entries that made room for others
	EvictedExpired   uint64 // entries whose time was over
	FencesRemembered int    // fences that are up or that a load in flight may need
	LoadsInFlight    int
}

// useInterval is how often, at most, the store hears that an entry is in use.
const useInterval = 100 * time.Millisecond

// purgeBatch bounds how many expired entries are dropped under one hold of the
// lock.
const purgeBatch = 64

// maxScratch bounds the scratch space that kill keeps, in entries.
const maxScratch = 1024

// Engine keeps answers of type V to lookups of type K, by the promise in the
// package documentation. Its methods are safe for concurrent use.
type Engine[K comparable, V any] struct {
	cfg   Config[K, V]
	seed  maphash.Seed
	epoch time.Time // zero of the engine's clock, which is monotonic

	index index[K, V] // written under mu, read without

	mu      sync.Mutex
	enabled bool
	closed  bool
	found   *store[K, V]
	absent  *store[K, V]
	tags    tagIndex[K, V]
	fences  fences
	calls   map[K]*call[K, V] // loads that may be joined
	loads   loadList[K, V]    // loads in flight, the oldest first
	killing []*entry[K, V]    // scratch space of kill

	evictedCapacity uint64
	evictedExpired  uint64
}

// New returns an engine that is enabled and empty.
func New[K comparable, V any](cfg Config[K, V]) *Engine[K, V] {
	e := &Engine[K, V]{
		cfg:     cfg,
		seed:    maphash.MakeSeed(),
		epoch:   time.Now(),
		enabled: true,
		found:   newStore[K, V](cfg.Size),
		absent:  newStore[K, V](cfg.Size),
		fences:  newFences(),
		calls:   make(map[K]*call[K, V]),
	}
	e.index.reset()
	e.tags.reset()
	return e
}

func (e *Engine[K, V]) now() int64 { return int64(time.Since(e.epoch)) }

func (e *Engine[K, V]) hash(key K) uint64 { return maphash.Comparable(e.seed, key) }

// Lookup returns the answer that memory holds for key, if any. It takes no
// lock. That the entry is not dead is what makes its answer current: whoever
// may be changing it has yet to begin.
func (e *Engine[K, V]) Lookup(key K) (Answer[V], bool) {
	en := e.index.find(e.hash(key), key)
	if en == nil || en.dead.Load() {
		return Answer[V]{}, false
	}
	now := e.now()
	if en.expires <= now {
		return Answer[V]{}, false
	}
	if now-en.touched.Load() >= int64(useInterval) && e.mu.TryLock() {
		e.use(en, now)
		e.mu.Unlock()
	}
	return e.answer(en), true
}

// answer returns what en says, in a copy of the caller's own.
func (e *Engine[K, V]) answer(en *entry[K, V]) Answer[V] {
	return Answer[V]{Value: e.cfg.Clone(en.value), Err: en.err, Class: en.class}
}

// use tells en's store that it is in use.
func (e *Engine[K, V]) use(en *entry[K, V], now int64) {
	en.touched.Store(now)
	en.home.use(en)
}

// Flush drops everything and returns how many entries that were. No load in
// flight will be stored.
func (e *Engine[K, V]) Flush() int { return e.Invalidate(Scope{All: true}) }

// Invalidate drops the entries in s and returns how many that were. No load in
// flight of an answer in s will be stored or shared.
func (e *Engine[K, V]) Invalidate(s Scope) int {
	s.Tags = distinct(s.Tags)
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.invalidate(s)
}

func (e *Engine[K, V]) invalidate(s Scope) int {
	e.fences.expire(e.now())
	e.fences.raise(s)
	killed := e.kill(s)
	e.fences.lower(s)
	e.forget()
	return killed
}

// SetEnabled turns the engine on or off. Either way, a change drops everything
// and returns how many entries that was. While it is off, Load says so and
// nothing is stored. Writes raise their fences nevertheless.
func (e *Engine[K, V]) SetEnabled(enabled bool) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.enabled == enabled {
		return 0
	}
	e.enabled = enabled
	return e.invalidate(Scope{All: true})
}

// Enabled reports whether the engine is on. A closed engine is not.
func (e *Engine[K, V]) Enabled() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.enabled && !e.closed
}

// Close turns the engine off for good, and drops everything. It may be called
// more than once.
func (e *Engine[K, V]) Close() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return 0
	}
	e.closed = true
	return e.invalidate(Scope{All: true})
}

// Counts returns the present counts, after it has dropped what has expired.
func (e *Engine[K, V]) Counts() Counts {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	for e.purge(e.found, now)+e.purge(e.absent, now) > 0 {
		// Others need the lock too.
		e.mu.Unlock()
		e.mu.Lock()
	}
	return Counts{
		Found:            len(e.found.queue),
		Absent:           len(e.absent.queue),
		EvictedCapacity:  e.evictedCapacity,
		EvictedExpired:   e.evictedExpired,
		FencesRemembered: len(e.fences.tags),
		LoadsInFlight:    e.loads.count,
	}
}

// insert stores the answer of a load, in place of what there is for its key.
// It reports whether it did, and whether it did not for want of room: a call
// that keeps others evicts nothing but what has expired.
func (e *Engine[K, V]) insert(c *call[K, V], tags []Tag) (stored, full bool) {
	s, ttl := e.found, e.cfg.TTL
	if c.answer.Class == Absent {
		s, ttl = e.absent, e.cfg.NegativeTTL
	}
	now := e.now()
	ttl -= time.Duration(float64(ttl) * e.cfg.Jitter * rand.Float64())
	expires := c.began + int64(ttl)
	if expires <= now {
		return false, false // its time was over before it came
	}
	en := &entry[K, V]{
		key:     c.key,
		hash:    e.hash(c.key),
		value:   c.copy,
		err:     c.answer.Err,
		class:   c.answer.Class,
		expires: expires,
	}
	en.touched.Store(now)
	if old := e.index.find(en.hash, en.key); old != nil {
		e.drop(old)
	}
	e.purge(s, now)
	if s.full() {
		if c.keepOthers {
			return false, true
		}
		e.drop(s.leastRecent())
		e.evictedCapacity++
	}
	e.tags.insert(en, tags)
	s.add(en, time.Duration(expires-now))
	e.index.insert(en)
	return true, false
}

// purge drops up to purgeBatch entries of s whose time is over and returns how
// many.
func (e *Engine[K, V]) purge(s *store[K, V], now int64) int {
	n := 0
	for ; n < purgeBatch; n++ {
		en := s.expired(now)
		if en == nil {
			break
		}
		e.drop(en)
		e.evictedExpired++
	}
	return n
}

// drop takes an entry out of every structure. A reader that holds it already
// sees that it is dead, or answers as of before.
func (e *Engine[K, V]) drop(en *entry[K, V]) {
	en.dead.Store(true)
	e.index.remove(en)
	e.tags.remove(en)
	en.home.remove(en)
}

// kill drops the entries in s and returns how many that were.
func (e *Engine[K, V]) kill(s Scope) int {
	if s.All {
		return e.killAll()
	}
	killed := 0
	for _, t := range s.Tags {
		e.killing = e.tags.carriers(t, e.killing[:0])
		for _, en := range e.killing {
			e.drop(en)
		}
		killed += len(e.killing)
		clear(e.killing)
	}
	if cap(e.killing) > maxScratch {
		e.killing = nil
	}
	return killed
}

func (e *Engine[K, V]) killAll() int {
	killed := 0
	for _, s := range []*store[K, V]{e.found, e.absent} {
		for _, en := range s.queue {
			en.dead.Store(true)
		}
		killed += len(s.queue)
		s.reset()
	}
	e.index.reset()
	e.tags.reset()
	return killed
}

// forget drops the fences that no load in flight needs.
func (e *Engine[K, V]) forget() {
	if oldest := e.loads.first; oldest != nil {
		e.fences.forget(oldest.since)
		return
	}
	e.fences.forget(e.fences.clock)
}
