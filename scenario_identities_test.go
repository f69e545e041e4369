package usercache_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/repositorytest"
)

// modes are the two ways to treat usernames.
var modes = map[string][]usercache.Option{"all usernames": nil, "precise usernames": {usercache.WithPreciseUsernames()}}

// Set-up: nobody is cached under an account and under the names that its user
// will be found by; and a user is cached under an account that will be
// unlinked, or moved to another user.
// Hazard: the write names one user; the answers that it changes belong to
// another, or to nobody.
// Outcome: a linked account is found under all names, an unlinked one is not,
// a moved one has its one new owner, by every lookup.
func TestScenario08LinkingUnlinkingMoving(t *testing.T) {
	for mode, opts := range modes {
		t.Run(mode, func(t *testing.T) {
			s := newStage(t, opts...)
			ann := s.add("ann", account("tw", "1"))
			ben := s.add("ben", account("tw", "2"))
			link := account("dc", "9")
			linked := []question{byAccount("dc", "9"), byUsername("dc", "9_name"), byUsername("dc", "ann")}
			everything := append(append(asking(ann), asking(ben)...), linked...)
			s.agrees(everything...)

			s.must(s.UpsertUser(t.Context(), &user{ID: ann.ID, Username: "ann", Accounts: []usercache.Account{link}}))
			for _, q := range linked {
				s.sees(q, "ann")
			}
			s.agrees(everything...)

			// Unlinked: the argument does not name the account.
			s.must(s.UpdateUser(t.Context(), ann))
			for _, q := range linked {
				s.sees(q, "")
			}
			s.agrees(everything...)

			// Moved: from ann to ben, who had another.
			s.must(s.UpdateUser(t.Context(), user{ID: ann.ID, Username: "ann"}))
			moved := ben
			moved.Accounts = ann.Accounts
			s.must(s.UpdateUser(t.Context(), moved))
			s.sees(byAccount("tw", "1"), "ben")
			s.sees(byUsername("tw", "1_name"), "ben")
			s.sees(byAccount("tw", "2"), "")
			s.sees(byUsername("tw", "ann"), "")
			s.agrees(everything...)
		})
	}
}

// stubborn is a repository that ignores the username of an upsert for a user
// whom it knows.
type stubborn struct{ *repositorytest.Memory }

func (r stubborn) UpsertUser(ctx context.Context, u *user) error {
	mine := *u
	if u.ID != "" {
		known, err := r.GetUserByID(ctx, u.ID)
		if err != nil {
			return err
		}
		mine.Username = known.Username
	}
	err := r.Memory.UpsertUser(ctx, &mine)
	u.ID = mine.ID
	return err
}

// Set-up: a repository that stores users under a name of its own choosing; an
// account is linked with another name in the argument. Nobody is cached under
// the name that the user keeps, on the new account's platform.
// Hazard: the write names only the name in its argument.
// Outcome: by default every write but a delete drops all usernames, so the user
// is found.
func TestScenario08LinkingUnderAnotherNameThanGiven(t *testing.T) {
	repo := stubborn{repositorytest.NewMemory()}
	c, err := usercache.New(repo, usercache.UserSchema())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ann := user{Username: "ann", Accounts: []usercache.Account{{Platform: "tw", ID: "1"}}}
	if err := c.UpsertUser(t.Context(), &ann); err != nil {
		t.Fatal(err)
	}
	if u, err := c.GetUserByPlatformUsername(t.Context(), "dc", "ann"); !errors.Is(err, usercache.ErrUserNotFound) {
		t.Fatalf("%v, %v", u, err)
	}
	if err := c.UpsertUser(t.Context(), &user{ID: ann.ID, Username: "somebody", Accounts: []usercache.Account{{Platform: "dc", ID: "2"}}}); err != nil {
		t.Fatal(err)
	}
	if u, err := c.GetUserByPlatformUsername(t.Context(), "dc", "ann"); err != nil || u.ID != ann.ID {
		t.Errorf("%v, %v", u, err)
	}
}

// Set-up: two users are cached under all names, and merged.
// Hazard: the secondary lives on under a name that the write did not give.
// Outcome: the secondary's ID is nobody, its accounts lead to the primary, and
// neither user's old answer survives.
func TestScenario09Merge(t *testing.T) {
	for mode, opts := range modes {
		t.Run(mode, func(t *testing.T) {
			s := newStage(t, opts...)
			ann := s.add("ann", account("tw", "1"))
			ben := s.add("ben", account("dc", "2"), account("yt", "3"))
			everything := append(append(asking(ann), asking(ben)...), byUsername("dc", "ann"), byUsername("yt", "ann"), byUsername("tw", "merged"), byUsername("dc", "merged"))
			s.agrees(everything...)
			s.must(s.MergeUsers(t.Context(), ann.ID, ben.ID, user{Username: "merged"}))
			s.sees(byID(ben.ID), "")
			for _, q := range []question{byID(ann.ID), byAccount("tw", "1"), byAccount("dc", "2"), byAccount("yt", "3"), byUsername("yt", "3_name"), byUsername("dc", "merged")} {
				s.sees(q, "merged")
			}
			s.sees(byUsername("dc", "ben"), "")
			s.sees(byUsername("tw", "ann"), "")
			s.agrees(everything...)
		})
	}
}

