// Package coherence keeps answers in memory and never gives one that a write
// has overtaken. This is its promise:
//
//	An answer comes from memory only if no write that could change it has
//	been in progress, or has finished, since the load of that answer began.
//
// The package knows keys, values and tags. What a user is, how a repository is
// asked and how any of it is reported is its caller's business. This page is
// the argument for the promise; each step names the code that makes it true.
//
// # What the caller must do
//
//  1. Tags. A lookup, and the answer to it, name all that the answer depends on
//     as tags; a write names all that it may change. If a write can change an
//     answer, the two have a tag in common (or the write's [Scope] is All).
//  2. Writes. Every write happens between [Engine.Raise] and [Write.Lower].
//     Loads see the repository's committed state.
//
// # The parts
//
//   - An entry is the answer to one lookup (store.go). It is reached by its key
//     through the index (index.go), without a lock, and by its tags through the
//     tag index (tags.go). It is alive until drop sets its dead flag, and is
//     never revived or changed.
//   - A fence stands on a tag while a write that names it is under way
//     (fence.go). The fence clock counts every raising and every lowering. A
//     fence remembers how many writes hold it up, and the clock's reading when
//     it last moved.
//   - A load remembers the clock's reading of the moment it began, and the tags
//     of its lookup (call, in load.go). Callers with the same key may share it.
//
// Fences, loads, and all changes to entries are under one mutex. Only a hit
// does without.
//
// # Why a stored answer is current
//
// Take an answer A, its load from s to e, and a write W that could change it.
// W and A share a tag t. [Engine.settle] stores A at e, and only if no fence on
// any of A's tags is up and none has moved since s. W raised its fence on t
// before it touched the repository, and lowered it after it had ended. So one of
// three things is true:
//
//   - W ended before s. The load saw what W did.
//   - W raised or lowered the fence between s and e, or held it up from before
//     s to after e. Then settle found it up or moved, and A was not stored.
//   - W raised the fence after e. [Engine.Raise] killed the entry under the same
//     hold of the mutex, before W touched the repository.
//
// The check and the store are one critical section, and so are the raising and
// the kill: no write comes between them.
//
// # Why a hit needs no lock
//
// [Engine.Lookup] reads the dead flag after it has found the entry. If it is not
// set, no write that could change the answer had begun to touch the repository
// at that moment, which lies within the lookup: the answer is what the
// repository would have said. A kill that comes later has a write behind it
// that has yet to begin. What the lock-free index can do wrong is to miss an
// entry, which costs a load.
//
// # Why a shared answer is current
//
// A caller joins a load only if no fence on the tags of its lookup has moved
// since that load began, and none is up. It may use the answer only under the
// condition under which the answer may be stored; then the argument above holds
// for the moment at which the load ended, which lies within the call. The
// caller that started the load may use its answer always: it is the repository's
// own, from within the call. An error is shared under the same condition, since
// it may be a not-found that nobody recognised.
//
// # Writes that fail
//
// A write that fails may have happened, or may happen later. Unless the caller
// of [Write.Lower] knows better, its fences stay up for Config.Uncertainty.
// While a fence is up, lookups of its tags are answered by the repository alone.
// Its end by the clock counts as a lowering: [fences.expire] runs before
// anything else reads or moves a fence, so no load can begin after that end and
// before the lowering is on record.
//
// # What is forgotten, and when
//
// Fences are no part of the entries, so evictions and flushes leave them be. A
// fence that is down matters only to loads that began before it came down; it is
// forgotten when the last of those has ended ([fences.forget]). Should one load
// last while very many writes come and go, everything counts as moved instead,
// and the record starts anew (maxRemembered). The same holds for very many
// failed writes in one window.
//
// # What it costs to be wrong
//
// Every doubt is resolved by asking the repository: a tag that covers too much,
// two tags that collide, a fence that stays up too long, a load refused that
// was fit. None of them can make an answer stale.
package coherence
