package coherence

import "slices"

// fence is what is remembered of the writes on one tag.
type fence struct {
	up    int    // writes under way, or of uncertain outcome
	moved uint64 // reading of the fence clock when last raised or lowered
}

// fences remembers which tags writes are touching, and which they have touched
// since the oldest load in flight began. It needs the engine's lock.
//
// Time is counted in movements: the clock advances with each raising and each
// lowering, a load notes its reading when it begins, and a fence has moved
// since then if it carries a later one.
type fences struct {
	clock uint64
	tags  map[Tag]fence
	all   fence // of the writes that may change everything

	// lowered holds the lowerings in order of time, so that a fence can be
	// forgotten as soon as no load is in flight that began before.
	lowered queue[lowering]
	// lingering holds the fences that stay up after a write of uncertain
	// outcome, in order of their end.
	lingering     queue[linger]
	lingeringTags int
}

type lowering struct {
	tag   Tag
	moved uint64
}

type linger struct {
	scope Scope
	until int64
}

// maxRemembered bounds the number of fences remembered for the sake of loads
// in flight, and of the tags that linger, each. Beyond it the precise record
// gives way to a coarse one, which costs loads and keeps the promise.
const maxRemembered = 1 << 16

func newFences() fences { return fences{tags: make(map[Tag]fence)} }

// raise puts a fence on everything in s.
func (f *fences) raise(s Scope) {
	f.clock++
	if s.All {
		f.all.up++
		f.all.moved = f.clock
		return
	}
	for _, t := range s.Tags {
		x := f.tags[t]
		f.tags[t] = fence{up: x.up + 1, moved: f.clock}
	}
}

// lower takes down what raise put up.
func (f *fences) lower(s Scope) {
	f.clock++
	if s.All {
		f.all.up--
		f.all.moved = f.clock
		return
	}
	for _, t := range s.Tags {
		x := f.tags[t]
		f.tags[t] = fence{up: x.up - 1, moved: f.clock}
		if x.up == 1 {
			f.lowered.push(lowering{t, f.clock})
		}
	}
	if f.lowered.len() > maxRemembered {
		// Everything counts as moved: no load that is in flight now will be
		// stored, and so none of them needs the record any more.
		f.all.moved = f.clock
		f.forget(f.clock)
	}
}

// keepUp leaves what raise put up as it is until the engine's clock reads
// until. Calls must come in order of until.
func (f *fences) keepUp(s Scope, until int64) {
	if f.lingeringTags+len(s.Tags) > maxRemembered {
		// One fence on everything replaces them all. What is stored stays: no
		// entry carries a tag whose fence is up.
		f.raise(Scope{All: true})
		f.lower(s)
		for f.lingering.len() > 0 {
			f.lower(f.lingering.pop().scope)
		}
		f.lingeringTags = 0
		s = Scope{All: true}
	}
	f.lingering.push(linger{s, until})
	f.lingeringTags += len(s.Tags)
}

// expire lowers the fences that linger and whose time is over. Everything that
// reads or writes fences calls it first, so that such a fence counts as
// lowered when its time was over, as far as anybody can tell.
func (f *fences) expire(now int64) {
	for f.lingering.len() > 0 && f.lingering.first().until <= now {
		s := f.lingering.pop().scope
		f.lingeringTags -= len(s.Tags)
		f.lower(s)
	}
}

// blocked reports whether a fence is up on any of tags.
func (f *fences) blocked(tags []Tag) bool {
	return f.all.up > 0 || slices.ContainsFunc(tags, func(t Tag) bool { return f.tags[t].up > 0 })
}

// movedSince reports whether a fence on any of tags was raised or lowered
// since the clock read since.
func (f *fences) movedSince(since uint64, tags []Tag) bool {
	return f.all.moved > since || slices.ContainsFunc(tags, func(t Tag) bool { return f.tags[t].moved > since })
}

// forget drops the fences that are down and have not moved since the clock
// read oldest, which is when the oldest load in flight began.
func (f *fences) forget(oldest uint64) {
	for f.lowered.len() > 0 && f.lowered.first().moved <= oldest {
		l := f.lowered.pop()
		if f.tags[l.tag] == (fence{up: 0, moved: l.moved}) {
			delete(f.tags, l.tag)
		}
	}
}

// queue is a first-in, first-out queue.
type queue[T any] struct {
	items []T
	head  int
}

func (q *queue[T]) len() int  { return len(q.items) - q.head }
func (q *queue[T]) first() *T { return &q.items[q.head] }
func (q *queue[T]) push(x T)  { q.items = append(q.items, x) }

func (q *queue[T]) pop() T {
	x := q.items[q.head]
	var zero T
	q.items[q.head] = zero
	q.head++
	// Moving the rest down once half of the slice is used up costs, spread
	// over the pops, one move for each.
	if 2*q.head >= len(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items = q.items[:n]
		q.head = 0
	}
	return x
}
