package coherence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A second lookup is answered from memory, by a copy that nobody else holds.
func TestHitIsACopy(t *testing.T) {
	e := New(config())
	own := found("new", 2)
	r := load(t, e, Loaded, "k", 1, func(context.Context) Answer[*doc] { return own })
	if r.Value != own.Value {
		t.Error("the caller that loaded did not get the repository's own value")
	}
	own.Value.text[0] = "vandalised"
	for range 2 {
		a, ok := e.Lookup("k")
		if !ok || a.Class != Found || a.Err != nil || a.Value.text[0] != "new" {
			t.Fatalf("Lookup = %+v, %v", a, ok)
		}
		a.Value.text[0] = "vandalised"
	}
	if r := load(t, e, Hit, "k", 1, nil); r.Value.text[0] != "new" {
		t.Errorf("Load of what is cached = %v", r.Value)
	}
}

// An entry lives for its TTL from the start of its load, however often it is
// used, and whatever the wall clock says.
func TestTTLCountsFromTheStartOfTheLoad(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := New(config())
		p := park(t.Context(), e, "k", 1, found("k"))
		pass(20 * time.Second) // the load takes that long
		if r := p.finish(); !r.Stored {
			t.Fatal("not stored")
		}
		for range 39 {
			pass(time.Second)
			if _, ok := e.Lookup("k"); !ok {
				t.Fatal("expired early")
			}
		}
		pass(time.Second)
		if _, ok := e.Lookup("k"); ok {
			t.Error("alive at its TTL")
		}
	})
}

// A load that takes longer than the TTL is not stored, whatever the TTL.
func TestLoadLongerThanTTL(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := config()
		cfg.TTL = 1
		e := New(cfg)
		p := park(t.Context(), e, "k", 1, found("k"))
		pass(time.Millisecond)
		if r := p.finish(); r.Stored || r.Full || r.Value.text[0] != "k" {
			t.Errorf("result %+v", r)
		}
		if c := e.Counts(); c.Found != 0 {
			t.Errorf("%d entries", c.Found)
		}
	})
}

// Jitter takes at most its part off a lifetime, and not the same from each.
func TestJitter(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := config()
		cfg.Size, cfg.TTL, cfg.Jitter = 1000, 100*time.Second, 0.5
		e := New(cfg)
		for i := range cfg.Size {
			put(t, e, fmt.Sprint(i), 1)
		}
		var left []int
		for range 10 {
			left = append(left, e.Counts().Found)
			pass(10 * time.Second)
		}
		// Lifetimes are uniform between 50 and 100 seconds.
		if !slices.Equal(left[:6], []int{1000, 1000, 1000, 1000, 1000, 1000}) {
			t.Errorf("entries left at 0, 10, … 50 seconds: %v, want all", left[:6])
		}
		for i, want := range []int{800, 600, 400, 200} {
			if got := left[6+i]; got < want-100 || got > want+100 {
				t.Errorf("after %d seconds %d entries are left, want about %d", 60+10*i, got, want)
			}
		}
		if c := e.Counts(); c.Found != 0 || c.EvictedExpired != 1000 {
			t.Errorf("after the TTL: %+v", c)
		}
	})
}

// What is full drops what was used least recently; a use counts once it is
// useInterval after the last one that did.
func TestEvictionOfTheLeastRecent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := config()
		cfg.Size = 3
		e := New(cfg)
		keys := []string{"a", "b", "c", "d", "e"}
		for _, k := range keys[:3] {
			put(t, e, k, 1)
		}
		e.Lookup("a") // too soon to count
		put(t, e, "d", 1)
		cached(t, e, keys, "b", "c", "d")
		pass(useInterval)
		e.Lookup("b")
		put(t, e, "e", 1)
		cached(t, e, keys, "b", "d", "e")
		if c := e.Counts(); c.Found != 3 || c.EvictedCapacity != 2 || c.EvictedExpired != 0 {
			t.Errorf("counts %+v", c)
		}
	})
}

// A hit does not wait for the lock, not even to say that it happened.
func TestHitTakesNoLock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := New(config())
		put(t, e, "k", 1)
		pass(useInterval)
		e.mu.Lock()
		defer e.mu.Unlock()
		if _, ok := e.Lookup("k"); !ok {
			t.Error("no hit")
		}
	})
}

