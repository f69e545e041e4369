package sqlite_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/examples/chatbot/internal/sqlite"
	"github.com/osse101/usercache/repositorytest"
)

type repository = usercache.Repository[usercache.User]

func open(t *testing.T, path string) *sqlite.Repository {
	t.Helper()
	r, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func suite(t *testing.T, over func(t *testing.T, r repository) repository) {
	repositorytest.Run(t, repositorytest.Config{
		New: func(t *testing.T) repository {
			return over(t, open(t, filepath.Join(t.TempDir(), "users ?#%.db")))
		},
		InvalidUser: sqlite.ErrInvalidUser, AccountTaken: sqlite.ErrAccountTaken,
		PlatformTaken: sqlite.ErrPlatformTaken, SameUser: sqlite.ErrSameUser,
		UnicodeFold: true,
	})
}

func TestConformance(t *testing.T) {
	suite(t, func(_ *testing.T, r repository) repository { return r })
}

func TestConformanceCached(t *testing.T) {
	suite(t, func(t *testing.T, r repository) repository {
		c, err := usercache.New(r, usercache.UserSchema(), usercache.WithPreciseUsernames(), usercache.WithRejected(sqlite.Rejected))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		return c
	})
}

// Users outlive the process.
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users.db")
	first := open(t, path)
	u := usercache.User{Username: "Alice", Accounts: []usercache.Account{{Platform: "twitch", ID: "1"}}}
	if err := first.UpsertUser(t.Context(), &u); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, path).GetUserByPlatformID(t.Context(), "twitch", "1")
	if err != nil || got.ID != u.ID || !got.CreatedAt.Equal(u.CreatedAt) {
		t.Errorf("got %+v, %v; want %+v", got, err, u)
	}
}

// A file that cannot be opened is an error that names it.
func TestOpenFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "users.db")
	if _, err := sqlite.Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
}

func TestRejected(t *testing.T) {
	r := open(t, filepath.Join(t.TempDir(), "users.db"))
	if err := r.DeleteUser(t.Context(), "nobody"); !sqlite.Rejected(err) {
		t.Errorf("%v: not certain", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range []error{nil, errors.New("disk I/O error"), r.DeleteUser(ctx, "nobody")} {
		if sqlite.Rejected(err) {
			t.Errorf("%v: certain", err)
		}
	}
}
