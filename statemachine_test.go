package usercache_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"

	"github.com/osse101/usercache"
)

// The ways in which databases compare names. Each maps what it holds to be
// equal to one text.
var collations = map[string]func(string) string{
	"binary":            func(s string) string { return s },
	"lower":             strings.ToLower,
	"upper":             strings.ToUpper,
	"turkish lower":     func(s string) string { return strings.ToLowerSpecial(unicode.TurkishCase, s) },
	"turkish upper":     func(s string) string { return strings.ToUpperSpecial(unicode.TurkishCase, s) },
	"folded":            func(s string) string { return strings.Map(least, s) },
	"padded, lower":     func(s string) string { return strings.ToLower(strings.TrimRight(s, " ")) },
	"lower of upper":    func(s string) string { return strings.ToLower(strings.ToUpper(s)) },
	"dots do not count": func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "\u0307", "") },
}

// least is the least rune that differs in case alone.
func least(r rune) rune {
	m := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		m = min(m, f)
	}
	return m
}

// oddball is a repository as wilful as the promise allows. Its three lookups
// return different parts of a user, and errors of their own for nobody. It
// compares names by a collation. An upsert keeps the name of a user that
// exists; an update ignores it, and removes the links that it does not
// mention; a merge keeps the primary's name.
type oddball struct {
	equal func(a, b string) bool
	users []*user // in order of creation
	made  int
}

var errNoID, errNoAccount, errNoName = errors.New("no such ID"), errors.New("no such account"), errors.New("no such name")

func isNobody(err error) bool {
	return errors.Is(err, errNoID) || errors.Is(err, errNoAccount) || errors.Is(err, errNoName)
}

func (r *oddball) byID(id string) *user {
	i := slices.IndexFunc(r.users, func(u *user) bool { return strings.EqualFold(u.ID, id) })
	if i < 0 {
		return nil
	}
	return r.users[i]
}

func (r *oddball) same(a, b usercache.Account) bool {
	return r.equal(a.Platform, b.Platform) && r.equal(a.ID, b.ID)
}

func (r *oddball) owner(a usercache.Account) *user {
	for _, u := range r.users {
		if slices.ContainsFunc(u.Accounts, func(b usercache.Account) bool { return r.same(a, b) }) {
			return u
		}
	}
	return nil
}

// put links accounts to a user, each in place of the one on its platform.
func (r *oddball) put(u *user, accounts []usercache.Account) error {
	for _, a := range accounts {
		if o := r.owner(a); o != nil && o != u {
			return errors.New("taken")
		}
	}
	for _, a := range accounts {
		u.Accounts = slices.DeleteFunc(u.Accounts, func(b usercache.Account) bool { return r.equal(a.Platform, b.Platform) })
		u.Accounts = append(u.Accounts, a)
	}
	return nil
}

func (r *oddball) UpsertUser(_ context.Context, given *user) error {
	u := r.byID(given.ID)
	for _, a := range given.Accounts {
		if u == nil && given.ID == "" {
			u = r.owner(a)
		}
	}
	if u == nil && given.ID != "" {
		return errNoID
	}
	if u == nil {
		r.made++
		u = &user{ID: fmt.Sprint("u", r.made), Username: given.Username}
		if err := r.put(u, given.Accounts); err != nil {
			return err
		}
		r.users = append(r.users, u)
		given.ID = u.ID
		return nil
	}
	return r.put(u, given.Accounts)
}

func (r *oddball) GetUserByID(_ context.Context, id string) (*user, error) {
	if u := r.byID(id); u != nil {
		return &user{ID: u.ID, Username: u.Username}, nil
	}
	return nil, errNoID
}

func (r *oddball) GetUserByPlatformID(_ context.Context, platform, id string) (*user, error) {
	u := r.owner(usercache.Account{Platform: platform, ID: id})
	if u == nil {
		return nil, fmt.Errorf("looking for an account: %w", errNoAccount)
	}
	i := slices.IndexFunc(u.Accounts, func(a usercache.Account) bool { return r.equal(a.Platform, platform) })
	return &user{ID: u.ID, Accounts: u.Accounts[i : i+1]}, nil
}

func (r *oddball) GetUserByPlatformUsername(_ context.Context, platform, name string) (*user, error) {
	for _, u := range r.users {
		for _, a := range u.Accounts {
			if r.equal(a.Platform, platform) && (r.equal(a.Username, name) || r.equal(u.Username, name)) {
				c := *u
				c.Accounts = slices.Clone(u.Accounts)
				return &c, nil
			}
		}
	}
	return nil, errNoName
}

func (r *oddball) UpdateUser(_ context.Context, given user) error {
	u := r.byID(given.ID)
	if u == nil {
		return errNoID
	}
	before := slices.Clone(u.Accounts)
	u.Accounts = nil
	if err := r.put(u, given.Accounts); err != nil {
		u.Accounts = before
		return err
	}
	return nil
}

func (r *oddball) DeleteUser(_ context.Context, id string) error {
	u := r.byID(id)
	if u == nil {
		return errNoID
	}
	r.users = slices.DeleteFunc(r.users, func(v *user) bool { return v == u })
	return nil
}

func (r *oddball) MergeUsers(_ context.Context, primary, secondary string, merged user) error {
	p, s := r.byID(primary), r.byID(secondary)
	if p == nil || s == nil || p == s {
		return errNoID
	}
	moved := s.Accounts
	s.Accounts = nil
	if err := r.put(p, append(moved, merged.Accounts...)); err != nil {
		s.Accounts = moved
		return err
	}
	r.users = slices.DeleteFunc(r.users, func(v *user) bool { return v == s })
	return nil
}

