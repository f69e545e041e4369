package usercache_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/repositorytest"
)

// crowd is a cache over a Memory with n users, who have the accounts 0 to n-1
// on twitch, and the lookups of those.
func crowd(t *testing.T, n int, opts ...usercache.Option) (*cache, *repositorytest.Memory, []usercache.Lookup) {
	t.Helper()
	repo := repositorytest.NewMemory()
	var lookups []usercache.Lookup
	for i := range n {
		u := user{Username: fmt.Sprint("user", i), Accounts: []usercache.Account{{Platform: "twitch", ID: strconv.Itoa(i)}}}
		if err := repo.UpsertUser(t.Context(), &u); err != nil {
			t.Fatal(err)
		}
		lookups = append(lookups, usercache.ByPlatformID("twitch", strconv.Itoa(i)))
	}
	c, err := usercache.New(repo, usercache.UserSchema(), append([]usercache.Option{usercache.WithPreciseUsernames()}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, repo, lookups
}

// What was warmed is answered from memory afterwards; the loads count as
// neither hits nor misses, and every lookup counts once in the report.
func TestWarm(t *testing.T) {
	c, repo, lookups := crowd(t, 20)
	broken := errors.New("broken")
	repo.Before = func(_ context.Context, method string) error {
		if method == "GetUserByID" {
			return broken
		}
		return nil
	}
	lookups = append(lookups, lookups[0], // there already
		usercache.ByPlatformID("twitch", "nobody"), usercache.ByPlatformUsername("twitch", "nobody"),
		usercache.ByPlatformUsername("twitch", strings.Repeat("x", 1025)),
		usercache.ByID("1"))
	var progress []usercache.WarmProgress
	caller := goroutine()
	report, err := c.Warm(t.Context(), lookups, usercache.WithWarmConcurrency(3), usercache.WithWarmProgress(func(p usercache.WarmProgress) {
		if goroutine() != caller {
			t.Error("progress comes on another goroutine")
		}
		progress = append(progress, p)
	}))
	if err != nil {
		t.Fatal(err)
	}
	if report.Total != 25 || report.Warmed != 21 || report.Absent != 2 || report.Failed != 1 || report.Skipped != 1 || !errors.Is(report.FirstError, broken) {
		t.Errorf("the report is %+v", report)
	}
	if len(progress) != 25 || progress[24] != (usercache.WarmProgress{Done: 25, Failed: 1, Total: 25}) {
		t.Errorf("the progress is %v", progress)
	}
	for i, p := range progress {
		if p.Done != i+1 || p.Total != 25 {
			t.Errorf("progress %d is %+v", i, p)
		}
	}
	if s := c.Stats(); s.TotalHits() != 0 || s.TotalMisses() != 0 || s.Size.Found != 20 || s.Size.NotFound != 2 {
		t.Errorf("after warming: %+v", s)
	}
	repo.Before = func(_ context.Context, method string) error {
		t.Errorf("%s is called for what was warmed", method)
		return nil
	}
	for i := range 20 {
		if u, err := c.GetUserByPlatformID(t.Context(), "twitch", strconv.Itoa(i)); err != nil || u.Username != fmt.Sprint("user", i) {
			t.Errorf("user %d: %v, %v", i, u, err)
		}
	}
	repo.Before = nil
}

// goroutine names the calling goroutine.
func goroutine() string {
	var b [64]byte
	id, _, _ := strings.Cut(string(b[:runtime.Stack(b[:], false)]), " [")
	return id
}

// Just as many loads run at a time as are asked for.
func TestWarmConcurrency(t *testing.T) {
	for _, n := range []int{1, 3, 8} {
		synctest.Test(t, func(t *testing.T) {
			c, repo, lookups := crowd(t, 30)
			var mu sync.Mutex
			under, most := 0, 0
			release := make(chan struct{})
			repo.Before = func(context.Context, string) error {
				mu.Lock()
				under++
				most = max(most, under)
				mu.Unlock()
				<-release
				mu.Lock()
				under--
				mu.Unlock()
				return nil
			}
			var opts []usercache.WarmOption
			if n != 8 { // the default
				opts = append(opts, usercache.WithWarmConcurrency(n))
			}
			go func() {
				if r, err := c.Warm(context.Background(), lookups, opts...); err != nil || r.Warmed != 30 {
					t.Errorf("%+v, %v", r, err)
				}
			}()
			synctest.Wait()
			mu.Lock()
			if under != n {
				t.Errorf("%d loads are under way, want %d", under, n)
			}
			mu.Unlock()
			close(release)
			synctest.Wait()
			if most != n {
				t.Errorf("up to %d loads were under way, want %d", most, n)
			}
		})
	}
}

// Warming stops when its context ends. It does not wait for loads that hang,
// and says how much is left.
func TestWarmStopsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, repo, lookups := crowd(t, 30)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		calls := 0
		repo.Before = func(ctx context.Context, _ string) error {
			if calls++; calls > 10 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		go func() {
			synctest.Wait()
			cancel()
		}()
		r, err := c.Warm(ctx, lookups, usercache.WithWarmConcurrency(1))
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "20 of 30 lookups left") {
			t.Errorf("the error is %v", err)
		}
		if r.Warmed != 10 || r.Skipped != 20 || r.Failed != 0 || r.Total != 30 {
			t.Errorf("the report is %+v", r)
		}
		r, err = c.Warm(ctx, lookups)
		if !errors.Is(err, context.Canceled) || r.Skipped != 30 || calls != 11 {
			t.Errorf("under an ended context: %+v, %v, %d calls", r, err, calls)
		}
	})
}

