package coherence

import "sync/atomic"

// index finds the entry of a key. It is a chained hash table whose chains run
// through the entries themselves: find takes no lock, everything else needs
// the engine's. A Go map cannot be read without a lock, and a sync.Map would
// box every key, on a hit too.
//
// A find that races a removal or a growth may miss an entry that is there,
// which costs a load; it never returns an entry of another key.
type index[K comparable, V any] struct {
	table atomic.Pointer[[]atomic.Pointer[entry[K, V]]] // its length is a power of two
	count int
}

const smallestTable = 64

func (x *index[K, V]) reset() {
	t := make([]atomic.Pointer[entry[K, V]], smallestTable)
	x.table.Store(&t)
	x.count = 0
}

func (x *index[K, V]) find(hash uint64, key K) *entry[K, V] {
	t := *x.table.Load()
	for en := t[hash&uint64(len(t)-1)].Load(); en != nil; en = en.next.Load() {
		if en.hash == hash && en.key == key {
			return en
		}
	}
	return nil
}

func (x *index[K, V]) insert(en *entry[K, V]) {
	t := *x.table.Load()
	if x.count >= len(t) {
		t = x.grow(t)
	}
	push(t, en)
	x.count++
}

// grow moves every entry into a table of twice the size. A concurrent find
// that stands on an entry while it moves goes on in that entry's new chain,
// which ends as every chain does.
func (x *index[K, V]) grow(old []atomic.Pointer[entry[K, V]]) []atomic.Pointer[entry[K, V]] {
	t := make([]atomic.Pointer[entry[K, V]], 2*len(old))
	for i := range old {
		for en := old[i].Load(); en != nil; {
			following := en.next.Load()
			push(t, en)
			en = following
		}
	}
	x.table.Store(&t)
	return t
}

func push[K comparable, V any](t []atomic.Pointer[entry[K, V]], en *entry[K, V]) {
	head := &t[en.hash&uint64(len(t)-1)]
	en.next.Store(head.Load())
	head.Store(en)
}

// remove unlinks an entry that is in the index. The entry keeps its own next
// pointer, so that a find standing on it still reaches the rest of the chain.
func (x *index[K, V]) remove(en *entry[K, V]) {
	t := *x.table.Load()
	at := &t[en.hash&uint64(len(t)-1)]
	for at.Load() != en {
		at = &at.Load().next
	}
	at.Store(en.next.Load())
	x.count--
}
