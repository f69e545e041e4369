package service_test

import (
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/examples/chatbot/internal/service"
	"github.com/osse101/usercache/repositorytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func cached(t *testing.T, repo service.Users, opts ...usercache.Option) *usercache.CachedRepository[usercache.User] {
	t.Helper()
	c, err := usercache.New(repo, usercache.UserSchema(), append(opts, usercache.WithPreciseUsernames())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func message(username string) service.Message {
	return service.Message{Platform: "twitch", PlatformID: "100", Username: username, Text: "hi"}
}

func handle(t *testing.T, b service.Bot, m service.Message) service.Reply {
	t.Helper()
	r, err := b.Handle(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A sender is registered once, found in memory from then on, and renamed when
// the name changes; each message costs one lookup of the cache at first.
func TestBotRegistersAndRenames(t *testing.T) {
	repo := repositorytest.NewMemory()
	users := cached(t, repo)
	b := service.Bot{Users: users}

	r := handle(t, b, message("alice"))
	if !r.Registered || r.Renamed || r.Text != "Welcome, alice!" {
		t.Errorf("the first message: %+v", r)
	}
	id := r.User.ID
	for range 3 {
		r = handle(t, b, message("alice"))
		if r.Registered || r.Renamed || r.User.ID != id || r.Text != "Hello, alice." {
			t.Errorf("a further message: %+v", r)
		}
	}
	if s := users.Stats(); s.TotalHits() != 3 || s.TotalMisses() != 2 {
		t.Errorf("%d hits and %d misses, want 3 and 2: the first lookup and the one after the write", s.TotalHits(), s.TotalMisses())
	}

	r = handle(t, b, message("alicia"))
	if r.Registered || !r.Renamed || r.User.ID != id || r.User.Username != "alicia" || r.Text != "From now on you are alicia." {
		t.Errorf("a new name: %+v", r)
	}
	stored, err := repo.GetUserByID(t.Context(), id)
	if err != nil || stored.Username != "alicia" || len(stored.Accounts) != 1 || stored.Accounts[0].Username != "alicia" {
		t.Errorf("stored is %+v, %v", stored, err)
	}
	if s := users.Stats(); s.TotalHits() != 4 || s.TotalMisses() != 3 || s.Bypasses.Fresh != 1 {
		t.Errorf("after the rename: %+v", s)
	}
}

// A user who goes by another name than the account keeps it when the account
// is renamed, and keeps other accounts.
func TestBotRenamesNoMoreThanTheAccount(t *testing.T) {
	repo := repositorytest.NewMemory()
	u := usercache.User{Username: "The Boss", Accounts: []usercache.Account{
		{Platform: "discord", ID: "7", Username: "boss"}, {Platform: "twitch", ID: "100", Username: "alice"},
	}}
	if err := repo.UpsertUser(t.Context(), &u); err != nil {
		t.Fatal(err)
	}
	r := handle(t, service.Bot{Users: cached(t, repo)}, message("alicia"))
	if !r.Renamed || r.User.ID != u.ID || r.User.Username != "The Boss" || len(r.User.Accounts) != 2 {
		t.Errorf("%+v", r)
	}
}

// What is written back is based on what the database holds, not on a cached
// answer that another process has outdated.
func TestBotRenamesOnTopOfTheDatabase(t *testing.T) {
	repo := repositorytest.NewMemory()
	b := service.Bot{Users: cached(t, repo)}
	u := handle(t, b, message("alice")).User
	u.Username = "The Boss"
	if err := repo.UpdateUser(t.Context(), u); err != nil { // behind the cache's back
		t.Fatal(err)
	}
	if r := handle(t, b, message("alicia")); r.User.Username != "The Boss" {
		t.Errorf("the user's own name is overwritten by one from the cache: %+v", r)
	}
}

func TestBotTellsWhoWasSeen(t *testing.T) {
	repo := repositorytest.NewMemory()
	var seen []string
	b := service.Bot{Users: repo, Seen: func(platform, id string) { seen = append(seen, platform+" "+id) }}
	handle(t, b, message("alice"))
	handle(t, b, message("alice"))
	if len(seen) != 2 || seen[0] != "twitch 100" {
		t.Errorf("seen %q", seen)
	}
}

func TestBotPassesErrorsOn(t *testing.T) {
	broken := errors.New("broken")
	for _, failing := range []string{"GetUserByPlatformID", "UpsertUser"} {
		repo := repositorytest.NewMemory()
		b := service.Bot{Users: repo, Seen: func(string, string) { t.Error("seen in spite of an error") }}
		repo.Before = fail(failing, broken)
		if _, err := b.Handle(t.Context(), message("alice")); !errors.Is(err, broken) {
			t.Errorf("%s: %v", failing, err)
		}
	}
}
