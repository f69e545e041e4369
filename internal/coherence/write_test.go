package coherence

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// A write kills what it names before it begins, keeps it out while it lasts,
// and lets it back in when it has ended.
func TestWriteBracket(t *testing.T) {
	e := New(config())
	put(t, e, "a", 1, 10)
	put(t, e, "b", 2, 10)
	put(t, e, "c", 3)
	keys := []string{"a", "b", "c"}

	w, killed := e.Raise(Scope{Tags: []Tag{10, 10, 99}})
	if killed != 2 {
		t.Errorf("killed %d, want 2", killed)
	}
	cached(t, e, keys, "c")
	load(t, e, Fenced, "x", 10, noFetch(t))
	// Its tag of lookup is free, its answer is not.
	if r := load(t, e, Loaded, "a", 1, func(context.Context) Answer[*doc] { return found("a", 10) }); r.Stored {
		t.Error("stored under a fence")
	}
	put(t, e, "d", 4)

	if killed := w.Lower(Scope{}, false); killed != 0 {
		t.Errorf("killed %d at the end", killed)
	}
	put(t, e, "a", 1, 10)
	if c := e.Counts(); c.FencesRemembered != 0 {
		t.Errorf("counts %+v", c)
	}
}

// A load is refused if a write of any of its tags overlaps it in any way, and
// only then.
func TestOverlapOfLoadAndWrite(t *testing.T) {
	const (
		lookupTag = Tag(1)
		answerTag = Tag(2)
		otherTag  = Tag(3)
	)
	for _, tag := range []Tag{lookupTag, answerTag, otherTag} {
		for name, steps := range map[string]struct {
			script string // what happens in turn: Raise, Lower, Begin, End
			fit    bool
		}{
			"ended before":        {"RLBE", true},
			"begins after":        {"BERL", true},
			"within":              {"BRLE", false},
			"begins within":       {"BREL", false},
			"ends within":         {"RBLE", false},
			"lasts all the while": {"RBEL", false},
			"twice, one lasts":    {"RRBLEL", false},
			"twice, both before":  {"RRLLBE", true},
		} {
			t.Run(fmt.Sprintf("%s, tag %d", name, tag), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					refused := 0
					cfg := config()
					cfg.Refused = func(string) { refused++ }
					e := New(cfg)
					var writes []*Write[string, *doc]
					var p *parked
					stored := false
					for _, step := range steps.script {
						switch step {
						case 'R':
							w, _ := e.Raise(Scope{Tags: []Tag{tag}})
							writes = append(writes, w)
						case 'L':
							writes[0].Lower(Scope{}, false)
							writes = writes[1:]
						case 'B':
							if tag == lookupTag && len(writes) > 0 {
								for _, w := range writes {
									w.Lower(Scope{}, false)
								}
								return // fenced off
							}
							p = park(t.Context(), e, "k", lookupTag, found("k", answerTag))
						case 'E':
							stored = p.finish().Stored
						}
					}
					want := steps.fit || tag == otherTag
					if stored != want || (refused == 0) != want {
						t.Errorf("stored %v, refused %d times; want stored %v", stored, refused, want)
					}
					if c := e.Counts(); c.FencesRemembered != 0 || c.LoadsInFlight != 0 {
						t.Errorf("left behind: %+v", c)
					}
				})
			})
		}
	}
}

// Everything is a scope: of writes, of flushes, of switching off and on.
func TestEverything(t *testing.T) {
	for name, do := range map[string]func(e *engine){
		"write":      func(e *engine) { w, _ := e.Raise(Scope{All: true}); w.Lower(Scope{}, false) },
		"flush":      func(e *engine) { e.Flush() },
		"off and on": func(e *engine) { e.SetEnabled(false); e.SetEnabled(true) },
		"write that turns out to be of everything": func(e *engine) {
			w, _ := e.Raise(Scope{Tags: []Tag{99}})
			w.Lower(Scope{All: true}, false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := New(config())
				put(t, e, "a", 1)
				p := park(t.Context(), e, "b", 2, found("b"))
				do(e)
				if p.finish().Stored {
					t.Error("the load in flight was stored")
				}
				cached(t, e, []string{"a", "b"})
				put(t, e, "a", 1)
			})
		})
	}
}

// While everything is being written, every lookup is fenced off.
func TestFenceOnEverything(t *testing.T) {
	e := New(config())
	w, _ := e.Raise(Scope{All: true})
	load(t, e, Fenced, "k", 1, noFetch(t))
	w.Lower(Scope{Tags: []Tag{1}}, false)
	put(t, e, "k", 1)
}

