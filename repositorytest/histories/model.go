package histories

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/osse101/usercache"
)

// The few names that all calls are about. They meet in them.
var (
	platforms  = []string{"dc", "tw"} // sorted
	accountIDs = []string{"1", "2", "3"}
	names      = []string{"ann", "Ann", "ben", "BEN", "cat"} // in two spellings, some
)

// account is what a user has on one platform; its ID is empty for none.
type account struct{ id, name string }

// person is a user without its times. It is comparable.
type person struct {
	id, name string
	accounts [2]account // by platform
}

func platformIndex(platform string) int { return slices.Index(platforms, platform) }

// user is the person as an argument of a write.
func (p person) user() usercache.User {
	u := usercache.User{ID: p.id, Username: p.name}
	for i, a := range p.accounts {
		if a.id != "" {
			u.Accounts = append(u.Accounts, usercache.Account{Platform: platforms[i], ID: a.id, Username: a.name})
		}
	}
	return u
}

// personOf is a user that a lookup has returned.
func personOf(u *usercache.User) (person, error) {
	p := person{id: u.ID, name: u.Username}
	for _, a := range u.Accounts {
		i := platformIndex(a.Platform)
		if i < 0 || p.accounts[i].id != "" {
			return p, fmt.Errorf("histories: a lookup returned an account on %q that nobody has stored, or two", a.Platform)
		}
		p.accounts[i] = account{a.ID, a.Username}
	}
	return p, nil
}

func (p person) String() string {
	s := short(p.id) + " " + p.name
	for i, a := range p.accounts {
		if a.id != "" {
			s += fmt.Sprintf(" %s:%s/%s", platforms[i], a.id, a.name)
		}
	}
	return s
}

// short is enough of an ID to tell it from others.
func short(id string) string { return id[:min(4, len(id))] }

// method is what is called.
type method int

const (
	getByID method = iota
	getByAccount
	getByName
	upsert
	update
	remove
	merge
)

// call is one call of a repository.
type call struct {
	method         method
	platform, name string // of a lookup: the account's ID or the username
	id, other      string
	user           person
}

func (c call) String() string {
	switch c.method {
	case getByID:
		return "by ID " + short(c.id)
	case getByAccount:
		return "by account " + c.platform + ":" + c.name
	case getByName:
		return "by name " + c.platform + " " + c.name
	case upsert:
		return "upsert " + c.user.String()
	case update:
		return "update " + c.user.String()
	case remove:
		return "delete " + short(c.id)
	default:
		return "merge " + short(c.other) + " into " + c.user.String()
	}
}

func (c call) reads() bool { return c.method <= getByName }

// state is all users, sorted by ID. It is never changed.
type state []person

func (s state) find(id string) int {
	return slices.IndexFunc(s, func(p person) bool { return p.id == id })
}

// owner is the ID of the user to whom an account is linked, or "".
func (s state) owner(platform int, id string) string {
	for _, p := range s {
		if p.accounts[platform].id == id {
			return p.id
		}
	}
	return ""
}

// with returns the state with a user in it, in place of the one of that ID.
func (s state) with(p person) state {
	n := s.without(p.id)
	i, _ := slices.BinarySearchFunc(n, p.id, func(q person, id string) int { return cmp.Compare(q.id, id) })
	return slices.Insert(n, i, p)
}

func (s state) without(id string) state {
	return slices.DeleteFunc(slices.Clone(s), func(p person) bool { return p.id == id })
}

// read is what a lookup must find.
func (s state) read(c call) (p person, found bool) {
	best := 0
	for _, q := range s { // of equals, the first has the least ID
		rank := 0
		switch c.method {
		case getByID:
			if q.id == c.id {
				rank = 1
			}
		case getByAccount:
			if q.accounts[platformIndex(c.platform)].id == c.name {
				rank = 1
			}
		default:
			switch a := q.accounts[platformIndex(c.platform)]; {
			case a.id == "":
			case strings.EqualFold(a.name, c.name):
				rank = 2
			case strings.EqualFold(q.name, c.name):
				rank = 1
			}
		}
		if rank > best {
			best, p = rank, q
		}
	}
	return p, best > 0
}

// write is what a write must do, and whether it may be done at all. A user that
// it creates gets the ID created, which the repository has chosen. Of several
// reasons to refuse a write, the repository may give any.
func (s state) write(c call, created string) (after state, ok bool) {
	switch c.method {
	case upsert:
		return s.upsert(c.user, created)
	case update:
		if s.find(c.user.id) < 0 {
			return s, false
		}
		if !s.free(c.user, c.user.id) {
			return s, false
		}
		return s.with(c.user), true
	case remove:
		if s.find(c.id) < 0 {
			return s, false
		}
		return s.without(c.id), true
	default:
		return s.merge(c.user, c.other)
	}
}

func (s state) upsert(p person, created string) (state, bool) {
	for i, a := range p.accounts {
		if a.id == "" {
			continue
		}
		owner := s.owner(i, a.id)
		if p.id == "" {
			p.id = owner
		}
		if owner != "" && owner != p.id {
			return s, false
		}
	}
	if p.id == "" {
		p.id = created
		return s.with(p), true
	}
	i := s.find(p.id)
	if i < 0 {
		return s, false
	}
	for j, old := range s[i].accounts {
		switch {
		case p.accounts[j].id == "":
			p.accounts[j] = old
		case old.id != "" && old.id != p.accounts[j].id:
			return s, false
		}
	}
	return s.with(p), true
}

func (s state) merge(merged person, secondary string) (state, bool) {
	if merged.id == secondary {
		return s, false
	}
	i, j := s.find(merged.id), s.find(secondary)
	if i < 0 || j < 0 {
		return s, false
	}
	if !s.free(merged, merged.id, secondary) {
		return s, false
	}
	for _, from := range []person{s[i], s[j]} {
		for k, a := range from.accounts {
			if merged.accounts[k].id == "" {
				merged.accounts[k] = a
			}
		}
	}
	return s.without(secondary).with(merged), true
}

// free reports whether nobody but the owners has an account of p's.
func (s state) free(p person, owners ...string) bool {
	for i, a := range p.accounts {
		if owner := s.owner(i, a.id); a.id != "" && owner != "" && !slices.Contains(owners, owner) {
			return false
		}
	}
	return true
}