// What the state machine draws from: names that some collation holds to be
// equal, and some that none does.
var (
	oddNames = []string{
		"ann", "Ann", "ANN ", "Ärger", "ärger", "İ", "I", "i", "ı", "i\u0307", "\u212A", "k", "K", "Σ", "σ", "ς", "ǅ", "ǆ", "ß", "ẞ", "a\xff", "a\xfe", "",
	}
	oddAccounts  = []string{"a", "A", "a ", "É", "é", "\u212A1", "k1", "ΑΣ", "ας", "İ", "I", "i", "ı", "i\u0307"}
	oddPlatforms = []string{"tw", "TW", "dc"}
)

// Whatever is done to it, one thing after another, a cache answers every
// lookup, by every name in every spelling, as the bare repository does: the
// same part of the user, and the very error.
func TestStateMachine(t *testing.T) {
	rapid.Check(t, stateMachine)
}

func stateMachine(t *rapid.T) {
	fold := collations[rapid.SampledFrom(slices.Sorted(maps.Keys(collations))).Draw(t, "collation")]
	equal := func(a, b string) bool { return fold(a) == fold(b) }
	bare, below := &oddball{equal: equal}, &oddball{equal: equal}
	cached, err := usercache.New(below, usercache.UserSchema(), usercache.WithNotFound(isNobody),
		usercache.WithRejected(func(error) bool { return true }),
		usercache.WithSize(rapid.SampledFrom([]int{1, 5, 1000}).Draw(t, "size")))
	if err != nil {
		t.Fatal(err)
	}
	defer cached.Close()
	ctx := context.Background()

	id := func() string {
		s := fmt.Sprint("u", rapid.IntRange(1, bare.made+1).Draw(t, "user"))
		if rapid.Bool().Draw(t, "upper") {
			s = strings.ToUpper(s)
		}
		return s
	}
	accounts := func() (as []usercache.Account) {
		for range rapid.IntRange(0, 2).Draw(t, "accounts") {
			as = append(as, usercache.Account{
				Platform: rapid.SampledFrom(oddPlatforms).Draw(t, "platform"),
				ID:       rapid.SampledFrom(oddAccounts).Draw(t, "account"),
				Username: rapid.SampledFrom(oddNames).Draw(t, "account name"),
			})
		}
		if len(as) == 2 && equal(as[0].Platform, as[1].Platform) {
			as = as[:1]
		}
		return as
	}
	name := func() string { return rapid.SampledFrom(oddNames).Draw(t, "name") }
	both := func(do func(usercache.Repository[user]) error) {
		a, b := do(bare), do(cached)
		if fmt.Sprint(a) != fmt.Sprint(b) {
			t.Fatalf("the write returned %v from the bare repository, %v through the cache", a, b)
		}
	}
	t.Repeat(map[string]func(*rapid.T){
		"create": func(*rapid.T) {
			u := user{Username: name(), Accounts: accounts()}
			for _, a := range u.Accounts { // whose links are left out of some lookups must be named by ID
				if o := bare.owner(a); o != nil {
					u.ID = o.ID
				}
			}
			both(func(r usercache.Repository[user]) error {
				v := u
				return r.UpsertUser(ctx, &v)
			})
		},
		"link": func(*rapid.T) {
			u := user{ID: id(), Username: name(), Accounts: accounts()}
			both(func(r usercache.Repository[user]) error {
				v := u
				return r.UpsertUser(ctx, &v)
			})
		},
		"update": func(*rapid.T) {
			u := user{ID: id(), Username: name(), Accounts: accounts()}
			both(func(r usercache.Repository[user]) error { return r.UpdateUser(ctx, u) })
		},
		"delete": func(*rapid.T) {
			which := id()
			both(func(r usercache.Repository[user]) error { return r.DeleteUser(ctx, which) })
		},
		"merge": func(*rapid.T) {
			p, s, merged := id(), id(), user{Username: name(), Accounts: accounts()}
			both(func(r usercache.Repository[user]) error { return r.MergeUsers(ctx, p, s, merged) })
		},
		"": func(t *rapid.T) { compare(t, bare, cached) },
	})
}

// compare asks both repositories every question there is.
func compare(t *rapid.T, bare *oddball, cached *cache) {
	ctx := context.Background()
	check := func(what string, get func(usercache.Repository[user]) (*user, error)) {
		want, wantErr := get(bare)
		got, err := get(cached)
		if !reflect.DeepEqual(got, want) || fmt.Sprint(err) != fmt.Sprint(wantErr) || isNobody(err) != isNobody(wantErr) {
			t.Fatalf("%s: the cache says %+v, %v; the repository %+v, %v", what, got, err, want, wantErr)
		}
	}
	for i := range bare.made + 2 {
		for _, id := range []string{fmt.Sprint("u", i), fmt.Sprint("U", i)} {
			check("ID "+id, func(r usercache.Repository[user]) (*user, error) { return r.GetUserByID(ctx, id) })
		}
	}
	for _, p := range oddPlatforms {
		for _, a := range oddAccounts {
			check(fmt.Sprintf("account %+q %+q", p, a), func(r usercache.Repository[user]) (*user, error) { return r.GetUserByPlatformID(ctx, p, a) })
		}
	}
	for _, p := range []string{"tw", "dc"} {
		for _, n := range oddNames {
			check(fmt.Sprintf("name %+q %+q", p, n), func(r usercache.Repository[user]) (*user, error) {
				return r.GetUserByPlatformUsername(ctx, p, n)
			})
		}
	}
}
