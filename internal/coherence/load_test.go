package coherence

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// join starts a lookup of key that must wait for a load under way, and returns
// once it does. Only in a bubble.
func join(ctx context.Context, e *engine, key string, tag Tag, fetch func(context.Context) Answer[*doc]) <-chan Result[*doc] {
	result := make(chan Result[*doc], 1)
	go func() {
		result <- e.Load(ctx, Request[string, *doc]{Key: key, Tags: []Tag{tag}, Fetch: fetch})
	}()
	synctest.Wait()
	return result
}

func noFetch(t *testing.T) func(context.Context) Answer[*doc] {
	return func(context.Context) Answer[*doc] {
		t.Error("asked the repository")
		return Answer[*doc]{}
	}
}

// Concurrent misses of one lookup share one load, and each gets a copy of its
// own; the note of the load goes to those who joined.
func TestMissesShareOneLoad(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := New(config())
		answer := found("k")
		answer.Note = "note"
		p := park(t.Context(), e, "k", 1, answer)
		a, b := join(t.Context(), e, "k", 1, noFetch(t)), join(t.Context(), e, "k", 1, noFetch(t))
		own := p.finish()
		ra, rb := <-a, <-b
		if own.Outcome != Loaded || own.Value != answer.Value {
			t.Errorf("starter: %+v", own)
		}
		for _, r := range []Result[*doc]{ra, rb} {
			if r.Outcome != Joined || r.Value.text[0] != "k" || r.Note != "note" || !r.Stored {
				t.Errorf("joined: %+v", r)
			}
		}
		if ra.Value == rb.Value || ra.Value == own.Value {
			t.Error("two callers hold one value")
		}
		a1, _ := e.Lookup("k")
		if a1.Value == ra.Value || a1.Note != nil {
			t.Errorf("the entry shares its value, or carries the note: %+v", a1)
		}
	})
}

// An error is shared, and forgotten.
func TestErrorsAreSharedAndNotStored(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := New(config())
		broken := errors.New("broken")
		p := park(t.Context(), e, "k", 1, Answer[*doc]{Err: broken, Class: Transient})
		j := join(t.Context(), e, "k", 1, noFetch(t))
		if r := p.finish(); r.Err != broken || r.Stored {
			t.Errorf("starter: %+v", r)
		}
		if r := <-j; r.Err != broken || r.Outcome != Joined {
			t.Errorf("joined: %+v", r)
		}
		put(t, e, "k", 1)
	})
}

// Nobody joins a load that began before a write of the looked-up name.
func TestNoJoiningAcrossAFence(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := New(config())
		old := park(t.Context(), e, "k", 1, found("old"))
		e.Invalidate(Scope{Tags: []Tag{1}})
		fresh := park(t.Context(), e, "k", 1, found("new")) // a load of its own
		j := join(t.Context(), e, "k", 1, noFetch(t))       // which others join
		if r := old.finish(); r.Value.text[0] != "old" || r.Stored {
			t.Errorf("old load: %+v", r)
		}
		cached(t, e, []string{"k"})
		if r := fresh.finish(); r.Value.text[0] != "new" || !r.Stored {
			t.Errorf("new load: %+v", r)
		}
		if r := <-j; r.Outcome != Joined || r.Value.text[0] != "new" {
			t.Errorf("joined: %+v", r)
		}
	})
}

// Whoever joined a load that a write overtook starts over: the write may be
// told by the tags of the lookup, or of the answer alone. The caller that
// started the load keeps its answer.
func TestJoinersOfAnOvertakenLoadStartOver(t *testing.T) {
	for name, written := range map[string]Tag{"tag of the lookup": 1, "tag of the answer": 2} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := New(config())
				p := park(t.Context(), e, "k", 1, found("old", 2))
				j := join(t.Context(), e, "k", 1, func(context.Context) Answer[*doc] { return found("new", 2) })
				e.Invalidate(Scope{Tags: []Tag{written}})
				if r := p.finish(); r.Value.text[0] != "old" || r.Stored {
					t.Errorf("starter: %+v", r)
				}
				if r := <-j; r.Outcome != Loaded || r.Value.text[0] != "new" || !r.Stored {
					t.Errorf("joined: %+v", r)
				}
			})
		})
	}
}

