package repositorytest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/osse101/usercache"
)

type repository = usercache.Repository[usercache.User]

func memoryConfig(newRepo func(*testing.T) repository) Config {
	return Config{
		New:         newRepo,
		InvalidUser: ErrInvalidUser, AccountTaken: ErrAccountTaken, PlatformTaken: ErrPlatformTaken, SameUser: ErrSameUser,
		UnicodeFold: true,
	}
}

func TestMemory(t *testing.T) {
	Run(t, memoryConfig(func(*testing.T) repository { return NewMemory() }))
}

// A cache over a repository is a repository.
func TestCachedMemory(t *testing.T) {
	for name, opts := range map[string][]usercache.Option{
		"default": nil,
		"precise": {usercache.WithPreciseUsernames()},
		"tiny":    {usercache.WithSize(1), usercache.WithTTL(1)},
		"off":     {usercache.WithConfig(usercache.Config{Size: 1, TTL: 1})},
	} {
		t.Run(name, func(t *testing.T) {
			Run(t, memoryConfig(func(t *testing.T) repository {
				c, err := usercache.New[usercache.User](NewMemory(), usercache.UserSchema(), opts...)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := c.Close(); err != nil {
						t.Error(err)
					}
				})
				return c
			}))
		})
	}
}

// recorder is a reporter that keeps what it hears.
type recorder struct {
	ctx  context.Context
	mu   sync.Mutex
	said []string
}

func (r *recorder) Helper()                  {}
func (r *recorder) Context() context.Context { return r.ctx }
func (r *recorder) FailNow()                 { runtime.Goexit() }

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, fmt.Sprintf(format, args...))
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.said) > 0
}

// broken is a Memory with one method replaced.
type broken struct {
	*Memory
	byID       func(*Memory, string) (*usercache.User, error)
	byUsername func(m *Memory, platform, name string) (*usercache.User, error)
	upsert     func(*Memory, *usercache.User) error
	update     func(*Memory, usercache.User) error
	remove     func(*Memory, string) error
	merge      func(m *Memory, p, q string, merged usercache.User) error
}

func (b *broken) GetUserByID(ctx context.Context, id string) (*usercache.User, error) {
	if b.byID != nil {
		return b.byID(b.Memory, id)
	}
	return b.Memory.GetUserByID(ctx, id)
}

func (b *broken) GetUserByPlatformUsername(ctx context.Context, platform, name string) (*usercache.User, error) {
	if b.byUsername != nil {
		return b.byUsername(b.Memory, platform, name)
	}
	return b.Memory.GetUserByPlatformUsername(ctx, platform, name)
}

func (b *broken) UpsertUser(ctx context.Context, u *usercache.User) error {
	if b.upsert != nil {
		return b.upsert(b.Memory, u)
	}
	return b.Memory.UpsertUser(ctx, u)
}

func (b *broken) UpdateUser(ctx context.Context, u usercache.User) error {
	if b.update != nil {
		return b.update(b.Memory, u)
	}
	return b.Memory.UpdateUser(ctx, u)
}

func (b *broken) DeleteUser(ctx context.Context, id string) error {
	if b.remove != nil {
		return b.remove(b.Memory, id)
	}
	return b.Memory.DeleteUser(ctx, id)
}

func (b *broken) MergeUsers(ctx context.Context, p, q string, merged usercache.User) error {
	if b.merge != nil {
		return b.merge(b.Memory, p, q, merged)
	}
	return b.Memory.MergeUsers(ctx, p, q, merged)
}