// A full cache is left as it is: what is in it is in use, or was asked for
// first.
func TestWarmStopsWhenTheCacheIsFull(t *testing.T) {
	c, repo, lookups := crowd(t, 30, usercache.WithSize(10))
	for i := range 4 { // in use already
		if _, err := c.GetUserByPlatformID(t.Context(), "twitch", strconv.Itoa(29-i)); err != nil {
			t.Fatal(err)
		}
	}
	calls := 0
	repo.Before = func(context.Context, string) error {
		calls++
		return nil
	}
	r, err := c.Warm(t.Context(), lookups, usercache.WithWarmConcurrency(1))
	if err != nil || r.Warmed != 6 || r.Skipped != 24 || calls > 8 {
		t.Errorf("%+v, %v, %d calls", r, err, calls)
	}
	if s := c.Stats(); s.Size.Found != 10 || s.Evictions.Capacity != 0 {
		t.Errorf("%+v", s)
	}
	calls = 0
	for _, i := range []int{0, 1, 2, 3, 4, 5, 26, 27, 28, 29} {
		if _, err := c.GetUserByPlatformID(t.Context(), "twitch", strconv.Itoa(i)); err != nil || calls != 0 {
			t.Errorf("user %d is gone: %v", i, err)
		}
	}
}

// What a write is changing meanwhile is not stored, by the guard that all
// loads have.
func TestWarmDuringWrites(t *testing.T) {
	c, repo, lookups := crowd(t, 3)
	u, err := repo.GetUserByPlatformID(t.Context(), "twitch", "0")
	if err != nil {
		t.Fatal(err)
	}
	err = c.Mutate(t.Context(), func(ctx context.Context) error {
		r, err := c.Warm(ctx, lookups)
		if r.Warmed != 2 || r.Skipped != 1 {
			t.Errorf("during a write: %+v", r)
		}
		return err
	}, usercache.Identity{Accounts: u.Accounts})
	if err != nil {
		t.Fatal(err)
	}

	c.Flush()
	repo.After = func(ctx context.Context, method string) error {
		if method != "GetUserByPlatformID" {
			return nil
		}
		repo.After = nil
		u.Username = "renamed"
		return c.UpdateUser(ctx, *u) // after the load has read, before it returns
	}
	if r, err := c.Warm(t.Context(), lookups[:1]); err != nil || r.Warmed != 0 || r.Skipped != 1 {
		t.Errorf("a load that is overtaken: %+v, %v", r, err)
	}
	if got, err := c.GetUserByPlatformID(t.Context(), "twitch", "0"); err != nil || got.Username != "renamed" {
		t.Errorf("after the write: %v, %v", got, err)
	}
}

