package coherence

import "slices"

// Write is a write under way: its fences are up.
type Write[K comparable, V any] struct {
	engine *Engine[K, V]
	scope  Scope
}

// Raise begins a write that may change what s says: from its return to the end
// of the write, nothing in s is answered from memory, stored, or shared. It
// returns how many entries it dropped. The caller must call Lower once,
// whatever becomes of the write.
func (e *Engine[K, V]) Raise(s Scope) (*Write[K, V], int) {
	s.Tags = distinct(s.Tags)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fences.expire(e.now())
	e.fences.raise(s)
	return &Write[K, V]{engine: e, scope: s}, e.kill(s)
}

// Lower ends a write. What turned out to be affected besides what was known
// before, such as an ID that the write made, is named by also. If the write
// may have happened or may happen yet, it is uncertain, and the fences come
// down only after Config.Uncertainty. Lower returns how many entries it
// dropped.
func (w *Write[K, V]) Lower(also Scope, uncertain bool) int {
	e := w.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	e.fences.expire(now)
	w.widen(also)
	killed := e.kill(w.scope)
	if uncertain && e.cfg.Uncertainty > 0 {
		e.fences.keepUp(w.scope, now+int64(e.cfg.Uncertainty))
	} else {
		e.fences.lower(w.scope)
	}
	e.forget()
	return killed
}

// widen raises fences on what also names and the write's scope does not.
func (w *Write[K, V]) widen(also Scope) {
	switch {
	case w.scope.All:
	case also.All:
		w.engine.fences.raise(also)
		w.engine.fences.lower(w.scope)
		w.scope = Scope{All: true}
	default:
		added := slices.DeleteFunc(distinct(also.Tags), func(t Tag) bool {
			_, known := slices.BinarySearch(w.scope.Tags, t)
			return known
		})
		w.engine.fences.raise(Scope{Tags: added})
		w.scope.Tags = append(w.scope.Tags, added...)
	}
}