// A load during which a fence of its answer was up the whole time is not
// shared: the write may have been committed before the caller joined.
func TestNoSharingUnderAFence(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := New(config())
		w, _ := e.Raise(Scope{Tags: []Tag{2}})
		p := park(t.Context(), e, "k", 1, found("old", 2))
		j := join(t.Context(), e, "k", 1, func(context.Context) Answer[*doc] { return found("new", 2) })
		p.finish()
		if r := <-j; r.Value.text[0] != "new" || r.Outcome != Loaded || r.Stored {
			t.Errorf("joined: %+v", r)
		}
		w.Lower(Scope{}, false)
		put(t, e, "k", 1)
	})
}

// Private answers are not shared.
func TestPrivateAnswersAreNotShared(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := New(config())
		p := park(t.Context(), e, "k", 1, Answer[*doc]{Value: &doc{text: []string{"private"}}})
		j := join(t.Context(), e, "k", 1, func(context.Context) Answer[*doc] { return found("own") })
		p.finish()
		if r := <-j; r.Outcome != Loaded || r.Value.text[0] != "own" {
			t.Errorf("joined: %+v", r)
		}
	})
}

// After three rounds of bad luck a caller loads for itself, and no longer
// waits for others.
func TestAfterThreeRoundsACallerLoadsForItself(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := New(config())
		loads := make([]*parked, joinRounds+1)
		loads[0] = park(t.Context(), e, "k", 1, found("old"))
		var asked atomic.Bool
		unlucky := join(t.Context(), e, "k", 1, func(context.Context) Answer[*doc] {
			asked.Store(true)
			return found("own")
		})
		for i := range joinRounds {
			if asked.Load() {
				t.Fatalf("loaded for itself in round %d", i+1)
			}
			e.Invalidate(Scope{Tags: []Tag{1}})
			loads[i+1] = park(t.Context(), e, "k", 1, found("newer")) // the unlucky one will join it
			loads[i].finish()
			synctest.Wait()
		}
		if r := <-unlucky; r.Outcome != Loaded || r.Value.text[0] != "own" {
			t.Errorf("result: %+v", r)
		}
		loads[joinRounds].finish()
	})
}

// The caller that started a load leaves when its context ends; the others get
// their answer, and the load goes on under a context of its own that keeps the
// values of the first.
func TestStarterLeaves(t *testing.T) {
	type keyType struct{}
	bubble(t, func(t *testing.T) {
		e := New(config())
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), keyType{}, "value"))
		p := park(ctx, e, "k", 1, found("k"))
		j := join(t.Context(), e, "k", 1, noFetch(t))
		cancel()
		if r := <-p.result; r.Outcome != Left || r.Err != context.Canceled {
			t.Errorf("starter: %+v", r)
		}
		if p.ctx.Err() != nil || p.ctx.Value(keyType{}) != "value" {
			t.Errorf("context of the load: %v, %v", p.ctx.Err(), p.ctx.Value(keyType{}))
		}
		close(p.letGo)
		if r := <-j; r.Outcome != Joined || r.Value.text[0] != "k" {
			t.Errorf("joined: %+v", r)
		}
		cached(t, e, []string{"k"}, "k")
	})
}

// A waiter whose context ends returns at once; when the last has left, the
// load is cancelled, and nobody joins it any more.
func TestLastWaiterCancelsTheLoad(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := New(config())
		first, cancelFirst := context.WithCancel(t.Context())
		second, cancelSecond := context.WithTimeout(t.Context(), time.Second)
		defer cancelSecond()
		p := park(first, e, "k", 1, Answer[*doc]{Err: context.Canceled, Class: Transient})
		j := join(second, e, "k", 1, noFetch(t))
		if r := <-j; r.Outcome != Left || r.Err != context.DeadlineExceeded {
			t.Errorf("second: %+v", r)
		}
		if p.ctx.Err() != nil {
			t.Error("cancelled while the first waits")
		}
		cancelFirst()
		if r := <-p.result; r.Outcome != Left {
			t.Errorf("first: %+v", r)
		}
		if p.ctx.Err() != context.Canceled {
			t.Error("nobody waits, and the load was not cancelled")
		}
		put(t, e, "k", 1) // a load of its own
		close(p.letGo)
		synctest.Wait()
		if c := e.Counts(); c.LoadsInFlight != 0 || c.Found != 1 {
			t.Errorf("counts %+v", c)
		}
	})
}