// An entry whose time is over makes room before any that lives.
func TestExpiredEntriesLeaveFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := config()
		cfg.Size = 3
		e := New(cfg)
		put(t, e, "old", 1)
		pass(59 * time.Second)
		put(t, e, "a", 1)
		e.Lookup("old") // the most recently used but one
		put(t, e, "b", 1)
		pass(time.Second)
		put(t, e, "c", 1)
		cached(t, e, []string{"old", "a", "b", "c"}, "a", "b", "c")
		if c := e.Counts(); c.EvictedExpired != 1 || c.EvictedCapacity != 0 {
			t.Errorf("counts %+v", c)
		}
	})
}

// The load of an expired entry takes its place.
func TestReloadOfAnExpiredEntry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := New(config())
		put(t, e, "k", 1)
		pass(time.Minute)
		put(t, e, "k", 1)
		if c := e.Counts(); c.Found != 1 || c.EvictedExpired != 1 {
			t.Errorf("counts %+v", c)
		}
	})
}

// Answers of nobody have a lifetime and a size of their own, and keep the very
// error.
func TestAbsentAnswers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := config()
		cfg.Size = 2
		e := New(cfg)
		nobody := errors.New("nobody")
		absent := func(context.Context) Answer[*doc] { return Answer[*doc]{Err: nobody, Class: Absent} }
		put(t, e, "user", 1)
		for i := range 100 {
			load(t, e, Loaded, fmt.Sprint(i), 2, absent)
		}
		cached(t, e, []string{"user", "97", "98", "99"}, "user", "98", "99")
		a, _ := e.Lookup("99")
		if a.Err != nobody || a.Value != nil || a.Class != Absent {
			t.Errorf("Lookup = %+v", a)
		}
		if c := e.Counts(); c.Found != 1 || c.Absent != 2 || c.EvictedCapacity != 98 {
			t.Errorf("counts %+v", c)
		}
		pass(cfg.NegativeTTL)
		cached(t, e, []string{"user", "98", "99"}, "user")

		// The user comes to be, and is gone again: one entry at a time.
		put(t, e, "99", 2)
		if c := e.Counts(); c.Found != 2 || c.Absent != 0 {
			t.Errorf("counts %+v", c)
		}
	})
}

// Without a lifetime for them, answers of nobody are shared and not stored.
func TestNoNegativeTTL(t *testing.T) {
	cfg := config()
	cfg.NegativeTTL = 0
	e := New(cfg)
	r := load(t, e, Loaded, "k", 1, func(context.Context) Answer[*doc] { return Answer[*doc]{Class: Absent} })
	if r.Stored {
		t.Error("stored")
	}
	cached(t, e, []string{"k"})
}

// Answers of the other classes are never stored.
func TestClassesThatAreNotStored(t *testing.T) {
	e := New(config())
	for _, class := range []Class{Private, Transient} {
		r := load(t, e, Loaded, "k", 1, func(context.Context) Answer[*doc] {
			return Answer[*doc]{Value: &doc{}, Class: class}
		})
		if r.Stored {
			t.Errorf("class %v was stored", class)
		}
	}
	cached(t, e, []string{"k"})
}

// KeepOthers stores where there is room and evicts nothing that lives.
func TestKeepOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := config()
		cfg.Size = 2
		e := New(cfg)
		warm := func(key string) Result[*doc] {
			return e.Load(t.Context(), Request[string, *doc]{
				Key: key, Tags: []Tag{1}, KeepOthers: true,
				Fetch: func(context.Context) Answer[*doc] { return found(key) },
			})
		}
		put(t, e, "old", 1)
		pass(30 * time.Second)
		if r := warm("a"); !r.Stored || r.Full {
			t.Errorf("with room: %+v", r)
		}
		if r := warm("b"); r.Stored || !r.Full || r.Value.text[0] != "b" {
			t.Errorf("when full: %+v", r)
		}
		cached(t, e, []string{"old", "a", "b"}, "old", "a")
		pass(30 * time.Second)
		if r := warm("b"); !r.Stored {
			t.Errorf("in place of what has expired: %+v", r)
		}
		cached(t, e, []string{"old", "a", "b"}, "a", "b")
	})
}

