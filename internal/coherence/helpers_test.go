package coherence

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// doc is a value with a reference in it, so that sharing one shows.
type doc struct{ text []string }

func cloneDoc(d *doc) *doc {
	if d == nil {
		return nil
	}
	return &doc{text: append([]string(nil), d.text...)}
}

type engine = Engine[string, *doc]

// config is a plain configuration: no jitter, no time-out, no uncertainty.
func config() Config[string, *doc] {
	return Config[string, *doc]{Size: 10, TTL: time.Minute, NegativeTTL: 10 * time.Second, Clone: cloneDoc}
}

func found(text string, tags ...Tag) Answer[*doc] {
	return Answer[*doc]{Value: &doc{text: []string{text}}, Class: Found, Tags: tags}
}

// load answers key from the repository function fetch and fails the test
// unless the outcome is want.
func load(t *testing.T, e *engine, want Outcome, key string, tag Tag, fetch func(context.Context) Answer[*doc]) Result[*doc] {
	t.Helper()
	r := e.Load(t.Context(), Request[string, *doc]{Key: key, Tags: []Tag{tag}, Fetch: fetch})
	if r.Outcome != want {
		t.Fatalf("Load(%q): outcome %v, want %v", key, r.Outcome, want)
	}
	return r
}

// put loads a found answer into e.
func put(t *testing.T, e *engine, key string, tag Tag, more ...Tag) {
	t.Helper()
	r := load(t, e, Loaded, key, tag, func(context.Context) Answer[*doc] { return found(key, more...) })
	if !r.Stored {
		t.Fatalf("the answer to %q was not stored", key)
	}
}

// cached fails the test unless memory answers exactly those of keys in want.
func cached(t *testing.T, e *engine, keys []string, want ...string) {
	t.Helper()
	wanted := make(map[string]bool)
	for _, k := range want {
		wanted[k] = true
	}
	for _, k := range keys {
		if _, ok := e.Lookup(k); ok != wanted[k] {
			t.Errorf("%q is cached: %v, want %v", k, ok, wanted[k])
		}
	}
}

// parked is a load that waits, once started, until it is let go.
type parked struct {
	began, letGo chan struct{}
	result       chan Result[*doc]
	ctx          context.Context // that the load was given
}

// park starts a load of key in the background and returns when it has begun.
// It answers with answer once it is let go.
func park(ctx context.Context, e *engine, key string, tag Tag, answer Answer[*doc]) *parked {
	p := &parked{began: make(chan struct{}), letGo: make(chan struct{}), result: make(chan Result[*doc], 1)}
	go func() {
		p.result <- e.Load(ctx, Request[string, *doc]{Key: key, Tags: []Tag{tag}, Fetch: func(ctx context.Context) Answer[*doc] {
			p.ctx = ctx
			close(p.began)
			<-p.letGo
			return answer
		}})
	}()
	<-p.began
	return p
}

func (p *parked) finish() Result[*doc] {
	close(p.letGo)
	return <-p.result
}

// bubble runs f where time stands still until everybody waits.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// goexits reports whether f ends by runtime.Goexit, and what it panics with.
func goexits(f func()) (exited bool, panicked any) {
	var wg sync.WaitGroup
	wg.Go(func() {
		returned := false
		defer func() {
			panicked = recover()
			exited = !returned && panicked == nil
		}()
		f()
		returned = true
	})
	wg.Wait()
	return exited, panicked
}

// pass lets the clock of a bubble run on.
func pass(d time.Duration) { <-time.After(d) }

func goexit() { runtime.Goexit() }
