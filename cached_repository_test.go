package usercache_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/mock/gomock"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/mocks"
)

type (
	user  = usercache.User
	cache = usercache.CachedRepository[user]
	mock  = mocks.MockRepository[user]
)

var anything = gomock.Any()

// newCache returns a cache over a mock. The mock verifies every call that the
// repository sees: one that is not expected fails the test.
func newCache(t *testing.T, opts ...usercache.Option) (*cache, *mock) {
	t.Helper()
	repo := mocks.NewMockRepository[user](gomock.NewController(t))
	c, err := usercache.New[user](repo, usercache.UserSchema(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, repo
}

func alice() *user {
	return &user{ID: "a1", Username: "Alice", Accounts: []usercache.Account{{Platform: "twitch", ID: "100", Username: "alice_tv"}}}
}

func bob() *user {
	return &user{ID: "b2", Username: "Bob", Accounts: []usercache.Account{{Platform: "discord", ID: "200"}}}
}

func notFound() error { return fmt.Errorf("mock: %w", usercache.ErrUserNotFound) }

// question is one lookup, as a test asks and expects it.
type question struct {
	name   string
	ask    func(context.Context, *cache) (*user, error)
	expect func(*mock, *user, error) // one call that answers so
}

func byID(id string) question {
	return question{
		"id " + id,
		func(ctx context.Context, c *cache) (*user, error) { return c.GetUserByID(ctx, id) },
		func(m *mock, u *user, err error) { m.EXPECT().GetUserByID(anything, id).Return(u, err) },
	}
}

func byAccount(platform, id string) question {
	return question{
		"account " + platform + " " + id,
		func(ctx context.Context, c *cache) (*user, error) { return c.GetUserByPlatformID(ctx, platform, id) },
		func(m *mock, u *user, err error) {
			m.EXPECT().GetUserByPlatformID(anything, platform, id).Return(u, err)
		},
	}
}

func byUsername(platform, name string) question {
	return question{
		"username " + platform + " " + name,
		func(ctx context.Context, c *cache) (*user, error) {
			return c.GetUserByPlatformUsername(ctx, platform, name)
		},
		func(m *mock, u *user, err error) {
			m.EXPECT().GetUserByPlatformUsername(anything, platform, name).Return(u, err)
		},
	}
}

func aliceBy() []question {
	return []question{byID("a1"), byAccount("twitch", "100"), byUsername("twitch", "Alice")}
}

// misses asks q, which must reach the repository once, and get the answer it
// gives.
func misses(t *testing.T, c *cache, m *mock, q question, u *user, err error) {
	t.Helper()
	before := c.Stats()
	q.expect(m, u, err)
	got, gotErr := q.ask(t.Context(), c)
	if got != u || gotErr != err {
		t.Errorf("%s: got %v, %v; want the repository's own %v, %v", q.name, got, gotErr, u, err)
	}
	if after := c.Stats(); after.TotalHits() != before.TotalHits() {
		t.Errorf("%s: a hit, want a miss", q.name)
	}
}

// hits asks q, which must not reach the repository, and get a copy of u, or
// the very err.
func hits(t *testing.T, c *cache, q question, u *user, err error) {
	t.Helper()
	before := c.Stats()
	got, gotErr := q.ask(t.Context(), c)
	if gotErr != err || (got == nil) != (u == nil) || u != nil && fmt.Sprint(*got) != fmt.Sprint(*u) {
		t.Errorf("%s: got %v, %v; want %v, %v", q.name, got, gotErr, u, err)
	}
	if got != nil && got == u {
		t.Errorf("%s: the answer is shared", q.name)
	}
	if after := c.Stats(); after.TotalHits() != before.TotalHits()+1 || after.TotalMisses() != before.TotalMisses() {
		t.Errorf("%s: not a hit", q.name)
	}
}

// Each kind of lookup calls the repository once and is answered from memory
// from then on; kinds share nothing.
func TestOneCallPerMissNoneOnAHit(t *testing.T) {
	c, m := newCache(t)
	for _, q := range aliceBy() {
		misses(t, c, m, q, alice(), nil)
		hits(t, c, q, alice(), nil)
		hits(t, c, q, alice(), nil)
	}
	misses(t, c, m, byUsername("discord", "Alice"), alice(), nil) // another platform
	misses(t, c, m, byUsername("twitch", "alice"), alice(), nil)  // another spelling
	misses(t, c, m, byID("A1"), alice(), nil)
	if s := c.Stats(); s.TotalHits() != 6 || s.TotalMisses() != 6 || s.HitRate != 0.5 || s.Size.Found != 6 {
		t.Errorf("stats %+v", s)
	}
}

// A not-found answer by account or username is kept, error and all; one by ID
// never is, since the next user may get that ID.
func TestNotFoundAnswers(t *testing.T) {
	c, m := newCache(t)
	err := notFound()
	for _, q := range []question{byAccount("twitch", "1"), byUsername("twitch", "nobody")} {
		misses(t, c, m, q, nil, err)
		hits(t, c, q, nil, err)
	}
	misses(t, c, m, byID("1"), nil, err)
	misses(t, c, m, byID("1"), nil, err)
	if s := c.Stats(); s.Size.NotFound != 2 || s.Size.Found != 0 {
		t.Errorf("size %+v", s.Size)
	}
}

// WithNotFound replaces what counts as not found.
func TestWithNotFound(t *testing.T) {
	gone := errors.New("no rows")
	c, m := newCache(t, usercache.WithNotFound(func(err error) bool { return errors.Is(err, gone) }))
	wrapped := fmt.Errorf("mock: %w", gone)
	misses(t, c, m, byAccount("twitch", "1"), nil, wrapped)
	hits(t, c, byAccount("twitch", "1"), nil, wrapped)
	err := notFound()
	misses(t, c, m, byAccount("twitch", "2"), nil, err)
	misses(t, c, m, byAccount("twitch", "2"), nil, err)
}

// Errors that are not a plain not-found come back untouched and are forgotten,
// and so are answers that say nothing, and users without an ID.
func TestWhatIsNeverStored(t *testing.T) {
	unnamed := alice()
	unnamed.ID = ""
	for name, a := range map[string]struct {
		u   *user
		err error
	}{
		"driver error":                 {nil, errors.New("connection reset")},
		"cancelled":                    {nil, fmt.Errorf("mock: %w", context.Canceled)},
		"time-out":                     {nil, fmt.Errorf("mock: %w", context.DeadlineExceeded)},
		"not found, yet cancelled":     {nil, errors.Join(usercache.ErrUserNotFound, context.Canceled)},
		"not found, yet timed out":     {nil, errors.Join(usercache.ErrUserNotFound, context.DeadlineExceeded)},
		"nobody and no error":          {nil, nil},
		"somebody and not found":       {alice(), notFound()},
		"somebody and an error":        {alice(), errors.New("partial")},
		"a user whose ID is not known": {unnamed, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c, m := newCache(t)
			for _, q := range aliceBy() {
				misses(t, c, m, q, a.u, a.err)
				misses(t, c, m, q, a.u, a.err)
			}
			if s := c.Stats(); s.Size != (usercache.AnswerStats{}) {
				t.Errorf("size %+v", s.Size)
			}
		})
	}
}

// write is one kind of write of Alice, as a test does and expects it.
type write struct {
	do     func(context.Context, *cache) error
	expect func(*mock, error)
}

// writes are those that affect Alice, by the little they may name of her.
func writes() map[string]write {
	return map[string]write{
		"upsert by ID": {
			func(ctx context.Context, c *cache) error { return c.UpsertUser(ctx, &user{ID: "A1", Username: "x"}) },
			func(m *mock, err error) { m.EXPECT().UpsertUser(anything, anything).Return(err) },
		},
		"upsert by account": {
			func(ctx context.Context, c *cache) error {
				return c.UpsertUser(ctx, &user{Username: "x", Accounts: alice().Accounts})
			},
			func(m *mock, err error) { m.EXPECT().UpsertUser(anything, anything).Return(err) },
		},
		"upsert that fills in the ID": {
			func(ctx context.Context, c *cache) error { return c.UpsertUser(ctx, &user{Username: "x"}) },
			func(m *mock, err error) {
				m.EXPECT().UpsertUser(anything, anything).DoAndReturn(func(_ context.Context, u *user) error {
					u.ID = "a1"
					return err
				})
			},
		},
		"update": {
			func(ctx context.Context, c *cache) error { return c.UpdateUser(ctx, user{ID: "a1"}) },
			func(m *mock, err error) { m.EXPECT().UpdateUser(anything, user{ID: "a1"}).Return(err) },
		},
		"delete": {
			func(ctx context.Context, c *cache) error { return c.DeleteUser(ctx, "{A-1}") },
			func(m *mock, err error) { m.EXPECT().DeleteUser(anything, "{A-1}").Return(err) },
		},
		"merge into": {
			func(ctx context.Context, c *cache) error { return c.MergeUsers(ctx, "a1", "z", user{}) },
			func(m *mock, err error) { m.EXPECT().MergeUsers(anything, "a1", "z", user{}).Return(err) },
		},
		"merge away": {
			func(ctx context.Context, c *cache) error { return c.MergeUsers(ctx, "z", "a1", user{}) },
			func(m *mock, err error) { m.EXPECT().MergeUsers(anything, "z", "a1", user{}).Return(err) },
		},
		"merge with an account": {
			func(ctx context.Context, c *cache) error {
				return c.MergeUsers(ctx, "y", "z", user{Accounts: alice().Accounts})
			},
			func(m *mock, err error) { m.EXPECT().MergeUsers(anything, "y", "z", anything).Return(err) },
		},
		"mutate": {
			func(ctx context.Context, c *cache) error {
				return c.Mutate(ctx, func(ctx context.Context) error { return c.DeleteUser(ctx, "z") }, usercache.Identity{UserID: "a1"})
			},
			func(m *mock, err error) { m.EXPECT().DeleteUser(anything, "z").Return(err) },
		},
	}
}

// Each write kills what it names under every lookup, and leaves the rest: with
// usernames that are not precise, and in a merge, lookups by username go as
// well, but for a delete. A write that fails kills as one that succeeds, and its error comes
// back untouched.
func TestWhatEachWriteKills(t *testing.T) {
	failure := errors.New("connection reset")
	for name, w := range writes() {
		for _, precise := range []bool{false, true} {
			for _, err := range []error{nil, failure, notFound()} {
				t.Run(fmt.Sprintf("%s, precise %v, %v", name, precise, err), func(t *testing.T) {
					opts := []usercache.Option{usercache.WithUncertainty(0)}
					if precise {
						opts = append(opts, usercache.WithPreciseUsernames())
					}
					c, m := newCache(t, opts...)
					nobody := notFound()
					bobBy := []question{byID("b2"), byAccount("discord", "200")}
					bobByName, nobodyByName := byUsername("discord", "Bob"), byUsername("discord", "nobody")
					for _, q := range aliceBy() {
						misses(t, c, m, q, alice(), nil)
					}
					for _, q := range append(bobBy, bobByName) {
						misses(t, c, m, q, bob(), nil)
					}
					misses(t, c, m, byAccount("discord", "404"), nil, nobody)
					misses(t, c, m, nobodyByName, nil, nobody)

					w.expect(m, err)
					if got := w.do(t.Context(), c); got != err {
						t.Fatalf("error %v, want the repository's own %v", got, err)
					}

					for _, q := range aliceBy() {
						misses(t, c, m, q, alice(), nil)
					}
					for _, q := range bobBy {
						hits(t, c, q, bob(), nil)
					}
					hits(t, c, byAccount("discord", "404"), nil, nobody)
					if precise && !strings.HasPrefix(name, "merge") || name == "delete" {
						hits(t, c, bobByName, bob(), nil)
						hits(t, c, nobodyByName, nil, nobody)
					} else {
						misses(t, c, m, bobByName, bob(), nil)
						misses(t, c, m, nobodyByName, nil, nobody)
					}
				})
			}
		}
	}
}

// Precise usernames kill the answers under the names that a write gives, old
// and new, in any spelling and on any platform.
func TestPreciseUsernames(t *testing.T) {
	c, m := newCache(t, usercache.WithPreciseUsernames())
	nobody := notFound()
	misses(t, c, m, byUsername("twitch", "ALICE"), alice(), nil)
	misses(t, c, m, byUsername("irc", "carol"), nil, nobody)
	misses(t, c, m, byUsername("irc", "dave"), nil, nobody)
	misses(t, c, m, byUsername("irc", ""), nil, nobody)

	renamed := user{ID: "a1", Username: "Carol"}
	m.EXPECT().UpdateUser(anything, renamed)
	if err := c.UpdateUser(t.Context(), renamed); err != nil {
		t.Fatal(err)
	}
	misses(t, c, m, byUsername("twitch", "ALICE"), nil, nobody) // told by the ID
	misses(t, c, m, byUsername("irc", "carol"), alice(), nil)   // told by the new name
	misses(t, c, m, byUsername("irc", ""), nil, nobody)         // never told
	hits(t, c, byUsername("irc", "dave"), nil, nobody)

	linked := user{ID: "b2", Username: "Bob", Accounts: []usercache.Account{{Platform: "irc", ID: "9", Username: "DAVE "}}}
	m.EXPECT().UpsertUser(anything, &linked)
	if err := c.UpsertUser(t.Context(), &linked); err != nil {
		t.Fatal(err)
	}
	misses(t, c, m, byUsername("irc", "dave"), bob(), nil)
	hits(t, c, byUsername("irc", "carol"), alice(), nil)
}

// Users whose accounts have no name do not kill each other's answers.
func TestAccountsWithoutANameHaveNothingInCommon(t *testing.T) {
	c, m := newCache(t, usercache.WithPreciseUsernames())
	misses(t, c, m, byID("b2"), bob(), nil)
	other := user{ID: "c3", Username: "Carol", Accounts: []usercache.Account{{Platform: "discord", ID: "300"}}}
	m.EXPECT().UpdateUser(anything, other)
	if err := c.UpdateUser(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	hits(t, c, byID("b2"), bob(), nil)
}

// A nil user or function is refused, and the repository sees nothing of it.
func TestNilArguments(t *testing.T) {
	c, _ := newCache(t)
	if err := c.UpsertUser(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "UpsertUser") {
		t.Errorf("UpsertUser(nil): %v", err)
	}
	if err := c.Mutate(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "Mutate") {
		t.Errorf("Mutate(nil): %v", err)
	}
}

// Invalidate and Mutate kill what they name; without a name, everything.
func TestInvalidateAndMutate(t *testing.T) {
	nobodyNamed := []usercache.Identity{{UserID: "zz"}, {Usernames: []string{"", " "}}}
	for name, kill := range map[string]struct {
		do    func(c *cache)
		alice bool // killed
		bob   bool
	}{
		"invalidate by ID":       {func(c *cache) { c.Invalidate(usercache.Identity{UserID: "A-1"}) }, true, false},
		"invalidate by account":  {func(c *cache) { c.Invalidate(usercache.Identity{Accounts: alice().Accounts}) }, true, false},
		"invalidate by username": {func(c *cache) { c.Invalidate(usercache.Identity{Usernames: []string{"ALICE"}}) }, true, false},
		"invalidate both":        {func(c *cache) { c.Invalidate(usercache.Identity{UserID: "a1"}, usercache.Identity{UserID: "b2"}) }, true, true},
		"invalidate everything":  {func(c *cache) { c.Invalidate() }, true, true},
		"invalidate nobody":      {func(c *cache) { c.Invalidate(nobodyNamed...) }, true, true},
		"flush":                  {func(c *cache) { c.Flush() }, true, true},
		"mutate everything": {func(c *cache) {
			_ = c.Mutate(context.Background(), func(context.Context) error { return nil })
		}, true, true},
		"mutate somebody else": {func(c *cache) {
			_ = c.Mutate(context.Background(), func(context.Context) error { return nil }, usercache.Identity{UserID: "zz"})
		}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			c, m := newCache(t)
			misses(t, c, m, byID("a1"), alice(), nil)
			misses(t, c, m, byID("b2"), bob(), nil)
			kill.do(c)
			for q, killed := range map[*user]bool{alice(): kill.alice, bob(): kill.bob} {
				if killed {
					misses(t, c, m, byID(q.ID), q, nil)
				} else {
					hits(t, c, byID(q.ID), q, nil)
				}
			}
		})
	}
}

// A lookup under Fresh takes nothing from the cache and leaves nothing in it.
func TestFresh(t *testing.T) {
	c, m := newCache(t)
	misses(t, c, m, byID("a1"), alice(), nil)
	newer := alice()
	newer.Username = "newer"
	m.EXPECT().GetUserByID(anything, "a1").Return(newer, nil)
	if got, err := c.GetUserByID(usercache.Fresh(t.Context()), "a1"); got != newer || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
	hits(t, c, byID("a1"), alice(), nil)
	if s := c.Stats(); s.Bypasses.Fresh != 1 || s.TotalMisses() != 1 {
		t.Errorf("stats %+v", s)
	}
}

// Names of more than a KiB are passed through.
func TestOversizedNames(t *testing.T) {
	c, m := newCache(t)
	fits, long := strings.Repeat("x", 1024), strings.Repeat("x", 1025)
	misses(t, c, m, byID(fits), alice(), nil)
	hits(t, c, byID(fits), alice(), nil)
	for _, q := range []question{byID(long), byAccount("twitch", long), byAccount(long, "1"), byUsername("twitch", strings.Repeat("x", 1<<20))} {
		misses(t, c, m, q, alice(), nil)
		misses(t, c, m, q, alice(), nil)
	}
	if s := c.Stats(); s.Bypasses.Oversized != 8 || s.TotalMisses() != 1 {
		t.Errorf("stats %+v", s)
	}
}

// Switched off, the cache asks the repository and keeps nothing; switched on,
// it starts empty.
func TestSetEnabled(t *testing.T) {
	c, m := newCache(t)
	misses(t, c, m, byID("a1"), alice(), nil)
	c.SetEnabled(false)
	misses(t, c, m, byID("a1"), alice(), nil)
	misses(t, c, m, byID("a1"), alice(), nil)
	if s := c.Stats(); s.Enabled || s.Bypasses.Disabled != 2 || s.Size.Found != 0 || s.Invalidations.Flush != 1 {
		t.Errorf("stats %+v", s)
	}
	c.SetEnabled(true)
	misses(t, c, m, byID("a1"), alice(), nil)
	hits(t, c, byID("a1"), alice(), nil)
	if !c.Stats().Enabled {
		t.Error("not enabled")
	}
}

// The environment may have the cache start disabled.
func TestStartsDisabled(t *testing.T) {
	t.Setenv("USER_CACHE_ENABLED", "false")
	cfg, err := usercache.ConfigFromEnv(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c, m := newCache(t, usercache.WithConfig(cfg))
	misses(t, c, m, byID("a1"), alice(), nil)
	misses(t, c, m, byID("a1"), alice(), nil)
	if s := c.Stats(); s.Enabled || s.Bypasses.Disabled != 2 {
		t.Errorf("stats %+v", s)
	}
}

// After Close every call goes straight through, writes included.
func TestClose(t *testing.T) {
	c, m := newCache(t)
	misses(t, c, m, byID("a1"), alice(), nil)
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	misses(t, c, m, byID("a1"), alice(), nil)
	misses(t, c, m, byID("a1"), alice(), nil)
	m.EXPECT().DeleteUser(anything, "a1").Return(errors.New("broken"))
	if err := c.DeleteUser(t.Context(), "a1"); err == nil {
		t.Error("the repository's error is lost")
	}
	misses(t, c, m, byID("a1"), alice(), nil)
	if s := c.Stats(); s.Enabled || s.Bypasses.Closed != 3 {
		t.Errorf("stats %+v", s)
	}
}

// Close while loads and writes are under way disturbs none of them.
func TestCloseMeanwhile(t *testing.T) {
	c, m := newCache(t)
	began, letGo := make(chan struct{}, 2), make(chan struct{})
	m.EXPECT().GetUserByID(anything, "a1").DoAndReturn(func(context.Context, string) (*user, error) {
		began <- struct{}{}
		<-letGo
		return alice(), nil
	})
	m.EXPECT().UpdateUser(anything, anything).DoAndReturn(func(context.Context, user) error {
		began <- struct{}{}
		<-letGo
		return nil
	})
	var calls sync.WaitGroup
	calls.Go(func() {
		if u, err := c.GetUserByID(t.Context(), "a1"); err != nil || u.ID != "a1" {
			t.Errorf("got %v, %v", u, err)
		}
	})
	calls.Go(func() {
		if err := c.UpdateUser(t.Context(), user{ID: "b2"}); err != nil {
			t.Error(err)
		}
	})
	<-began
	<-began
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	close(letGo)
	calls.Wait()
	misses(t, c, m, byID("a1"), alice(), nil)
}

// While a write is under way, lookups of what it names go to the repository
// and leave nothing behind.
func TestLookupsDuringAWrite(t *testing.T) {
	c, m := newCache(t)
	for _, q := range aliceBy() {
		misses(t, c, m, q, alice(), nil)
	}
	newer := alice()
	newer.Username = "newer"
	m.EXPECT().UpdateUser(anything, anything).DoAndReturn(func(context.Context, user) error {
		for _, q := range aliceBy() {
			misses(t, c, m, q, newer, nil)
		}
		return nil
	})
	if err := c.UpdateUser(t.Context(), *newer); err != nil {
		t.Fatal(err)
	}
	if s := c.Stats(); s.Size.Found != 0 || s.Bypasses.Fenced == 0 {
		t.Errorf("stats %+v", s)
	}
	for _, q := range aliceBy() {
		misses(t, c, m, q, newer, nil)
		hits(t, c, q, newer, nil)
	}
}

// A load that reads before a write and ends after it is not stored.
func TestLoadOvertakenByAWrite(t *testing.T) {
	for name, w := range writes() {
		for i, q := range aliceBy() {
			t.Run(name+", "+q.name, func(t *testing.T) {
				c, m := newCache(t)
				read, letGo := make(chan struct{}), make(chan struct{})
				load := func() (*user, error) {
					close(read)
					<-letGo
					return alice(), nil
				}
				switch i {
				case 0:
					m.EXPECT().GetUserByID(anything, anything).DoAndReturn(func(context.Context, string) (*user, error) { return load() })
				case 1:
					m.EXPECT().GetUserByPlatformID(anything, anything, anything).DoAndReturn(func(context.Context, string, string) (*user, error) { return load() })
				default:
					m.EXPECT().GetUserByPlatformUsername(anything, anything, anything).DoAndReturn(func(context.Context, string, string) (*user, error) { return load() })
				}
				var reader sync.WaitGroup
				reader.Go(func() {
					if _, err := q.ask(t.Context(), c); err != nil {
						t.Error(err)
					}
				})
				<-read
				w.expect(m, nil)
				if err := w.do(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				close(letGo)
				reader.Wait()
				misses(t, c, m, q, nil, notFound())
			})
		}
	}
}

// After a write that may have happened, what it names is asked of the
// repository until the window is over; after one that certainly has not, it is
// not.
func TestUncertainWrites(t *testing.T) {
	conflict := errors.New("conflict")
	rejected := usercache.WithRejected(func(err error) bool { return errors.Is(err, conflict) })
	for name, w := range map[string]struct {
		err    error
		opts   []usercache.Option
		fenced bool
	}{
		"success":                    {nil, nil, false},
		"lost connection":            {errors.New("connection reset"), nil, true},
		"cancelled":                  {context.Canceled, nil, true},
		"nobody to write to":         {notFound(), nil, false},
		"known to be rejected":       {fmt.Errorf("mock: %w", conflict), []usercache.Option{rejected}, false},
		"not known to be rejected":   {notFound(), []usercache.Option{rejected}, true},
		"uncertainty is switched of": {errors.New("connection reset"), []usercache.Option{usercache.WithUncertainty(0)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, m := newCache(t, w.opts...)
				m.EXPECT().UpdateUser(anything, anything).Return(w.err)
				if err := c.UpdateUser(t.Context(), *alice()); err != w.err {
					t.Errorf("error %v", err)
				}
				misses(t, c, m, byID("a1"), alice(), nil)
				if w.fenced {
					misses(t, c, m, byID("a1"), alice(), nil)
					<-time.After(5 * time.Second)
					misses(t, c, m, byID("a1"), alice(), nil)
				}
				hits(t, c, byID("a1"), alice(), nil)
			})
		})
	}
}

// A repository, or a Schema, that panics or calls Goexit in a write or a read
// passes it on to the caller; fences come down, and the next call works.
func TestPanicsPassThrough(t *testing.T) {
	ends := map[string]func(){"panic": func() { panic("boom") }, "goexit": runtime.Goexit}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			c, m := newCache(t, usercache.WithUncertainty(0))
			attempt := func(f func()) (returned bool, panicked any) {
				var wg sync.WaitGroup
				wg.Go(func() {
					defer func() { panicked = recover() }()
					f()
					returned = true
				})
				wg.Wait()
				return returned, panicked
			}
			m.EXPECT().UpdateUser(anything, anything).DoAndReturn(func(context.Context, user) error { end(); return nil })
			m.EXPECT().GetUserByID(anything, "a1").DoAndReturn(func(context.Context, string) (*user, error) { end(); return nil, nil })
			for what, f := range map[string]func(){
				"write": func() { _ = c.UpdateUser(t.Context(), *alice()) },
				"read":  func() { _, _ = c.GetUserByID(t.Context(), "a1") },
			} {
				returned, panicked := attempt(f)
				if returned || name == "panic" && panicked != "boom" || name == "goexit" && panicked != nil {
					t.Errorf("%s: returned %v, panicked %v", what, returned, panicked)
				}
			}
			misses(t, c, m, byID("a1"), alice(), nil)
			hits(t, c, byID("a1"), alice(), nil)
		})
	}
}