// 100 000 entries that expire at once go a batch at a time, without a
// goroutine for each, and hits go on meanwhile.
func TestManyExpireAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := config()
		cfg.Size = 100_001
		e := New(cfg)
		for i := range 100_000 {
			put(t, e, fmt.Sprint(i), Tag(i+1), Broad)
		}
		pass(30 * time.Second)
		put(t, e, "fresh", 1)
		pass(30 * time.Second)
		put(t, e, "next", 1)
		e.mu.Lock()
		left := len(e.found.queue)
		e.mu.Unlock()
		if left != 100_002-purgeBatch {
			t.Errorf("%d entries left after one store, want %d", left, 100_002-purgeBatch)
		}
		var wg sync.WaitGroup
		wg.Go(func() { e.Counts() })
		for range 1000 {
			if _, ok := e.Lookup("fresh"); !ok {
				t.Error("no hit")
			}
		}
		wg.Wait()
		synctest.Wait()
		if c := e.Counts(); c.Found != 2 || c.EvictedExpired != 100_000 {
			t.Errorf("counts %+v", c)
		}
		if n := e.tags.count + e.index.count; n != 4 {
			t.Errorf("%d places in the indexes, want 2 entries and 2 tags", n)
		}
	})
}

// However the tables grow and shrink, each key finds its own entry and each
// tag its carriers.
func TestIndexesAgreeWithAModel(t *testing.T) {
	cfg := config()
	cfg.Size = 1 << 20
	e := New(cfg)
	tagsOf := func(i int) []Tag { return []Tag{Tag(i%7) * smallestTable, Tag(i % 1000), Tag(i)} }
	alive := make(map[int]bool)
	for i := range 5000 {
		put(t, e, fmt.Sprint(i), Tag(i)+1<<32, tagsOf(i)...)
		alive[i] = true
		if i%17 == 0 { // a tag that is in one bucket with many others
			victim := tagsOf(i * 7)[i%3]
			want := 0
			for j := range alive {
				if slices.Contains(tagsOf(j), victim) {
					delete(alive, j)
					want++
				}
			}
			if got := e.Invalidate(Scope{Tags: []Tag{victim, victim}}); got != want {
				t.Fatalf("tag %d: killed %d, want %d", victim, got, want)
			}
		}
	}
	for i := range 5000 {
		a, ok := e.Lookup(fmt.Sprint(i))
		if ok != alive[i] || ok && a.Value.text[0] != fmt.Sprint(i) {
			t.Errorf("%d: %+v, %v; want alive %v", i, a, ok, alive[i])
		}
	}
	if e.index.count != len(alive) {
		t.Errorf("the index holds %d entries, want %d", e.index.count, len(alive))
	}
	if killed := e.Flush(); killed != len(alive) {
		t.Errorf("Flush killed %d, want %d", killed, len(alive))
	}
	cached(t, e, []string{"0", "1", "4999"})
	if n := e.tags.count + e.index.count + len(e.found.queue) + e.found.cache.Len(); n != 0 {
		t.Errorf("%d things left after Flush", n)
	}
}

// Readers that race the growth of the index and removals from it see no
// other key's answer.
func TestLookupsRaceTheIndex(t *testing.T) {
	cfg := config()
	cfg.Size = 4000
	e := New(cfg)
	var readers sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for i := 0; ; i = (i + 1) % 8000 {
				select {
				case <-done:
					return
				default:
				}
				key := fmt.Sprint(i)
				if a, ok := e.Lookup(key); ok && a.Value.text[0] != key {
					t.Errorf("%s: %v", key, a.Value.text)
				}
			}
		})
	}
	for i := range 8000 {
		put(t, e, fmt.Sprint(i), Tag(i%50+1))
		if i%100 == 99 {
			e.Invalidate(Scope{Tags: []Tag{Tag(i%50 + 1)}})
		}
	}
	close(done)
	readers.Wait()
	if c := e.Counts(); c.Found == 0 || c.Found > 4000 {
		t.Errorf("counts %+v", c)
	}
}

// A reader that was under way while an entry left may still come upon it; the
// dead flag tells it so.
func TestDeadEntryIsNoHit(t *testing.T) {
	for name, end := range map[string]func(e *engine){
		"killed":  func(e *engine) { e.Invalidate(Scope{Tags: []Tag{1}}) },
		"flushed": func(e *engine) { e.Flush() },
		"evicted": func(e *engine) { put(t, e, "other", 2) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			cfg.Size = 1
			e := New(cfg)
			put(t, e, "k", 1)
			en := e.index.find(e.hash("k"), "k")
			end(e)
			e.index.insert(en)
			cached(t, e, []string{"k"})
		})
	}
}
