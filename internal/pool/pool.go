// Package pool runs the same work on many items, a few at a time.
package pool

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
)

// Result is what became of one item. Err is set, and Value is not, if the work
// panicked or called runtime.Goexit.
type Result[R any] struct {
	Value R
	Err   error
}

// Each calls work for each item, on at most n goroutines, and yields one
// result for each call, in the order in which they end, on the caller's
// goroutine. When ctx ends it begins no further item; the results of those
// under way still come. It leaves no goroutine behind, even if the consumer
// stops early or panics.
func Each[T, R any](ctx context.Context, items []T, n int, work func(T) R) iter.Seq[Result[R]] {
	return func(yield func(Result[R]) bool) {
		ctx, stop := context.WithCancel(ctx)
		jobs := make(chan T)
		results := make(chan Result[R])
		var workers sync.WaitGroup
		for range min(n, len(items)) {
			workers.Go(func() {
				for item := range jobs {
					one(item, work, results)
				}
			})
		}
		go func() {
			defer close(results)
			defer workers.Wait()
			defer close(jobs)
			for _, item := range items {
				// An ended context wins over a free worker.
				if ctx.Err() != nil {
					return
				}
				select {
				case jobs <- item:
				case <-ctx.Done():
					return
				}
			}
		}()
		defer func() {
			stop()
			for range results { // let the workers go
			}
		}()
		for r := range results {
			if !yield(r) {
				return
			}
		}
	}
}

// one does the work on one item and sends exactly one result.
func one[T, R any](item T, work func(T) R, results chan<- Result[R]) {
	r := Result[R]{Err: errors.New("runtime.Goexit was called")}
	defer func() {
		if p := recover(); p != nil {
			r.Err = fmt.Errorf("panic: %v", p)
		}
		results <- r
	}()
	r = Result[R]{Value: work(item)}
}
