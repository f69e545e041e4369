package usercache_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"slices"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/repositorytest"
)

func Example() {
	ctx := context.Background()
	repo := repositorytest.NewMemory() // in a service, a database
	users, err := usercache.New(repo, usercache.UserSchema())
	if err != nil {
		log.Fatal(err)
	}
	defer users.Close()

	alice := usercache.User{Username: "alice", Accounts: []usercache.Account{{Platform: "twitch", ID: "12345"}}}
	if err := users.UpsertUser(ctx, &alice); err != nil {
		log.Fatal(err)
	}
	for range 3 {
		u, err := users.GetUserByPlatformID(ctx, "twitch", "12345")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(u.Username)
		u.Username = "changed by a caller" // who has a copy
	}
	_, err = users.GetUserByPlatformID(ctx, "twitch", "54321")
	fmt.Println(errors.Is(err, usercache.ErrUserNotFound))

	s := users.Stats()
	fmt.Println(s.TotalHits(), "hits,", s.TotalMisses(), "misses")
	// Output:
	// alice
	// alice
	// alice
	// true
	// 2 hits, 2 misses
}

// Member is the application's own user.
type Member struct {
	ID, Name string
	Coins    int
	Links    []Link
}

// Link is an account of a Member.
type Link struct{ Platform, ID, Name string }

// memberSchema tells the cache how to name a Member and how to copy one.
var memberSchema = usercache.Schema[Member]{
	Identity: func(m *Member) usercache.Identity {
		id := usercache.Identity{UserID: m.ID, Usernames: []string{m.Name}}
		for _, l := range m.Links {
			id.Accounts = append(id.Accounts, usercache.Account{Platform: l.Platform, ID: l.ID, Username: l.Name})
		}
		return id
	},
	Clone: func(m *Member) *Member {
		c := *m
		c.Links = slices.Clone(m.Links)
		return &c
	},
}

// Members is what the application wants of its members: more than a cache
// knows of.
type Members interface {
	usercache.Repository[Member]
	GiveCoins(ctx context.Context, memberID string, coins int) error
}

// cachedMembers is Members with a cache in front.
type cachedMembers struct {
	*usercache.CachedRepository[Member]
	db Members
}

// GiveCoins is a write that the cache does not know of, so it is told which
// member changes while it runs.
func (c *cachedMembers) GiveCoins(ctx context.Context, memberID string, coins int) error {
	return c.Mutate(ctx, func(ctx context.Context) error {
		return c.db.GiveCoins(ctx, memberID, coins)
	}, usercache.Identity{UserID: memberID})
}

func newMembers(db Members) (Members, error) {
	cache, err := usercache.New(db, memberSchema)
	if err != nil {
		return nil, err
	}
	return &cachedMembers{CachedRepository: cache, db: db}, nil
}

// A repository of the application's own users, with methods of its own, is
// cached as it stands.
func ExampleCachedRepository_Mutate() {
	ctx := context.Background()
	db := &memberTable{member: Member{ID: "m1", Name: "alice", Links: []Link{{"twitch", "12345", "alice_tv"}}}}
	members, err := newMembers(db)
	if err != nil {
		log.Fatal(err)
	}
	for range 2 {
		if err := members.GiveCoins(ctx, "m1", 10); err != nil {
			log.Fatal(err)
		}
		for range 3 {
			m, err := members.GetUserByPlatformID(ctx, "twitch", "12345")
			if err != nil {
				log.Fatal(err)
			}
			fmt.Print(m.Coins, " ")
		}
	}
	fmt.Println("from", db.lookups, "lookups of the database")
	// Output: 10 10 10 20 20 20 from 2 lookups of the database
}

// memberTable is a database of one member.
type memberTable struct {
	usercache.Repository[Member] // the methods that the example does not call
	member                       Member
	lookups                      int
}

func (t *memberTable) GetUserByPlatformID(context.Context, string, string) (*Member, error) {
	t.lookups++
	m := t.member
	return &m, nil
}

func (t *memberTable) GiveCoins(_ context.Context, _ string, coins int) error {
	t.member.Coins += coins
	return nil
}

// What is read in order to be written back comes from the repository itself.
func ExampleFresh() {
	ctx := context.Background()
	users, err := usercache.New(repositorytest.NewMemory(), usercache.UserSchema())
	if err != nil {
		log.Fatal(err)
	}
	defer users.Close()
	alice := usercache.User{Username: "alice", Accounts: []usercache.Account{{Platform: "twitch", ID: "12345"}}}
	if err := users.UpsertUser(ctx, &alice); err != nil {
		log.Fatal(err)
	}

	u, err := users.GetUserByID(usercache.Fresh(ctx), alice.ID)
	if err != nil {
		log.Fatal(err)
	}
	u.Username = "alicia"
	if err := users.UpdateUser(ctx, *u); err != nil {
		log.Fatal(err)
	}
	fmt.Println(users.Stats().Bypasses.Fresh)
	// Output: 1
}

// A service that starts loads who was there lately, before its first request.
func ExampleCachedRepository_Warm() {
	ctx := context.Background()
	repo := repositorytest.NewMemory()
	alice := usercache.User{Username: "alice", Accounts: []usercache.Account{{Platform: "twitch", ID: "12345"}}}
	if err := repo.UpsertUser(ctx, &alice); err != nil {
		log.Fatal(err)
	}
	users, err := usercache.New(repo, usercache.UserSchema())
	if err != nil {
		log.Fatal(err)
	}
	defer users.Close()

	report, err := users.Warm(ctx, []usercache.Lookup{
		usercache.ByPlatformID("twitch", "12345"),
		usercache.ByPlatformID("twitch", "54321"),
	}, usercache.WithWarmConcurrency(4))
	fmt.Println(report.Warmed, "warmed,", report.Absent, "absent,", report.Failed, "failed,", err)
	// Output: 1 warmed, 1 absent, 0 failed, <nil>
}