// A caller whose context has ended does not start a load, but hits all the
// same.
func TestEndedContext(t *testing.T) {
	e := New(config())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := e.Load(ctx, Request[string, *doc]{Key: "k", Tags: []Tag{1}, Fetch: noFetch(t)})
	if r.Outcome != Left || r.Err != context.Canceled {
		t.Errorf("miss: %+v", r)
	}
	put(t, e, "k", 1)
	r = e.Load(ctx, Request[string, *doc]{Key: "k", Tags: []Tag{1}, Fetch: noFetch(t)})
	if r.Outcome != Hit || r.Value.text[0] != "k" {
		t.Errorf("hit: %+v", r)
	}
}

// The load's context ends after the time-out, if there is one, and with the
// load.
func TestLoadTimeout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cfg := config()
		cfg.LoadTimeout = time.Second
		e := New(cfg)
		var ctx context.Context
		began := time.Now()
		r := load(t, e, Loaded, "k", 1, func(c context.Context) Answer[*doc] {
			ctx = c
			<-c.Done()
			return Answer[*doc]{Err: c.Err(), Class: Transient}
		})
		if r.Err != context.DeadlineExceeded || time.Since(began) != time.Second {
			t.Errorf("%v after %v", r.Err, time.Since(began))
		}
		cfg.LoadTimeout = 0
		e = New(cfg)
		load(t, e, Loaded, "k", 1, func(c context.Context) Answer[*doc] {
			if _, has := c.Deadline(); has {
				t.Error("a deadline without a time-out")
			}
			ctx = c
			return found("k")
		})
		synctest.Wait()
		if ctx.Err() == nil {
			t.Error("the context outlives the load")
		}
	})
}

// A load that panics or calls Goexit does so to the caller that started it;
// the others start over, and the next call works.
func TestPanicsAndGoexit(t *testing.T) {
	ends := map[string]func(){
		"panic":     func() { panic("boom") },
		"panic nil": func() { panic(nil) },
		"goexit":    func() { goexit() },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := New(config())
				letGo := make(chan struct{})
				type ending struct {
					exited   bool
					panicked any
				}
				starter := make(chan ending, 1)
				go func() {
					exited, panicked := goexits(func() {
						e.Load(t.Context(), Request[string, *doc]{Key: "k", Tags: []Tag{1}, Fetch: func(context.Context) Answer[*doc] {
							<-letGo
							end()
							return Answer[*doc]{}
						}})
					})
					starter <- ending{exited, panicked}
				}()
				synctest.Wait()
				j := join(t.Context(), e, "k", 1, func(context.Context) Answer[*doc] { return found("own") })
				close(letGo)
				got := <-starter
				if wantExit := name == "goexit"; got.exited != wantExit || (got.panicked != nil) == wantExit {
					t.Errorf("starter: %+v", got)
				}
				if name == "panic" && got.panicked != "boom" {
					t.Errorf("panicked with %v", got.panicked)
				}
				if r := <-j; r.Outcome != Loaded || r.Value.text[0] != "own" {
					t.Errorf("joined: %+v", r)
				}
				if c := e.Counts(); c.LoadsInFlight != 0 || c.Found != 1 {
					t.Errorf("counts %+v", c)
				}
			})
		})
	}
}

// A panic that no caller waits for is reported.
func TestOrphanedPanic(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var reported []any
		cfg := config()
		cfg.Orphaned = func(p any) { reported = append(reported, p) }
		e := New(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		began, letGo := make(chan struct{}), make(chan struct{})
		result := make(chan Result[*doc])
		go func() {
			result <- e.Load(ctx, Request[string, *doc]{Key: "k", Tags: []Tag{1}, Fetch: func(context.Context) Answer[*doc] {
				close(began)
				<-letGo
				panic("boom")
			}})
		}()
		<-began
		j := join(t.Context(), e, "k", 1, func(context.Context) Answer[*doc] { return found("own") })
		cancel()
		<-result
		close(letGo)
		if r := <-j; r.Value.text[0] != "own" {
			t.Errorf("joined: %+v", r)
		}
		if len(reported) != 1 || reported[0] != "boom" {
			t.Errorf("reported %v", reported)
		}
	})
}

// A Clone that panics is a load that panics.
func TestCloneThatPanics(t *testing.T) {
	cfg := config()
	cfg.Clone = func(*doc) *doc { panic("clone") }
	e := New(cfg)
	_, panicked := goexits(func() {
		load(t, e, Loaded, "k", 1, func(context.Context) Answer[*doc] { return found("k") })
	})
	if panicked != "clone" {
		t.Errorf("panicked with %v", panicked)
	}
	if c := e.Counts(); c.LoadsInFlight != 0 || c.Found != 0 {
		t.Errorf("counts %+v", c)
	}
}
