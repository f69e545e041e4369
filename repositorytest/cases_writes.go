package repositorytest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/osse101/usercache"
)

func writeCases() []testCase {
	return []testCase{
		{
			"an upsert by account updates its owner",
			"a bot knows the account and not the ID",
			func(s *subject) {
				u := s.create("Alice", account("twitch", "alice"), account("discord", "al"))
				again := usercache.User{Username: "Alicia", Accounts: []usercache.Account{{Platform: "twitch", ID: "id-alice"}}}
				s.ok(s.repo.UpsertUser(s.Context(), &again))
				if again.ID != u.ID {
					s.Errorf("filled in ID %q, want %q", again.ID, u.ID)
				}
				u.Username = "Alicia"
				u.Accounts[0].Username = "" // stored as given
				s.finding(u)
				s.nobody(byUsername("twitch", "Alice"), byUsername("twitch", "alice_on_twitch"))
			},
		},
		{
			"an upsert by ID links and never unlinks",
			"accounts that a caller does not know of must survive it",
			func(s *subject) {
				u := s.create("Alice", account("twitch", "alice"))
				s.nobody(byAccount("discord", "id-al"), byUsername("discord", "Alice"))
				more := usercache.User{ID: u.ID, Username: "Alice", Accounts: []usercache.Account{account("discord", "al")}}
				s.ok(s.repo.UpsertUser(s.Context(), &more))
				u.Accounts = append(u.Accounts, account("discord", "al"))
				s.finding(u)
				none := usercache.User{ID: u.ID, Username: "Alice"}
				s.ok(s.repo.UpsertUser(s.Context(), &none))
				s.finding(u)
			},
		},
		{
			"an upsert without accounts creates a user",
			"not every user has an account yet",
			func(s *subject) { s.finding(s.create("Alice")) },
		},
		{
			"writes to nobody say so",
			"a write that changed nothing must not look like one that did",
			func(s *subject) {
				u := s.create("Alice", account("twitch", "alice"))
				for _, id := range append([]string{unknownID, "no-uuid"}, hostile[1:]...) {
					s.missing(s.repo.UpsertUser(s.Context(), &usercache.User{ID: id, Username: "x"}))
					s.missing(s.repo.UpdateUser(s.Context(), usercache.User{ID: id, Username: "x"}))
					s.missing(s.repo.DeleteUser(s.Context(), id))
					s.missing(s.repo.MergeUsers(s.Context(), u.ID, id, usercache.User{Username: "x"}))
					s.missing(s.repo.MergeUsers(s.Context(), id, u.ID, usercache.User{Username: "x"}))
				}
				s.missing(s.repo.UpdateUser(s.Context(), usercache.User{Username: "x"}))
				s.missing(s.repo.DeleteUser(s.Context(), ""))
				s.finding(u)
			},
		},
		{
			"what cannot be stored is refused",
			"a user that is half stored, or under another name than given, is found by nobody",
			func(s *subject) {
				u := s.create("Alice", account("twitch", "alice"))
				long := strings.Repeat("x", 256)
				with := func(a ...usercache.Account) usercache.User {
					return usercache.User{ID: u.ID, Username: "new", Accounts: a}
				}
				for _, bad := range []usercache.User{
					{ID: u.ID},
					{ID: u.ID, Username: long},
					{ID: u.ID, Username: "a\x00"},
					{ID: u.ID, Username: "\xff"},
					with(usercache.Account{ID: "1"}),
					with(usercache.Account{Platform: "irc"}),
					with(usercache.Account{Platform: "irc", ID: long}),
					with(usercache.Account{Platform: "irc", ID: "1", Username: "\x00"}),
					with(account("irc", "1"), account("irc", "2")),
				} {
					given := bad
					s.refused(s.repo.UpsertUser(s.Context(), &given), s.cfg.InvalidUser)
					s.refused(s.repo.UpdateUser(s.Context(), bad), s.cfg.InvalidUser)
				}
				if err := s.repo.UpsertUser(s.Context(), nil); err == nil {
					s.Errorf("UpsertUser(nil): no error")
				}
				s.finding(u)
				s.nobody(byAccount("irc", "1"))
			},
		},
		{
			"an update replaces name and links",
			"the old name and the accounts left out lead to nobody",
			func(s *subject) {
				u := s.create("Alice", account("twitch", "alice"), account("discord", "al"))
				s.nobody(byUsername("irc", "Carol"))
				n := usercache.User{ID: u.ID, Username: "Carol", Accounts: []usercache.Account{account("irc", "carol"), account("twitch", "other")}}
				s.ok(s.repo.UpdateUser(s.Context(), n))
				s.finding(n)
				s.nobody(byUsername("twitch", "Alice"), byAccount("twitch", "id-alice"), byAccount("discord", "id-al"), byUsername("discord", "Carol"))
				s.ok(s.repo.UpdateUser(s.Context(), usercache.User{ID: u.ID, Username: "Carol"}))
				s.finds(usercache.User{ID: u.ID, Username: "Carol"}, byID(u.ID))
				s.nobody(names(n)[1:]...)
			},
		},
		{
			"an account has one owner",
			"two users behind one account would be two answers to one question",
			func(s *subject) {
				a := s.create("Alice", account("twitch", "alice"))
				b := s.create("Bob", account("twitch", "bob"), account("discord", "bob"))
				s.refused(s.repo.UpdateUser(s.Context(), usercache.User{ID: b.ID, Username: "x", Accounts: []usercache.Account{account("twitch", "alice")}}), s.cfg.AccountTaken)
				given := usercache.User{Username: "x", Accounts: []usercache.Account{account("twitch", "alice"), account("discord", "bob")}}
				s.refused(s.repo.UpsertUser(s.Context(), &given), s.cfg.AccountTaken)
				if given.ID != "" {
					s.Errorf("a refused upsert filled in ID %q", given.ID)
				}
				given = usercache.User{ID: a.ID, Username: "x", Accounts: []usercache.Account{account("discord", "bob")}}
				s.refused(s.repo.UpsertUser(s.Context(), &given), s.cfg.AccountTaken)
				given = usercache.User{ID: a.ID, Username: "x", Accounts: []usercache.Account{account("twitch", "another")}}
				s.refused(s.repo.UpsertUser(s.Context(), &given), s.cfg.PlatformTaken)
				s.finding(a)
				s.finding(b)
			},
		},
		{
			"an account moves from one user to another",
			"every lookup must follow it",
			func(s *subject) {
				a := s.create("Alice", account("twitch", "shared"), account("discord", "al"))
				b := s.create("Bob", account("discord", "bob"))
				s.finding(a)
				s.finding(b)
				a.Accounts = a.Accounts[1:]
				s.ok(s.repo.UpdateUser(s.Context(), a))
				s.nobody(byAccount("twitch", "id-shared"), byUsername("twitch", "Alice"), byUsername("twitch", "Bob"))
				b.Accounts = append(b.Accounts, account("twitch", "shared"))
				s.ok(s.repo.UpdateUser(s.Context(), b))
				s.finding(a)
				s.finding(b)
				s.nobody(byUsername("twitch", "Alice"))
			},
		},
		{
			"a deleted user is gone under every name",
			"and its accounts are free",
			func(s *subject) {
				u := s.create("Alice", account("twitch", "alice"), account("discord", "al"))
				s.finding(u)
				s.ok(s.repo.DeleteUser(s.Context(), u.ID))
				s.nobody(names(u)...)
				s.missing(s.repo.DeleteUser(s.Context(), u.ID))
				s.finding(s.create("Bob", account("twitch", "alice")))
				s.nobody(byID(u.ID))
			},
		},
	}
}