// What a write turns out to have made is killed at its end, and loads that
// began before are refused.
func TestTagsKnownAfterTheWrite(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := New(config())
		w, _ := e.Raise(Scope{Tags: []Tag{1}})
		put(t, e, "b", 2)
		p := park(t.Context(), e, "c", 2, found("c"))
		if killed := w.Lower(Scope{Tags: []Tag{1, 2, 2}}, false); killed != 1 {
			t.Errorf("killed %d, want 1", killed)
		}
		cached(t, e, []string{"b"})
		if p.finish().Stored {
			t.Error("stored")
		}
		put(t, e, "b", 2)
		put(t, e, "a", 1)
		if c := e.Counts(); c.FencesRemembered != 0 {
			t.Errorf("counts %+v", c)
		}
	})
}

// After a write of uncertain outcome, what it named, before or after, is not
// answered from memory until the window is over; then again.
func TestUncertainWrite(t *testing.T) {
	for name, raised := range map[string]Scope{"tags": {Tags: []Tag{1}}, "everything": {All: true}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				cfg := config()
				cfg.Uncertainty = 5 * time.Second
				e := New(cfg)
				w, _ := e.Raise(raised)
				pass(time.Second)
				w.Lower(Scope{Tags: []Tag{2}}, true)
				pass(5*time.Second - 1)
				load(t, e, Fenced, "a", 1, noFetch(t))
				load(t, e, Fenced, "b", 2, noFetch(t))
				pass(1)
				put(t, e, "a", 1)
				put(t, e, "b", 2)
				if c := e.Counts(); c.FencesRemembered != 0 {
					t.Errorf("counts %+v", c)
				}
			})
		})
	}
}

// A load that began before the window was over is refused, even if it ends
// after and nothing else happened in between; one that began after is not.
func TestEndOfTheWindowIsALowering(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := config()
		cfg.Uncertainty = 5 * time.Second
		e := New(cfg)
		w, _ := e.Raise(Scope{Tags: []Tag{2}})
		w.Lower(Scope{}, true)
		pass(5*time.Second - 1)
		before := park(t.Context(), e, "a", 1, found("old", 2))
		pass(1)
		after := park(t.Context(), e, "b", 3, found("new", 2))
		pass(time.Second)
		if before.finish().Stored {
			t.Error("the load from before the end was stored")
		}
		if !after.finish().Stored {
			t.Error("the load from after the end was refused")
		}
	})
}

// A second write that is certain does not end the window of the first.
func TestWindowsOverlap(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := config()
		cfg.Uncertainty = 5 * time.Second
		e := New(cfg)
		write := func(uncertain bool) {
			w, _ := e.Raise(Scope{Tags: []Tag{1}})
			w.Lower(Scope{}, uncertain)
		}
		write(true)
		pass(3 * time.Second)
		write(false)
		load(t, e, Fenced, "a", 1, noFetch(t))
		write(true)
		pass(4 * time.Second) // the first window is over, the second is not
		load(t, e, Fenced, "a", 1, noFetch(t))
		pass(time.Second)
		put(t, e, "a", 1)
	})
}

// Without a window, an uncertain write is over when it has ended.
func TestNoUncertainty(t *testing.T) {
	e := New(config())
	w, _ := e.Raise(Scope{Tags: []Tag{1}})
	w.Lower(Scope{}, true)
	put(t, e, "a", 1)
}

// Fences outlive a full cache, evictions and a flush.
func TestFencesSurvive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := config()
		cfg.Size = 1
		e := New(cfg)
		p := park(t.Context(), e, "k", 1, found("old"))
		w, _ := e.Raise(Scope{Tags: []Tag{1}})
		for i := range 10 {
			put(t, e, fmt.Sprint(i), Tag(i+2))
		}
		e.Flush()
		load(t, e, Fenced, "k", 1, noFetch(t))
		w.Lower(Scope{}, false)
		if p.finish().Stored {
			t.Error("stored")
		}
	})
}

