// Package repositorytest checks that a user repository behaves as the cache,
// and its callers, expect. [Run] is a conformance suite for any
// [usercache.Repository] of [usercache.User], and so for a CachedRepository over
// one; [Memory] is a repository in memory that passes it.
package repositorytest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/osse101/usercache"
)

// Config describes the repository under test.
type Config struct {
	// New returns an empty repository. It is called once for each case, and
	// may use t for its set-up and clean-up. Required.
	New func(t *testing.T) usercache.Repository[usercache.User]

	// Errors that writes wrap when they are refused. Where one is nil, any
	// error will do that does not wrap usercache.ErrUserNotFound.
	InvalidUser   error
	AccountTaken  error
	PlatformTaken error
	SameUser      error

	// UnicodeFold declares that usernames are equal without regard to case
	// in all scripts. Without it only ASCII letters are expected to be.
	UnicodeFold bool
}

// Run runs the suite. Each case is a subtest that begins with a new
// repository; one that fails says why the behaviour matters.
func Run(t *testing.T, cfg Config) {
	t.Helper()
	if cfg.New == nil {
		t.Fatal("repositorytest: Config.New is nil")
	}
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) { c.check(t, cfg, cfg.New(t)) })
	}
}

// reporter is what the suite needs of a testing.T, so that its own tests can
// look on while it fails.
type reporter interface {
	Helper()
	Context() context.Context
	Errorf(format string, args ...any)
	FailNow()
	Failed() bool
}

// testCase is one case of the suite.
type testCase struct {
	name string
	why  string // printed if it fails
	run  func(*subject)
}

func (c testCase) check(r reporter, cfg Config, repo usercache.Repository[usercache.User]) {
	r.Helper()
	defer func() {
		if r.Failed() {
			r.Errorf("why it matters: %s", c.why)
		}
	}()
	c.run(&subject{reporter: r, cfg: cfg, repo: repo})
}

// subject is the repository under test, and who hears what is wrong with it.
type subject struct {
	reporter
	cfg  Config
	repo usercache.Repository[usercache.User]
}

func (s *subject) fatalf(format string, args ...any) {
	s.Helper()
	s.Errorf(format, args...)
	s.FailNow()
}

// ok fails the case unless err is nil.
func (s *subject) ok(err error) {
	s.Helper()
	if err != nil {
		s.fatalf("unexpected error: %v", err)
	}
}

// refused fails the case unless err is an error that wraps want, if there is
// one to want, and is not a not-found.
func (s *subject) refused(err, want error) {
	s.Helper()
	switch {
	case err == nil:
		s.Errorf("no error")
	case errors.Is(err, usercache.ErrUserNotFound):
		s.Errorf("error %q says that nobody was found", err)
	case want != nil && !errors.Is(err, want):
		s.Errorf("error %q does not wrap %q", err, want)
	}
}

// missing fails the case unless err says that there is nobody.
func (s *subject) missing(err error) {
	s.Helper()
	if !errors.Is(err, usercache.ErrUserNotFound) {
		s.Errorf("error %v does not wrap ErrUserNotFound", err)
	}
}

// account is an account whose name and ID derive from one word.
func account(platform, word string) usercache.Account {
	return usercache.Account{Platform: platform, ID: "id-" + word, Username: word + "_on_" + platform}
}

// create stores a new user and returns it.
func (s *subject) create(username string, accounts ...usercache.Account) usercache.User {
	s.Helper()
	u := usercache.User{Username: username, Accounts: accounts}
	s.ok(s.repo.UpsertUser(s.Context(), &u))
	if u.ID == "" {
		s.fatalf("UpsertUser created a user and did not fill in its ID")
	}
	return u
}

// same reports whether two users agree in all that a caller stores.
func same(a, b usercache.User) bool {
	byPlatform := func(a, b usercache.Account) int { return strings.Compare(a.Platform, b.Platform) }
	return a.ID == b.ID && a.Username == b.Username &&
		slices.Equal(slices.SortedFunc(slices.Values(a.Accounts), byPlatform), slices.SortedFunc(slices.Values(b.Accounts), byPlatform))
}

// lookup is a lookup method with its arguments.
type lookup struct {
	name string
	ask  func(context.Context, usercache.Repository[usercache.User]) (*usercache.User, error)
}

func byID(id string) lookup {
	return lookup{"GetUserByID(" + brief(id) + ")", func(ctx context.Context, r usercache.Repository[usercache.User]) (*usercache.User, error) {
		return r.GetUserByID(ctx, id)
	}}
}

func byAccount(platform, id string) lookup {
	return lookup{"GetUserByPlatformID(" + brief(platform) + ", " + brief(id) + ")", func(ctx context.Context, r usercache.Repository[usercache.User]) (*usercache.User, error) {
		return r.GetUserByPlatformID(ctx, platform, id)
	}}
}

func byUsername(platform, name string) lookup {
	return lookup{"GetUserByPlatformUsername(" + brief(platform) + ", " + brief(name) + ")", func(ctx context.Context, r usercache.Repository[usercache.User]) (*usercache.User, error) {
		return r.GetUserByPlatformUsername(ctx, platform, name)
	}}
}

func brief(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// names are all lookups that must find u.
func names(u usercache.User) []lookup {
	l := []lookup{byID(u.ID)}
	for _, a := range u.Accounts {
		l = append(l, byAccount(a.Platform, a.ID), byUsername(a.Platform, u.Username))
		if a.Username != "" {
			l = append(l, byUsername(a.Platform, a.Username))
		}
	}
	return l
}

// finds fails the case unless every lookup answers with want, twice, so that a
// cache under test answers from memory as well.
func (s *subject) finds(want usercache.User, lookups ...lookup) {
	s.Helper()
	for _, l := range lookups {
		for range 2 {
			got, err := l.ask(s.Context(), s.repo)
			switch {
			case err != nil:
				s.Errorf("%s: %v", l.name, err)
			case got == nil:
				s.Errorf("%s: neither a user nor an error", l.name)
			case !same(*got, want):
				s.Errorf("%s = %+v, want %+v", l.name, *got, want)
			}
		}
	}
}

// finding fails the case unless u is found under all of its names.
func (s *subject) finding(u usercache.User) {
	s.Helper()
	s.finds(u, names(u)...)
}

// nobody fails the case unless every lookup finds nobody, twice.
func (s *subject) nobody(lookups ...lookup) {
	s.Helper()
	for _, l := range lookups {
		for range 2 {
			got, err := l.ask(s.Context(), s.repo)
			if !errors.Is(err, usercache.ErrUserNotFound) {
				s.Errorf("%s: error %v does not wrap ErrUserNotFound", l.name, err)
			}
			if got != nil {
				s.Errorf("%s: a user besides the error: %+v", l.name, *got)
			}
		}
	}
}