// A Schema that panics after the call does not leave a fence up.
func TestIdentityThatPanicsAfterAWrite(t *testing.T) {
	m := mocks.NewMockRepository[user](gomock.NewController(t))
	schema := usercache.UserSchema()
	identity, calls := schema.Identity, 0
	schema.Identity = func(u *user) usercache.Identity {
		if calls++; calls == 2 {
			panic("boom")
		}
		return identity(u)
	}
	c, err := usercache.New[user](m, schema, usercache.WithUncertainty(0))
	if err != nil {
		t.Fatal(err)
	}
	m.EXPECT().UpsertUser(anything, anything)
	func() {
		defer func() {
			if p := recover(); p != "boom" {
				t.Errorf("panicked with %v", p)
			}
		}()
		_ = c.UpsertUser(t.Context(), alice())
	}()
	misses(t, c, m, byID("a1"), alice(), nil)
	hits(t, c, byID("a1"), alice(), nil)
}

// What callers do to the users they got, and to the one they gave, changes no
// later answer.
func TestVandals(t *testing.T) {
	c, m := newCache(t, usercache.WithUncertainty(0))
	vandalise := func(u *user) {
		u.Username = "vandalised"
		u.Accounts[0].Username = "vandalised"
	}
	own := alice()
	misses(t, c, m, byID("a1"), own, nil)
	vandalise(own)
	for range 2 {
		got, err := c.GetUserByID(t.Context(), "a1")
		if err != nil || got.Username != "Alice" || got.Accounts[0].Username != "alice_tv" {
			t.Fatalf("got %+v, %v", got, err)
		}
		vandalise(got)
	}
	given := alice()
	m.EXPECT().UpsertUser(anything, given)
	if err := c.UpsertUser(t.Context(), given); err != nil {
		t.Fatal(err)
	}
	vandalise(given)
	misses(t, c, m, byID("a1"), alice(), nil) // what was written is no answer
	hits(t, c, byID("a1"), alice(), nil)
}

