package coherence

import (
	"container/heap"
	"sync/atomic"
	"time"

	"github.com/jellydator/ttlcache/v3"
)

// entry is the answer to one lookup. Everything but next, dead and touched is
// fixed once the entry is in the index.
type entry[K comparable, V any] struct {
	key     K
	hash    uint64
	value   V // a clone; handed out only as clones of it
	err     error
	class   Class
	dead    atomic.Bool
	expires int64                       // on the engine's clock
	touched atomic.Int64                // when the store last heard of a use
	next    atomic.Pointer[entry[K, V]] // in the index
	links   []link[K, V]
	home    *store[K, V]
	pos     int // in home.queue
}

// store holds entries up to a size. The ttlcache is where they live: it keeps
// their order of use and their lifetimes. Entries are its keys, compared by
// pointer, so that nothing is ever updated in place.
//
// The cache's own ways of dropping entries are not used: they report what was
// dropped by one new goroutine for each entry, and drop all expired entries in
// one go, under its lock. The store drops what the ttlcache would, a bounded
// number at a time, and so knows at once what has left. It needs the engine's
// lock.
type store[K comparable, V any] struct {
	cache *ttlcache.Cache[*entry[K, V], struct{}]
	queue expiryQueue[K, V]
	size  int
}

func newStore[K comparable, V any](size int) *store[K, V] {
	return &store[K, V]{
		size: size,
		cache: ttlcache.New(
			ttlcache.WithCapacity[*entry[K, V], struct{}](uint64(size)),
			ttlcache.WithDisableTouchOnHit[*entry[K, V], struct{}](),
		),
	}
}

func (s *store[K, V]) full() bool { return len(s.queue) >= s.size }

// add stores an entry that lives for ttl, which must be positive. The store
// must not be full.
func (s *store[K, V]) add(en *entry[K, V], ttl time.Duration) {
	en.home = s
	heap.Push(&s.queue, en)
	s.cache.Set(en, struct{}{}, ttl)
}

func (s *store[K, V]) remove(en *entry[K, V]) {
	heap.Remove(&s.queue, en.pos)
	s.cache.Delete(en)
}

func (s *store[K, V]) reset() {
	s.queue = nil
	s.cache.DeleteAll()
}

// use tells the ttlcache that an entry has just been used.
func (s *store[K, V]) use(en *entry[K, V]) { s.cache.Get(en) }

// expired returns an entry whose time has come, or nil.
func (s *store[K, V]) expired(now int64) *entry[K, V] {
	if len(s.queue) > 0 && s.queue[0].expires <= now {
		return s.queue[0]
	}
	return nil
}

// leastRecent returns the entry that the ttlcache would drop for a new one.
// The store must not be empty.
func (s *store[K, V]) leastRecent() *entry[K, V] {
	// The ttlcache passes over what expires in this very moment.
	victim := s.queue[0]
	s.cache.RangeBackwards(func(item *ttlcache.Item[*entry[K, V], struct{}]) bool {
		victim = item.Key()
		return false
	})
	return victim
}

// expiryQueue is a heap of entries, the next one to expire first.
type expiryQueue[K comparable, V any] []*entry[K, V]

func (q expiryQueue[K, V]) Len() int           { return len(q) }
func (q expiryQueue[K, V]) Less(i, j int) bool { return q[i].expires < q[j].expires }

func (q expiryQueue[K, V]) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].pos, q[j].pos = i, j
}

// Push implements heap.Interface.
func (q *expiryQueue[K, V]) Push(x any) {
	en := x.(*entry[K, V])
	en.pos = len(*q)
	*q = append(*q, en)
}

// Pop implements heap.Interface.
func (q *expiryQueue[K, V]) Pop() any {
	last := len(*q) - 1
	en := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return en
}
