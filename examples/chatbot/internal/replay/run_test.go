package replay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/examples/chatbot/internal/service"
	"github.com/osse101/usercache/examples/chatbot/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options(t *testing.T, trace *Trace) Options {
	t.Helper()
	cfg, err := usercache.ConfigFromEnv(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Trace: trace, Workers: 4, Cache: cfg,
		Open:     func(ctx context.Context) (*store.Store, error) { return store.OpenTemporary(ctx, "") },
		Progress: func(string, int, int) {},
	}
}

// part is the first messages of a trace, which has fewer users then.
func part(trace *Trace, n int) *Trace {
	p := &Trace{Name: trace.Name, Events: trace.Events[:n]}
	for _, e := range p.Events {
		p.Users = max(p.Users, e.User+1)
	}
	return p
}

// The replay's figures are those that an ideal cache would have, and nothing
// is stale.
func TestReplay(t *testing.T) {
	for name, c := range map[string]struct {
		messages int
		speed    float64
	}{
		"max":   {3000, 0},
		"paced": {500, 5000},
	} {
		t.Run(name, func(t *testing.T) {
			trace := part(Generate(3), c.messages)
			o := options(t, trace)
			o.Speed = c.speed
			o.Cache.Size = 100 // so that eviction plays a part
			var mu sync.Mutex
			progress := map[string]int{}
			o.Progress = func(run string, answered, of int) {
				mu.Lock()
				defer mu.Unlock()
				if of != c.messages {
					t.Errorf("progress of %d", of)
				}
				progress[run] = max(progress[run], answered)
			}
			r, err := Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if r.Err() != nil || r.Stale() != 0 {
				t.Errorf("%d stale answers: %v", r.Stale(), r.Err())
			}
			if c.speed == 0 { // else the TTL runs by the machine's clock
				if math.Abs(r.HitRate()-r.Ideal) > .01 {
					t.Errorf("hit rate %.3f, an ideal cache has %.3f", r.HitRate(), r.Ideal)
				}
			} else if least := time.Duration(float64(trace.Span()) / c.speed); r.With.Took < least || r.HitRate() == 0 {
				t.Errorf("took %v for what must take %v; hit rate %.3f", r.With.Took, least, r.HitRate())
			}
			// Without a cache: one lookup for each message, one more for each
			// registration, two for each renaming.
			if r.Without.Writes != r.With.Writes || r.Without.Writes != int64(r.Without.Changed) || r.With.Changed != r.Without.Changed {
				t.Errorf("writes %d and %d, changes %d and %d", r.Without.Writes, r.With.Writes, r.Without.Changed, r.With.Changed)
			}
			renamed := r.Without.Changed - trace.Users
			if want := int64(c.messages + trace.Users + 2*renamed); r.Without.Reads != want {
				t.Errorf("%d lookups without a cache, want %d", r.Without.Reads, want)
			}
			if renamed < 1 || renamed > c.messages/50 {
				t.Errorf("%d renamed of %d messages, want about one in 200", renamed, c.messages)
			}
			s := r.With.Stats
			if got := s.TotalMisses() + s.Bypasses.Fresh; int64(got) != r.With.Reads {
				t.Errorf("the cache counts %d calls, the repository %d", got, r.With.Reads)
			}
			if progress["without the cache"] != c.messages || progress["with the cache"] != c.messages {
				t.Errorf("progress %v", progress)
			}
			var report bytes.Buffer
			if err := r.Write(&report); err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{
				fmt.Sprintf("%d messages by %d users", c.messages, trace.Users), "SQLite", "100 answers, TTL 5m0s", "/message/handle P95",
				fmt.Sprintf("hit rate                %.1f %% of messages (an ideal LRU: %.1f %%)", 100*r.HitRate(), 100*r.Ideal),
				"stale answers           0\n",
			} {
				if !strings.Contains(report.String(), want) {
					t.Errorf("the report lacks %q:\n%s", want, &report)
				}
			}
		})
	}
}

// forgetful is a cache that does not notice renamings: it answers with the
// first user that it has seen under an account.
type forgetful struct {
	*usercache.CachedRepository[usercache.User]
	first sync.Map
}

func (f *forgetful) GetUserByPlatformID(ctx context.Context, platform, id string) (*usercache.User, error) {
	if u, ok := f.first.Load(id); ok {
		return u.(*usercache.User), nil
	}
	u, err := f.CachedRepository.GetUserByPlatformID(ctx, platform, id)
	if err == nil {
		f.first.Store(id, u)
	}
	return u, err
}