// Switched off, the engine stores nothing and answers nothing; its fences
// work.
func TestSwitchedOffDuringAWrite(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := New(config())
		put(t, e, "k", 1)
		p := park(t.Context(), e, "b", 1, found("old"))
		if killed := e.SetEnabled(false); killed != 1 || e.Enabled() {
			t.Errorf("killed %d, enabled %v", killed, e.Enabled())
		}
		if killed := e.SetEnabled(false); killed != 0 {
			t.Errorf("killed %d", killed)
		}
		load(t, e, Disabled, "k", 1, noFetch(t))
		w, _ := e.Raise(Scope{Tags: []Tag{1}})
		e.SetEnabled(true)
		load(t, e, Fenced, "k", 1, noFetch(t))
		w.Lower(Scope{}, false)
		if p.finish().Stored {
			t.Error("a load from before was stored")
		}
		put(t, e, "k", 1)
	})
}

// Closed, the engine stays closed; what is under way ends in peace.
func TestClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := New(config())
		put(t, e, "k", 1)
		p := park(t.Context(), e, "b", 1, found("b"))
		w, _ := e.Raise(Scope{Tags: []Tag{2}})
		if killed := e.Close(); killed != 1 {
			t.Errorf("killed %d", killed)
		}
		if killed := e.Close(); killed != 0 {
			t.Errorf("killed %d the second time", killed)
		}
		e.SetEnabled(true)
		e.SetEnabled(false)
		if e.Enabled() {
			t.Error("enabled")
		}
		load(t, e, Closed, "k", 1, noFetch(t))
		w.Lower(Scope{}, true)
		if r := p.finish(); r.Stored || r.Value.text[0] != "b" {
			t.Errorf("%+v", r)
		}
		cached(t, e, []string{"k", "b"})
	})
}

// One load in flight while a million writes come and go: the record of fences
// stays bounded, the load is refused, and a later one is not.
func TestFencesAreBoundedByAConstant(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := New(config())
		p := park(t.Context(), e, "k", 1, found("k"))
		most := 0
		for i := range 1_000_000 {
			e.Invalidate(Scope{Tags: []Tag{Tag(i + 10)}})
			most = max(most, len(e.fences.tags), e.fences.lowered.len())
		}
		if most > maxRemembered+1 {
			t.Errorf("%d fences remembered", most)
		}
		q := park(t.Context(), e, "q", 2, found("q"))
		if p.finish().Stored {
			t.Error("stored, although the record was given up")
		}
		if !q.finish().Stored {
			t.Error("a load from after that was refused")
		}
		if c := e.Counts(); c.FencesRemembered != 0 {
			t.Errorf("counts %+v", c)
		}
	})
}

// Writes that fail one after the other are remembered up to a bound, beyond
// which everything is fenced until the last window is over.
func TestLingeringFencesAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := config()
		cfg.Uncertainty = 5 * time.Second
		e := New(cfg)
		put(t, e, "other", 1)
		fail := func(i int) {
			w, _ := e.Raise(Scope{Tags: []Tag{Tag(i + 10)}})
			w.Lower(Scope{}, true)
		}
		for i := range maxRemembered {
			fail(i)
		}
		put(t, e, "another", 2)
		load(t, e, Fenced, "k", 10, noFetch(t))
		pass(time.Second)
		fail(maxRemembered)
		for i := range 1000 {
			fail(i)
		}
		if n := len(e.fences.tags) + e.fences.lingering.len(); n > maxRemembered+2 {
			t.Errorf("%d fences and windows", n)
		}
		cached(t, e, []string{"other", "another"}, "other", "another") // untouched by any of the writes
		load(t, e, Fenced, "k", 3, noFetch(t))
		pass(5*time.Second - 1)
		load(t, e, Fenced, "k", 10, noFetch(t))
		pass(1)
		put(t, e, "k", 10)
		if c := e.Counts(); c.FencesRemembered != 0 || e.fences.lingeringTags != 0 || e.fences.all.up != 0 {
			t.Errorf("left: %+v, %d tags, %d on everything", c, e.fences.lingeringTags, e.fences.all.up)
		}
	})
}

// A queue gives back what it was given, in order, and its memory.
func TestQueue(t *testing.T) {
	var q queue[int]
	next := 0
	for i := range 1000 {
		q.push(i)
		if i%3 != 0 {
			if got := *q.first(); got != next {
				t.Fatalf("first = %d, want %d", got, next)
			}
			if got := q.pop(); got != next {
				t.Fatalf("pop = %d, want %d", got, next)
			}
			next++
		}
	}
	for ; q.len() > 0; next++ {
		if got := q.pop(); got != next {
			t.Fatalf("pop = %d, want %d", got, next)
		}
	}
	if next != 1000 || len(q.items) != 0 {
		t.Errorf("%d popped, %d left", next, len(q.items))
	}
}