// Set-up: three users, sorted by ID, of whom the last two have accounts of one
// name; that name finds the second, and is cached. The third is merged into
// the first, by a write that does not give the name.
// Hazard: the name finds the first now, whose ID is the least, but nothing in
// the write tells the cached answer so.
// Outcome: a merge drops all usernames, precise or not.
func TestScenario09MergeChangesWhoComesFirst(t *testing.T) {
	for mode, opts := range modes {
		t.Run(mode, func(t *testing.T) {
			s := newStage(t, opts...)
			users := []user{s.add("a"), s.add("b"), s.add("c")}
			slices.SortFunc(users, func(a, b user) int { return strings.Compare(a.ID, b.ID) })
			for i := 1; i < 3; i++ {
				users[i].Accounts = []usercache.Account{{Platform: "tw", ID: users[i].Username, Username: "shared"}}
				s.must(s.repo.UpdateUser(t.Context(), users[i]))
			}
			s.sees(byUsername("tw", "shared"), users[1].Username)
			s.must(s.MergeUsers(t.Context(), users[0].ID, users[2].ID, users[0]))
			s.sees(byUsername("tw", "shared"), users[0].Username)
		})
	}
}

// Set-up: ann is cached by her name; she is renamed, and another ann exists.
// The write's argument carries times and an order of accounts that the
// repository does not store.
// Hazard: the old name still finds her, or an answer is the argument.
// Outcome: the old name finds whom the repository says, and every answer is
// what the repository stored.
func TestScenario10Rename(t *testing.T) {
	for mode, opts := range modes {
		t.Run(mode, func(t *testing.T) {
			s := newStage(t, opts...)
			one := s.add("ann", account("tw", "1"))
			two := s.add("ann", account("tw", "2"))
			for _, q := range append(asking(one), asking(two)...) {
				s.sees(q, "ann")
			}
			holder := s.sees(byUsername("tw", "ann"), "ann").ID
			renamed, other := one, two
			if holder == two.ID {
				renamed, other = two, one
			}
			renamed.Username = "anna"
			renamed.CreatedAt = renamed.CreatedAt.AddDate(-9, 0, 0)
			s.must(s.UpdateUser(t.Context(), renamed))
			if u := s.sees(byUsername("tw", "ann"), "ann"); u.ID != other.ID {
				t.Error("the old name finds the renamed user")
			}
			if u := s.sees(byUsername("tw", "anna"), "anna"); u.ID != renamed.ID || u.CreatedAt.Equal(renamed.CreatedAt) {
				t.Errorf("the new name finds what the write was given: %+v", u)
			}
			if u := s.sees(byID(renamed.ID), "anna"); u.CreatedAt.Equal(renamed.CreatedAt) {
				t.Errorf("the ID finds what the write was given: %+v", u)
			}
			s.agrees(append(asking(one), asking(two)...)...)
		})
	}
}

// Set-up: two users of one name; the one that the name finds is cached, and
// deleted.
// Hazard: the name finds the deleted one, or nobody.
// Outcome: it finds the other.
func TestScenario11TwoUsersOfOneName(t *testing.T) {
	for mode, opts := range modes {
		t.Run(mode, func(t *testing.T) {
			s := newStage(t, opts...)
			s.add("ann", account("tw", "1"))
			s.add("ann", account("tw", "2"))
			first := s.sees(byUsername("tw", "ann"), "ann")
			s.sees(byUsername("tw", "ANN"), "ann")
			s.must(s.DeleteUser(t.Context(), first.ID))
			for _, name := range []string{"ann", "ANN"} {
				if u := s.sees(byUsername("tw", name), "ann"); u.ID == first.ID {
					t.Errorf("%s finds who was deleted", name)
				}
			}
			s.sees(byID(first.ID), "")
		})
	}
}

// Set-up: users whose names are special, looked up in many spellings, hits
// included; then renamed and deleted under yet another spelling.
// Hazard: a spelling that the repository holds to be the same is not reached by
// the write; or two names that differ share an answer.
// Outcome: every answer is the repository's own, before and after.
func TestScenario12Spellings(t *testing.T) {
	spellings := [][]string{
		{"É", "é"},
		{"İ", "i̇", "I", "i", "ı"},
		{"ΑΣ", "ας", "ασ"},
		{"\u212A", "K", "k"},
		{"A\x00B", "a\x00b", "A"},
		{"\xff\xfe", "\ufffd\ufffd", "\xff"},
		{"", " "},
		{strings.Repeat("x", 1<<20), strings.Repeat("X", 1<<20)},
		{"ABC-1", "abc-1", "abc1"},
	}
	for mode, opts := range modes {
		t.Run(mode, func(t *testing.T) {
			s := newStage(t, opts...)
			var qs []question
			for _, names := range spellings {
				for _, name := range names {
					qs = append(qs, byID(name), byAccount("tw", name), byAccount(name, "1"), byUsername("tw", name), byUsername(name, "x"))
				}
			}
			s.agrees(qs...)
			for _, names := range spellings {
				u := user{Username: names[0], Accounts: []usercache.Account{{Platform: "tw", ID: names[0], Username: names[0]}}}
				if err := s.UpsertUser(t.Context(), &u); err != nil {
					if !errors.Is(err, repositorytest.ErrInvalidUser) {
						t.Errorf("%.20q: %v", names[0], err)
					}
					s.agrees(qs...)
					continue
				}
				s.agrees(append(qs, byID(strings.ToUpper(u.ID)), byID(u.ID))...)
				u.Username = names[len(names)-1]
				s.must(s.UpdateUser(t.Context(), u))
				s.agrees(append(qs, byID(u.ID))...)
				s.must(s.DeleteUser(t.Context(), u.ID))
				s.agrees(append(qs, byID(u.ID))...)
			}
		})
	}
}
