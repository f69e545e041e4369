package coherence

import "slices"

// Tag names something that answers depend on. It is the caller's 64-bit hash
// of a name; two names that collide are invalidated together, which costs a
// load and nothing else. The caller must give every spelling of one name the
// same tag.
type Tag uint64

// Broad is the tag for a dependency that very many answers share. It works as
// any other tag does, and has a list of its own so that its length does not
// slow the others down.
const Broad Tag = 0

// Scope is what a write or an invalidation may change. The zero Scope is
// nothing.
type Scope struct {
	// All means everything, and makes Tags irrelevant.
	All bool
	// Tags are the names of what may change.
	Tags []Tag
}

// distinct sorts tags in place and drops repetitions.
func distinct(tags []Tag) []Tag {
	slices.Sort(tags)
	return slices.Compact(tags)
}

// link says that an entry carries a tag. It stands in the list of its tag's
// bucket.
type link[K comparable, V any] struct {
	tag        Tag
	owner      *entry[K, V]
	prev, next *link[K, V]
}

// tagIndex finds the entries that carry a tag: a chained hash table of links,
// about 40 bytes for each tag of an entry where a Go map for each tag takes
// several hundred. It needs the engine's lock.
type tagIndex[K comparable, V any] struct {
	buckets []*link[K, V] // its length is a power of two
	broad   *link[K, V]
	count   int // links in buckets
}

func (x *tagIndex[K, V]) reset() {
	x.buckets = make([]*link[K, V], smallestTable)
	x.broad = nil
	x.count = 0
}

func (x *tagIndex[K, V]) bucket(t Tag) **link[K, V] {
	if t == Broad {
		return &x.broad
	}
	return &x.buckets[uint64(t)&uint64(len(x.buckets)-1)]
}

// insert enters en under each of its tags, which must be distinct.
func (x *tagIndex[K, V]) insert(en *entry[K, V], tags []Tag) {
	if x.count+len(tags) > 2*len(x.buckets) {
		x.grow()
	}
	en.links = make([]link[K, V], len(tags))
	for i, t := range tags {
		l := &en.links[i]
		l.tag, l.owner = t, en
		x.push(l)
	}
	x.count += len(tags)
}

func (x *tagIndex[K, V]) push(l *link[K, V]) {
	head := x.bucket(l.tag)
	l.prev, l.next = nil, *head
	if l.next != nil {
		l.next.prev = l
	}
	*head = l
}

func (x *tagIndex[K, V]) grow() {
	old := x.buckets
	x.buckets = make([]*link[K, V], 2*len(old))
	for _, l := range old {
		for l != nil {
			following := l.next
			x.push(l)
			l = following
		}
	}
}

// remove takes en out from under all of its tags.
func (x *tagIndex[K, V]) remove(en *entry[K, V]) {
	for i := range en.links {
		l := &en.links[i]
		if l.prev != nil {
			l.prev.next = l.next
		} else {
			*x.bucket(l.tag) = l.next
		}
		if l.next != nil {
			l.next.prev = l.prev
		}
	}
	x.count -= len(en.links)
	en.links = nil
}

// carriers appends the entries that carry t to into.
func (x *tagIndex[K, V]) carriers(t Tag, into []*entry[K, V]) []*entry[K, V] {
	for l := *x.bucket(t); l != nil; l = l.next {
		if l.tag == t {
			into = append(into, l.owner)
		}
	}
	return into
}