// A repository that panics or leaves its goroutine fails that lookup and no
// other.
func TestWarmSurvivesPanics(t *testing.T) {
	for name, explode := range map[string]func(){"panic": func() { panic("boom") }, "Goexit": runtime.Goexit} {
		c, repo, lookups := crowd(t, 10)
		var mu sync.Mutex
		calls := 0
		repo.Before = func(context.Context, string) error {
			mu.Lock()
			calls++
			third := calls == 3
			mu.Unlock()
			if third {
				explode()
			}
			return nil
		}
		r, err := c.Warm(t.Context(), lookups)
		if err != nil || r.Warmed != 9 || r.Failed != 1 || r.FirstError == nil || !strings.Contains(r.FirstError.Error(), name) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// An option out of range, and a cache that is off, are errors before anything
// is loaded.
func TestWarmErrors(t *testing.T) {
	c, repo, lookups := crowd(t, 3)
	repo.Before = func(_ context.Context, method string) error {
		t.Errorf("%s is called", method)
		return nil
	}
	for want, opt := range map[string]usercache.WarmOption{
		"usercache: Warm: option 1 of 1 is nil":                                             nil,
		"usercache: Warm: WithWarmConcurrency(0): must be a whole number from 1 to 1000":    usercache.WithWarmConcurrency(0),
		"usercache: Warm: WithWarmConcurrency(1001): must be a whole number from 1 to 1000": usercache.WithWarmConcurrency(1001),
		"usercache: Warm: WithWarmProgress(nil): must not be nil":                           usercache.WithWarmProgress(nil),
	} {
		if r, err := c.Warm(t.Context(), lookups, opt); err == nil || err.Error() != want || r != (usercache.WarmReport{Total: 3}) {
			t.Errorf("got %+v, %v; want %s", r, err, want)
		}
	}
	for name, off := range map[string]func(){"disabled": func() { c.SetEnabled(false) }, "closed": func() { c.Close() }} {
		off()
		if _, err := c.Warm(t.Context(), lookups); err == nil || !strings.Contains(err.Error(), "disabled or closed") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r, err := newWarm(t).Warm(t.Context(), nil); err != nil || r != (usercache.WarmReport{}) {
		t.Errorf("nothing to warm: %+v, %v", r, err)
	}
}

func newWarm(t *testing.T) *cache {
	c, _ := newCache(t)
	return c
}

// A load by Warm that others join is stored under the same bounds as any.
func TestWarmLoadsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, repo, lookups := crowd(t, 1)
		release := make(chan struct{})
		var methods []string
		repo.Before = func(_ context.Context, method string) error {
			methods = append(methods, method)
			<-release
			return nil
		}
		go func() {
			if r, err := c.Warm(context.Background(), lookups); err != nil || r.Warmed != 1 {
				t.Errorf("%+v, %v", r, err)
			}
		}()
		synctest.Wait()
		go func() {
			if u, err := c.GetUserByPlatformID(context.Background(), "twitch", "0"); err != nil || u.Username != "user0" {
				t.Errorf("%v, %v", u, err)
			}
		}()
		synctest.Wait()
		close(release)
		<-time.After(time.Second)
		if !slices.Equal(methods, []string{"GetUserByPlatformID"}) || c.Stats().Lookups.PlatformID.Coalesced != 1 {
			t.Errorf("calls %v, %+v", methods, c.Stats())
		}
	})
}