// The replay is worth nothing if it cannot see a stale answer.
func TestReplayFindsStaleAnswers(t *testing.T) {
	o := options(t, part(Generate(3), 2000))
	o.Decorate = func(s *store.Store, users service.Users, cfg usercache.Config) (Cache, error) {
		c, err := usercache.New(users, usercache.UserSchema(), usercache.WithConfig(cfg))
		return &forgetful{CachedRepository: c}, err
	}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Without.Stale != 0 || r.Without.StaleAtEnd != 0 {
		t.Errorf("stale without a cache: %d and %d", r.Without.Stale, r.Without.StaleAtEnd)
	}
	if r.With.Stale == 0 || r.With.StaleAtEnd == 0 || r.Stale() < r.With.Stale {
		t.Errorf("found %d stale answers and %d stale users of a cache that has many", r.With.Stale, r.With.StaleAtEnd)
	}
	if err := r.Err(); err == nil || err.Error() != fmt.Sprintf("%d stale answers", r.Stale()) {
		t.Errorf("the error is %v", err)
	}
}

// Each way for an answer to be at odds with what was acknowledged counts.
func TestStale(t *testing.T) {
	answer := func(id, name string, registered, renamed bool) service.Reply {
		return service.Reply{Registered: registered, Renamed: renamed, User: usercache.User{
			ID: id, Username: name, Accounts: []usercache.Account{{Platform: platform, ID: "0", Username: name}},
		}}
	}
	trace := read(t, "0,a", "1,a")
	for what, c := range map[string]struct {
		known  acknowledged
		answer service.Reply
		stale  bool
	}{
		"registered":             {acknowledged{}, answer("1", "viewer0_0", true, false), false},
		"as before":              {acknowledged{"1", "viewer0_0"}, answer("1", "viewer0_0", false, false), false},
		"renamed":                {acknowledged{"1", "old"}, answer("1", "viewer0_0", false, true), false},
		"known before the first": {acknowledged{}, answer("1", "viewer0_0", false, false), true},
		"registered again":       {acknowledged{"1", "viewer0_0"}, answer("1", "viewer0_0", true, false), true},
		"another user":           {acknowledged{"1", "viewer0_0"}, answer("2", "viewer0_0", false, false), true},
		"renaming unnoticed":     {acknowledged{"1", "old"}, answer("1", "viewer0_0", false, false), true},
		"renamed to the same":    {acknowledged{"1", "viewer0_0"}, answer("1", "viewer0_0", false, true), true},
		"an old name":            {acknowledged{"1", "old"}, answer("1", "old", false, true), true},
		"no account":             {acknowledged{"1", "viewer0_0"}, service.Reply{User: usercache.User{ID: "1", Username: "viewer0_0"}}, true},
	} {
		chat := newChat(trace)
		chat.acked[0] = c.known
		if got := chat.stale(0, c.answer); got != c.stale {
			t.Errorf("%s: stale is %v", what, got)
		}
		if chat.acked[0].id != c.answer.User.ID {
			t.Errorf("%s: the answer is not noted", what)
		}
	}
}

func TestReplayErrors(t *testing.T) {
	trace := part(Generate(3), 2000)

	o := options(t, trace)
	o.Workers = 0
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "-workers 0") {
		t.Errorf("no workers: %v", err)
	}

	broken := errors.New("broken")
	o = options(t, trace)
	o.Open = func(context.Context) (*store.Store, error) { return nil, broken }
	if _, err := Run(t.Context(), o); !errors.Is(err, broken) {
		t.Errorf("no repository: %v", err)
	}
	o = options(t, trace)
	o.Decorate = func(*store.Store, service.Users, usercache.Config) (Cache, error) { return nil, broken }
	if _, err := Run(t.Context(), o); !errors.Is(err, broken) {
		t.Errorf("no cache: %v", err)
	}

	// A message that fails ends the run, and says which it was.
	o = options(t, trace)
	o.Open = func(ctx context.Context) (*store.Store, error) {
		s, err := store.OpenTemporary(ctx, "")
		if err == nil {
			s.Users = failing{s.Users}
		}
		return s, err
	}
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "without the cache, message ") || !strings.Contains(err.Error(), "503") {
		t.Errorf("a failing service: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	o = options(t, trace)
	o.Progress = func(string, int, int) { cancel() }
	if _, err := Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}

	ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	o = options(t, trace)
	o.Speed = 1
	if _, err := Run(ctx, o); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("interrupted while it waits: %v", err)
	}
}

// failing is a repository without lookups.
type failing struct{ service.Users }

func (failing) GetUserByPlatformID(context.Context, string, string) (*usercache.User, error) {
	return nil, errors.New("broken")
}
