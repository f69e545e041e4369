package repositorytest

import (
	"fmt"
	"strings"

	"github.com/osse101/usercache"
)

// unknownID is a well-formed ID that no repository gives out.
const unknownID = "00000000-0000-4000-8000-000000000000"

// hostile are names that break careless queries.
var hostile = []string{"", "\x00", "a\x00b", "\xff\xfe", "'; DROP TABLE users; --", `\`, "%", "_", strings.Repeat("x", 1<<20)}

func cases() []testCase {
	return append(lookupCases(), append(writeCases(), mergeAndConcurrencyCases()...)...)
}

func lookupCases() []testCase {
	return []testCase{
		{
			"an empty repository finds nobody",
			"callers tell a newcomer from a failure by ErrUserNotFound",
			func(s *subject) {
				s.nobody(byID(unknownID), byAccount("twitch", "1"), byUsername("twitch", "nobody"))
			},
		},
		{
			"a user is found under every name",
			"each lookup returns the whole user",
			func(s *subject) {
				u := s.create("Alice", account("twitch", "alice"), account("discord", "al"))
				s.finding(u)
				s.create("Bob", account("twitch", "bob"))
				s.finding(u)
				s.nobody(byAccount("irc", "id-alice"), byUsername("irc", "Alice"), byAccount("twitch", "id-al"))
			},
		},
		{
			"times are set",
			"CreatedAt and UpdatedAt are the repository's to keep",
			func(s *subject) {
				u := s.create("Alice", account("twitch", "alice"))
				if u.CreatedAt.IsZero() || u.UpdatedAt.Before(u.CreatedAt) {
					s.Errorf("created %v, updated %v", u.CreatedAt, u.UpdatedAt)
				}
				s.ok(s.repo.UpdateUser(s.Context(), usercache.User{ID: u.ID, Username: "Alicia"}))
				got, err := s.repo.GetUserByID(s.Context(), u.ID)
				s.ok(err)
				if !got.CreatedAt.Equal(u.CreatedAt) || got.UpdatedAt.Before(u.UpdatedAt) {
					s.Errorf("after an update: created %v, updated %v; before: %v, %v", got.CreatedAt, got.UpdatedAt, u.CreatedAt, u.UpdatedAt)
				}
			},
		},
		{
			"answers are copies",
			"what one caller does to its user must not show in another's",
			func(s *subject) {
				u := s.create("Alice", account("twitch", "alice"))
				for _, l := range names(u) {
					got, err := l.ask(s.Context(), s.repo)
					s.ok(err)
					got.Username = "vandalised"
					got.Accounts[0].ID = "vandalised"
				}
				s.finding(u)
				given := usercache.User{ID: u.ID, Username: "Alicia", Accounts: []usercache.Account{account("twitch", "alice")}}
				s.ok(s.repo.UpdateUser(s.Context(), given))
				want := given
				want.Accounts = []usercache.Account{account("twitch", "alice")}
				given.Accounts[0].ID = "vandalised"
				s.finding(want)
			},
		},
		{
			"usernames do not depend on case",
			"people type names as they like",
			func(s *subject) {
				u := s.create("Alice", account("twitch", "Wonder"))
				s.finds(u, byUsername("twitch", "ALICE"), byUsername("twitch", "alice"), byUsername("twitch", "WONDER_on_TWITCH"))
				s.nobody(byUsername("TWITCH", "alice"), byAccount("twitch", "ID-Wonder"))
			},
		},
		{
			"usernames do not depend on case in any script",
			"declared by UnicodeFold",
			func(s *subject) {
				if !s.cfg.UnicodeFold {
					return
				}
				u := s.create("ÉΑΔж", account("twitch", "x"))
				s.finds(u, byUsername("twitch", "éαδЖ"))
			},
		},
		{
			"of several users with one name, always the same is found",
			"an answer that depends on chance cannot be cached, or debugged",
			func(s *subject) {
				a := s.create("Same", account("twitch", "1"))
				b := s.create("same", account("twitch", "2"))
				first, second := a, b
				if b.ID < a.ID {
					first, second = b, a
				}
				s.finds(first, byUsername("twitch", "SAME"))
				byAccountName := s.create("Other", usercache.Account{Platform: "twitch", ID: "3", Username: "same"})
				s.finds(byAccountName, byUsername("twitch", "same"))
				s.ok(s.repo.DeleteUser(s.Context(), byAccountName.ID))
				s.finds(first, byUsername("twitch", "same"))
				s.ok(s.repo.DeleteUser(s.Context(), first.ID))
				s.finds(second, byUsername("twitch", "same"))
			},
		},
		{
			"hostile names are found by nobody",
			"a name from the outside must not become an error of the database, let alone a query",
			func(s *subject) {
				u := s.create("Alice", account("twitch", "alice"))
				for _, h := range hostile {
					s.nobody(byID(h), byAccount("twitch", h), byAccount(h, "id-alice"), byUsername("twitch", h), byUsername(h, "Alice"))
				}
				s.finding(u)
			},
		},
		{
			"names are stored as they are given",
			"no script is second class, and a name comes back byte by byte",
			func(s *subject) {
				for i, name := range []string{"É", "E\u0301", "İ", "ı", "ΑΣ", "\u212A", "日本語", "🦊", "a b", "it's", `"q"`, "%_"} {
					u := s.create(name, usercache.Account{Platform: "twitch", ID: fmt.Sprint(i, name), Username: name})
					s.finding(u)
				}
			},
		},
	}
}