// Callers who miss at the same time share one call to the repository.
func TestCoalescing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, m := newCache(t)
		letGo := make(chan struct{})
		m.EXPECT().GetUserByID(anything, "a1").DoAndReturn(func(context.Context, string) (*user, error) {
			<-letGo
			return alice(), nil
		})
		var callers sync.WaitGroup
		for range 100 {
			callers.Go(func() {
				if u, err := c.GetUserByID(t.Context(), "a1"); err != nil || u.Username != "Alice" {
					t.Errorf("got %v, %v", u, err)
				} else {
					u.Accounts[0].ID = "vandalised"
				}
			})
		}
		synctest.Wait()
		close(letGo)
		callers.Wait()
		s := c.Stats().Lookups.ID
		if s.Misses != 100 || s.Coalesced != 99 {
			t.Errorf("stats %+v", s)
		}
		hits(t, c, byID("a1"), alice(), nil)
	})
}

// The caller who waits in vain is told why, and counts as a miss.
func TestWaitingEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, m := newCache(t)
		m.EXPECT().GetUserByID(anything, "a1").DoAndReturn(func(ctx context.Context, _ string) (*user, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := c.GetUserByID(ctx, "a1"); err != context.DeadlineExceeded || time.Since(began) != time.Second {
			t.Errorf("error %v after %v", err, time.Since(began))
		}
		if s := c.Stats(); s.TotalMisses() != 1 {
			t.Errorf("stats %+v", s)
		}
		synctest.Wait()
	})
}
