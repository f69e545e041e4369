package pool

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func numbers(n int) []int {
	items := make([]int, n)
	for i := range items {
		items[i] = i
	}
	return items
}

func double(i int) int { return 2 * i }

// Every item is worked on once, whether there are more workers or more items.
func TestEach(t *testing.T) {
	for _, c := range []struct{ items, workers int }{{0, 3}, {1, 3}, {3, 1}, {100, 7}, {7, 100}} {
		var got []int
		for r := range Each(t.Context(), numbers(c.items), c.workers, double) {
			if r.Err != nil {
				t.Error(r.Err)
			}
			got = append(got, r.Value)
		}
		slices.Sort(got)
		var want []int
		for i := range c.items {
			want = append(want, 2*i)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}

// As many items are worked on at a time as there may be, and no more.
func TestEachIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var under atomic.Int32
		step := make(chan struct{})
		go func() {
			for range Each(t.Context(), numbers(10), 3, func(i int) int {
				under.Add(1)
				<-step
				under.Add(-1)
				return i
			}) {
			}
		}()
		for left := 10; left > 0; left-- {
			synctest.Wait()
			if n := int(under.Load()); n != min(3, left) {
				t.Errorf("%d under way with %d left", n, left)
			}
			step <- struct{}{}
		}
		synctest.Wait()
	})
}

// When the context ends no further item is begun, and those under way still
// yield their results.
func TestEachStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var begun atomic.Int32
	yielded := 0
	for range Each(ctx, numbers(100), 4, func(i int) int {
		if begun.Add(1) == 4 {
			cancel()
		}
		<-ctx.Done()
		return i
	}) {
		yielded++
	}
	if n := int(begun.Load()); yielded != n || n < 4 || n > 5 {
		t.Errorf("%d begun, %d yielded", n, yielded)
	}
	for range Each(ctx, numbers(100), 4, double) {
		t.Error("an ended context begins an item")
	}
}

// A consumer that stops early, or panics, leaves no goroutine behind and has
// no further item begun.
func TestEachStopsWithItsConsumer(t *testing.T) {
	for name, leave := range map[string]func(int) bool{
		"break": func(int) bool { return true },
		"panic": func(int) bool { panic("consumer") },
	} {
		var begun atomic.Int32
		func() {
			defer func() {
				if p := recover(); (p != nil) != (name == "panic") {
					t.Errorf("%s: recovered %v", name, p)
				}
			}()
			for r := range Each(t.Context(), numbers(1000), 2, func(i int) int {
				begun.Add(1)
				return i
			}) {
				if leave(r.Value) {
					break
				}
			}
		}()
		after := begun.Load()
		if err := goleak.Find(goleak.IgnoreCurrent()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if after == 1000 || begun.Load() != after {
			t.Errorf("%s: %d items are begun, then %d", name, after, begun.Load())
		}
	}
}

// Work that panics or leaves its goroutine is a result with an error, and the
// others go on.
func TestEachSurvivesItsWork(t *testing.T) {
	var errs []string
	ok := 0
	for r := range Each(t.Context(), numbers(10), 2, func(i int) int {
		switch i {
		case 3:
			panic("boom")
		case 5:
			runtime.Goexit()
		case 7:
			panic(fmt.Errorf("broken"))
		}
		return 1
	}) {
		ok += r.Value
		if r.Err != nil {
			errs = append(errs, r.Err.Error())
		}
	}
	slices.Sort(errs)
	if ok != 7 || strings.Join(errs, ", ") != "panic: boom, panic: broken, runtime.Goexit was called" {
		t.Errorf("%d worked, errors %q", ok, errs)
	}
}
