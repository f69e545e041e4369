package usercache_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/repositorytest"
)

// The tests whose names begin with TestScenario are what the promise must
// survive, by number. docs/consistency.md lists them. Each says how it is set
// up, what the hazard is, and what must come of it. Old and new are a user
// before and after a write.

// stage is a cache over a repository in memory, whose calls a test can hold up.
type stage struct {
	*cache
	repo *repositorytest.Memory
	t    *testing.T

	mu    sync.Mutex
	holds []*held
	calls map[string]int
}

// held is one call that is held up.
type held struct {
	method  string
	after   bool // it has read or written, and has yet to return
	err     error
	reached chan struct{} // closed when the call is there
	release chan struct{} // to be closed to let it go
}

func newStage(t *testing.T, opts ...usercache.Option) *stage {
	t.Helper()
	s := &stage{repo: repositorytest.NewMemory(), t: t, calls: map[string]int{}}
	s.repo.Before = func(_ context.Context, method string) error {
		s.mu.Lock()
		s.calls[method]++
		s.mu.Unlock()
		return s.meet(method, false)
	}
	s.repo.After = func(_ context.Context, method string) error { return s.meet(method, true) }
	c, err := usercache.New(s.repo, usercache.UserSchema(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	s.cache = c
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// meet holds a call up if a test wants it.
func (s *stage) meet(method string, after bool) error {
	s.mu.Lock()
	i := slices.IndexFunc(s.holds, func(h *held) bool { return h.method == method && h.after == after })
	if i < 0 {
		s.mu.Unlock()
		return nil
	}
	h := s.holds[i]
	s.holds = slices.Delete(s.holds, i, i+1)
	s.mu.Unlock()
	close(h.reached)
	<-h.release
	return h.err
}

// hold has the next call of a method held up before it does anything, or after
// it has done it.
func (s *stage) hold(method string, after bool) *held {
	h := &held{method: method, after: after, reached: make(chan struct{}), release: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds = append(s.holds, h)
	return h
}

// fail has the next call of a method return an error, before it does anything
// or after it has done it.
func (s *stage) fail(method string, after bool, err error) {
	h := s.hold(method, after)
	h.err = err
	close(h.release)
}

func (s *stage) count(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[method]
}

// methods are the repository's lookups, in the order of asking.
var methods = []string{"GetUserByID", "GetUserByPlatformID", "GetUserByPlatformUsername"}

// add stores a user behind the cache's back, before anybody has asked.
func (s *stage) add(name string, accounts ...usercache.Account) user {
	s.t.Helper()
	u := user{Username: name, Accounts: accounts}
	if err := s.repo.UpsertUser(s.t.Context(), &u); err != nil {
		s.t.Fatal(err)
	}
	return u
}

func account(platform, id string) usercache.Account {
	return usercache.Account{Platform: platform, ID: id, Username: id + "_name"}
}

// asking is every lookup of a user: by ID, by each account, and by each name on
// each platform.
func asking(u user) []question {
	qs := []question{byID(u.ID)}
	for _, a := range u.Accounts {
		qs = append(qs, byAccount(a.Platform, a.ID), byUsername(a.Platform, a.Username), byUsername(a.Platform, u.Username))
	}
	return qs
}

// sees asks q and compares the answer: the name of a user, or "" for nobody.
func (s *stage) sees(q question, name string) *user {
	s.t.Helper()
	u, err := q.ask(s.t.Context(), s.cache)
	switch {
	case name == "" && !errors.Is(err, usercache.ErrUserNotFound):
		s.t.Errorf("%s: %+v, %v; want nobody", q.name, u, err)
	case name != "" && (err != nil || u.Username != name):
		s.t.Errorf("%s: %+v, %v; want %s", q.name, u, err, name)
	}
	return u
}

// agrees asks every question of cache and repository, twice, and compares.
func (s *stage) agrees(qs ...question) {
	s.t.Helper()
	for range 2 {
		for _, q := range qs {
			got, err := q.ask(s.t.Context(), s.cache)
			want, wantErr := q.ask(usercache.Fresh(s.t.Context()), s.cache)
			if (err == nil) != (wantErr == nil) || err == nil && (got.ID != want.ID || got.Username != want.Username || !slices.Equal(got.Accounts, want.Accounts)) {
				s.t.Errorf("%s: the cache says %+v, %v; the repository %+v, %v", q.name, got, err, want, wantErr)
			}
		}
	}
}

func (s *stage) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// background runs f and returns what is closed when it has ended.
func background(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	return done
}