// The suite rejects repositories that are broken in one way each, by the case
// that is about it.
func TestSuiteRejectsBrokenRepositories(t *testing.T) {
	ctx := context.Background()
	for name, b := range map[string]struct {
		repo   broken
		caught string // the case that must fail
	}{
		"shares its memory": {broken{byID: func(m *Memory, id string) (*usercache.User, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			u, ok := m.users[id]
			if !ok {
				return nil, nobody("GetUserByID")
			}
			return &u, nil
		}}, "answers are copies"},
		"has a not-found of its own": {broken{byID: func(m *Memory, id string) (*usercache.User, error) {
			u, err := m.GetUserByID(ctx, id)
			if err != nil {
				return nil, errors.New("no rows")
			}
			return u, nil
		}}, "an empty repository finds nobody"},
		"finds nobody without an error": {broken{byID: func(m *Memory, id string) (*usercache.User, error) {
			u, _ := m.GetUserByID(ctx, id)
			return u, nil
		}}, "an empty repository finds nobody"},
		"says not found when cancelled": {broken{remove: func(*Memory, string) error {
			return nobody("DeleteUser")
		}}, "a cancelled call is no not-found and changes nothing"},
		"compares names exactly": {broken{byUsername: func(m *Memory, platform, name string) (*usercache.User, error) {
			u, err := m.GetUserByPlatformUsername(ctx, platform, name)
			if err == nil && u.Username != name && accountOn(*u, platform).Username != name {
				return nil, nobody("GetUserByPlatformUsername")
			}
			return u, err
		}}, "usernames do not depend on case"},
		"looks across platforms": {broken{byUsername: func(m *Memory, _, name string) (*usercache.User, error) {
			for _, p := range []string{"twitch", "discord", "irc"} {
				if u, err := m.GetUserByPlatformUsername(ctx, p, name); err == nil {
					return u, nil
				}
			}
			return nil, nobody("GetUserByPlatformUsername")
		}}, "a user is found under every name"},
		"unlinks on upsert": {broken{upsert: func(m *Memory, u *usercache.User) error {
			if err := m.UpsertUser(ctx, u); err != nil {
				return err
			}
			return m.UpdateUser(ctx, *u)
		}}, "an upsert by ID links and never unlinks"},
		"keeps the old name on upsert": {broken{upsert: func(m *Memory, u *usercache.User) error {
			for _, a := range u.Accounts {
				if old, err := m.GetUserByPlatformID(ctx, a.Platform, a.ID); err == nil {
					u.ID = old.ID
					return nil
				}
			}
			return m.UpsertUser(ctx, u)
		}}, "an upsert by account updates its owner"},
		"never unlinks on update": {broken{update: func(m *Memory, u usercache.User) error {
			if u.ID == "" {
				return nobody("UpdateUser")
			}
			return m.UpsertUser(ctx, &u)
		}}, "an update replaces name and links"},
		"deletes in silence": {broken{remove: func(m *Memory, id string) error {
			_ = m.DeleteUser(ctx, id)
			return nil
		}}, "writes to nobody say so"},
		"merges a user with itself": {broken{merge: func(m *Memory, p, q string, merged usercache.User) error {
			if p == q {
				return nil
			}
			return m.MergeUsers(ctx, p, q, merged)
		}}, "a merge that cannot be is refused"},
		"drops the secondary's accounts": {broken{merge: func(m *Memory, p, q string, merged usercache.User) error {
			if err := m.MergeUsers(ctx, p, q, merged); err != nil {
				return err
			}
			merged.ID = p
			return m.UpdateUser(ctx, merged)
		}}, "a merge leaves the primary with everything"},
		"tears users": {broken{update: func(m *Memory, u usercache.User) error {
			half := u
			half.Accounts = nil
			if err := m.UpdateUser(ctx, half); err != nil {
				return err
			}
			runtime.Gosched()
			return m.UpdateUser(ctx, u)
		}}, "no reader sees half a write"},
		"creates twins": {broken{upsert: func(m *Memory, u *usercache.User) error {
			runtime.Gosched()
			if _, err := m.GetUserByPlatformID(ctx, "twitch", "id-alice"); err == nil {
				return errors.New("duplicate key")
			}
			return m.UpsertUser(ctx, u)
		}}, "newcomers who speak twice at once become one user"},
	} {
		t.Run(name, func(t *testing.T) {
			found := false
			for _, c := range cases() {
				if c.name != b.caught {
					continue
				}
				found = true
				repo := b.repo
				repo.Memory = NewMemory()
				r := &recorder{ctx: t.Context()}
				var run sync.WaitGroup
				run.Go(func() { c.check(r, memoryConfig(nil), &repo) })
				run.Wait()
				if !r.Failed() {
					t.Fatalf("%q passes", c.name)
				}
				if last := r.said[len(r.said)-1]; !strings.Contains(last, c.why) {
					t.Errorf("the last word is %q, want the explanation", last)
				}
			}
			if !found {
				t.Fatalf("there is no case %q", b.caught)
			}
		})
	}
}

// Before and After hold a call before and after its effect, and can fail it.
func TestMemoryHooks(t *testing.T) {
	m := NewMemory()
	fail := errors.New("lost connection")
	var at string
	m.After = func(_ context.Context, method string) error {
		if method == at {
			return fail
		}
		return nil
	}
	m.Before = func(_ context.Context, method string) error {
		if method == "before "+at {
			return fail
		}
		return nil
	}
	u := usercache.User{Username: "Alice"}
	at = "UpsertUser"
	if err := m.UpsertUser(t.Context(), &u); err != fail || u.ID != "" {
		t.Errorf("error %v, ID %q", err, u.ID)
	}
	if len(m.users) != 1 {
		t.Errorf("%d users, want the one whose answer was lost", len(m.users))
	}
	at = ""
	m.Before = func(context.Context, string) error { return fail }
	if err := m.UpsertUser(t.Context(), &u); err != fail || len(m.users) != 1 {
		t.Errorf("error %v, %d users", err, len(m.users))
	}
}