func mergeAndConcurrencyCases() []testCase {
	return []testCase{
		{
			"a merge leaves the primary with everything",
			"the secondary is gone under every name, and its accounts lead to the primary",
			func(s *subject) {
				p := s.create("Alice", account("twitch", "alice"), account("irc", "alice"))
				q := s.create("Al", account("discord", "al"), account("irc", "al"))
				s.finding(p)
				s.finding(q)
				s.nobody(byUsername("discord", "Carol"), byUsername("discord", "Alice"))
				s.ok(s.repo.MergeUsers(s.Context(), p.ID, q.ID, usercache.User{Username: "Carol"}))
				want := usercache.User{ID: p.ID, Username: "Carol", Accounts: append(p.Accounts, account("discord", "al"))}
				s.finding(want)
				s.nobody(byID(q.ID), byAccount("irc", "id-al"), byUsername("discord", "Al"), byUsername("irc", "al_on_irc"), byUsername("twitch", "Alice"))
			},
		},
		{
			"a merge takes the accounts that it is given",
			"on a platform where both users have an account, the caller decides",
			func(s *subject) {
				p := s.create("Alice", account("twitch", "alice"))
				q := s.create("Al", account("twitch", "al"))
				merged := usercache.User{ID: p.ID, Username: "Alice", Accounts: []usercache.Account{account("twitch", "al"), account("irc", "new")}}
				s.ok(s.repo.MergeUsers(s.Context(), p.ID, q.ID, merged))
				s.finding(merged)
				s.nobody(byID(q.ID), byAccount("twitch", "id-alice"))
			},
		},
		{
			"a merge that cannot be is refused",
			"half a merge loses an account",
			func(s *subject) {
				p := s.create("Alice", account("twitch", "alice"))
				q := s.create("Al", account("discord", "al"))
				third := s.create("Bob", account("irc", "bob"))
				s.refused(s.repo.MergeUsers(s.Context(), p.ID, p.ID, usercache.User{Username: "x"}), s.cfg.SameUser)
				s.refused(s.repo.MergeUsers(s.Context(), p.ID, q.ID, usercache.User{}), s.cfg.InvalidUser)
				s.refused(s.repo.MergeUsers(s.Context(), p.ID, q.ID, usercache.User{ID: third.ID, Username: "x"}), s.cfg.InvalidUser)
				s.refused(s.repo.MergeUsers(s.Context(), p.ID, q.ID, usercache.User{Username: "x", Accounts: third.Accounts}), s.cfg.AccountTaken)
				s.finding(p)
				s.finding(q)
				s.finding(third)
			},
		},
		{
			"a cancelled call is no not-found and changes nothing",
			"a caller who gave up must not conclude that there is nobody",
			func(s *subject) {
				u := s.create("Alice", account("twitch", "alice"))
				ctx, cancel := context.WithCancel(s.Context())
				cancel()
				for _, l := range append(names(u), byID(unknownID), byAccount("twitch", "1"), byUsername("twitch", "x")) {
					if got, err := l.ask(ctx, s.repo); got == nil && (err == nil || errors.Is(err, usercache.ErrUserNotFound)) {
						s.Errorf("%s under a cancelled context: error %v", l.name, err)
					}
				}
				s.refused(s.repo.UpsertUser(ctx, &usercache.User{ID: u.ID, Username: "x"}), nil)
				s.refused(s.repo.UpdateUser(ctx, usercache.User{ID: u.ID, Username: "x"}), nil)
				s.refused(s.repo.DeleteUser(ctx, u.ID), nil)
				s.finding(u)
			},
		},
		{
			"newcomers who speak twice at once become one user",
			"two messages of one account may arrive together",
			func(s *subject) {
				users := make([]usercache.User, 8)
				var writers sync.WaitGroup
				for i := range users {
					writers.Go(func() {
						users[i] = usercache.User{Username: "Alice", Accounts: []usercache.Account{account("twitch", "alice")}}
						if err := s.repo.UpsertUser(s.Context(), &users[i]); err != nil {
							s.Errorf("concurrent upsert: %v", err)
						}
					})
				}
				writers.Wait()
				for _, u := range users {
					if u.ID != users[0].ID {
						s.Errorf("two IDs for one account: %q and %q", u.ID, users[0].ID)
					}
				}
				s.finding(users[0])
			},
		},
		{
			"no reader sees half a write",
			"name and links of one user belong to one version",
			func(s *subject) {
				version := func(id string, i int) usercache.User {
					word := fmt.Sprint("v", i)
					return usercache.User{ID: id, Username: word, Accounts: []usercache.Account{
						{Platform: "discord", ID: "fixed", Username: word},
						{Platform: "irc", ID: word, Username: word},
						{Platform: "twitch", ID: word, Username: word},
					}}
				}
				u := s.create("v0", version("", 0).Accounts...)
				done := make(chan struct{})
				var readers sync.WaitGroup
				for _, l := range []lookup{byID(u.ID), byAccount("discord", "fixed")} {
					readers.Go(func() {
						for {
							select {
							case <-done:
								return
							default:
							}
							got, err := l.ask(s.Context(), s.repo)
							if err != nil {
								s.Errorf("%s: %v", l.name, err)
								return
							}
							torn := len(got.Accounts) != 3
							for _, a := range got.Accounts {
								torn = torn || a.Username != got.Username
							}
							if torn {
								s.Errorf("%s: parts of several versions: %+v", l.name, *got)
								return
							}
						}
					})
				}
				for i := range 100 {
					if err := s.repo.UpdateUser(s.Context(), version(u.ID, i)); err != nil {
						s.Errorf("update: %v", err)
						break
					}
				}
				close(done)
				readers.Wait()
			},
		},
	}
}
