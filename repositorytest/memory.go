package repositorytest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/osse101/usercache"
)

// The errors that writes of a [Memory] wrap, besides
// [usercache.ErrUserNotFound]. None of them leaves anything changed.
var (
	// ErrInvalidUser says that a user cannot be stored as it is.
	ErrInvalidUser = errors.New("invalid user")
	// ErrAccountTaken says that an account belongs to another user.
	ErrAccountTaken = errors.New("account is linked to another user")
	// ErrPlatformTaken says that an upsert would replace the account that the
	// user has on a platform.
	ErrPlatformTaken = errors.New("user has another account on this platform")
	// ErrSameUser says that a user was to be merged with itself.
	ErrSameUser = errors.New("a user cannot be merged with itself")
)

// Rejected reports whether an error of a write to a [Memory] says that it has
// not been applied. It is made for [usercache.WithRejected].
func Rejected(err error) bool {
	return slices.ContainsFunc([]error{usercache.ErrUserNotFound, ErrInvalidUser, ErrAccountTaken, ErrPlatformTaken, ErrSameUser},
		func(sentinel error) bool { return errors.Is(err, sentinel) })
}

// Memory is a [usercache.Repository] that keeps its users in memory: a fake for
// tests, which behaves as the shipped repositories do. Make one with
// [NewMemory]. It is safe for concurrent use; Before and After must be set
// before its first use.
type Memory struct {
	// Before, if set, is called with the name of the method when a call has
	// come in and has done nothing yet. If it returns an error, the call does
	// nothing and returns that.
	Before func(ctx context.Context, method string) error
	// After, if set, is called when a call has read or has changed the users,
	// or has found nobody, and has yet to return. If it returns an error, the
	// call returns that, and what it changed stays.
	After func(ctx context.Context, method string) error

	mu    sync.Mutex
	users map[string]usercache.User
}

var _ usercache.Repository[usercache.User] = (*Memory)(nil)

// NewMemory returns an empty Memory.
func NewMemory() *Memory { return &Memory{users: make(map[string]usercache.User)} }

// call runs one method under the lock, between Before and After.
func (m *Memory) call(ctx context.Context, method string, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.Before != nil {
		if err := m.Before(ctx, method); err != nil {
			return err
		}
	}
	err := m.locked(do)
	if m.After != nil {
		if instead := m.After(ctx, method); instead != nil {
			return instead
		}
	}
	return err
}

func (m *Memory) locked(do func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return do()
}

func clone(u usercache.User) *usercache.User {
	u.Accounts = slices.Clone(u.Accounts)
	return &u
}

func nobody(method string) error { return fmt.Errorf("%s: %w", method, usercache.ErrUserNotFound) }

// get is a lookup: rank returns how well a user matches, 0 for not at all. The
// best one is found, of equals the one with the least ID.
func (m *Memory) get(ctx context.Context, method string, rank func(usercache.User) int) (*usercache.User, error) {
	var found *usercache.User
	err := m.call(ctx, method, func() error {
		best := 0
		var match usercache.User
		for id, u := range m.users {
			if r := rank(u); r > best || r > 0 && r == best && id < match.ID {
				best, match = r, u
			}
		}
		if best == 0 {
			return nobody(method)
		}
		found = clone(match)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// GetUserByID implements usercache.Repository.
func (m *Memory) GetUserByID(ctx context.Context, userID string) (*usercache.User, error) {
	return m.get(ctx, "GetUserByID", func(u usercache.User) int {
		if u.ID == userID {
			return 1
		}
		return 0
	})
}

// GetUserByPlatformID implements usercache.Repository.
func (m *Memory) GetUserByPlatformID(ctx context.Context, platform, platformID string) (*usercache.User, error) {
	return m.get(ctx, "GetUserByPlatformID", func(u usercache.User) int {
		if a := accountOn(u, platform); a != nil && a.ID == platformID {
			return 1
		}
		return 0
	})
}

// GetUserByPlatformUsername implements usercache.Repository. Names are equal
// under Unicode case folding.
func (m *Memory) GetUserByPlatformUsername(ctx context.Context, platform, username string) (*usercache.User, error) {
	return m.get(ctx, "GetUserByPlatformUsername", func(u usercache.User) int {
		a := accountOn(u, platform)
		switch {
		case a == nil || username == "":
			return 0
		case strings.EqualFold(a.Username, username):
			return 2
		case strings.EqualFold(u.Username, username):
			return 1
		}
		return 0
	})
}

func accountOn(u usercache.User, platform string) *usercache.Account {
	i := slices.IndexFunc(u.Accounts, func(a usercache.Account) bool { return a.Platform == platform })
	if i < 0 {
		return nil
	}
	return &u.Accounts[i]
}

// owner returns the ID of the user to whom an account is linked, or "".
func (m *Memory) owner(a usercache.Account) string {
	for id, u := range m.users {
		if own := accountOn(u, a.Platform); own != nil && own.ID == a.ID {
			return id
		}
	}
	return ""
}

// UpsertUser implements usercache.Repository.
func (m *Memory) UpsertUser(ctx context.Context, user *usercache.User) error {
	if user == nil {
		return fmt.Errorf("UpsertUser: %w: nil", ErrInvalidUser)
	}
	if err := validate(*user); err != nil {
		return fmt.Errorf("UpsertUser: %w", err)
	}
	var stored usercache.User
	err := m.call(ctx, "UpsertUser", func() error {
		id := user.ID
		for _, a := range user.Accounts {
			owner := m.owner(a)
			if id == "" {
				id = owner
			}
			if owner != "" && owner != id {
				return fmt.Errorf("UpsertUser: %w", ErrAccountTaken)
			}
		}
		old, known := m.users[id]
		if id != "" && !known {
			return nobody("UpsertUser")
		}
		accounts := slices.Clone(user.Accounts)
		for _, a := range old.Accounts {
			given := accountOn(*user, a.Platform)
			switch {
			case given == nil:
				accounts = append(accounts, a)
			case given.ID != a.ID:
				return fmt.Errorf("UpsertUser: %w", ErrPlatformTaken)
			}
		}
		if !known {
			id = newID()
		}
		stored = m.put(id, old, user.Username, accounts)
		return nil
	})
	if err == nil {
		user.ID, user.CreatedAt, user.UpdatedAt = stored.ID, stored.CreatedAt, stored.UpdatedAt
	}
	return err
}

// UpdateUser implements usercache.Repository.
func (m *Memory) UpdateUser(ctx context.Context, user usercache.User) error {
	if err := validate(user); err != nil {
		return fmt.Errorf("UpdateUser: %w", err)
	}
	return m.call(ctx, "UpdateUser", func() error {
		old, known := m.users[user.ID]
		if !known {
			return nobody("UpdateUser")
		}
		if err := m.free(user.Accounts, user.ID); err != nil {
			return fmt.Errorf("UpdateUser: %w", err)
		}
		m.put(user.ID, old, user.Username, slices.Clone(user.Accounts))
		return nil
	})
}

// DeleteUser implements usercache.Repository.
func (m *Memory) DeleteUser(ctx context.Context, userID string) error {
	return m.call(ctx, "DeleteUser", func() error {
		if _, known := m.users[userID]; !known {
			return nobody("DeleteUser")
		}
		delete(m.users, userID)
		return nil
	})
}

// MergeUsers implements usercache.Repository.
func (m *Memory) MergeUsers(ctx context.Context, primaryUserID, secondaryUserID string, merged usercache.User) error {
	if primaryUserID == secondaryUserID {
		return fmt.Errorf("MergeUsers: %w", ErrSameUser)
	}
	if err := validate(merged); err != nil {
		return fmt.Errorf("MergeUsers: %w", err)
	}
	if merged.ID != "" && merged.ID != primaryUserID {
		return fmt.Errorf("MergeUsers: %w: the merged user's ID must be empty or the primary's", ErrInvalidUser)
	}
	return m.call(ctx, "MergeUsers", func() error {
		primary, known := m.users[primaryUserID]
		secondary, alsoKnown := m.users[secondaryUserID]
		if !known || !alsoKnown {
			return nobody("MergeUsers")
		}
		if err := m.free(merged.Accounts, primaryUserID, secondaryUserID); err != nil {
			return fmt.Errorf("MergeUsers: %w", err)
		}
		result := *clone(merged)
		for _, a := range slices.Concat(primary.Accounts, secondary.Accounts) {
			if accountOn(result, a.Platform) == nil {
				result.Accounts = append(result.Accounts, a)
			}
		}
		delete(m.users, secondaryUserID)
		m.put(primaryUserID, primary, merged.Username, result.Accounts)
		return nil
	})
}

// free reports an error if an account belongs to anybody but owners.
func (m *Memory) free(accounts []usercache.Account, owners ...string) error {
	for _, a := range accounts {
		if owner := m.owner(a); owner != "" && !slices.Contains(owners, owner) {
			return ErrAccountTaken
		}
	}
	return nil
}

// put stores a user and returns it. It keeps the times in order, whatever the
// wall clock does.
func (m *Memory) put(id string, old usercache.User, username string, accounts []usercache.Account) usercache.User {
	slices.SortFunc(accounts, func(a, b usercache.Account) int { return strings.Compare(a.Platform, b.Platform) })
	now := time.Now().UTC().Truncate(time.Microsecond)
	if now.Before(old.UpdatedAt) {
		now = old.UpdatedAt
	}
	u := usercache.User{ID: id, Username: username, Accounts: accounts, CreatedAt: old.CreatedAt, UpdatedAt: now}
	if old.ID == "" {
		u.CreatedAt = now
	}
	m.users[id] = u
	return u
}

// newID returns a random UUID of version 4.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never returns an error
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// maxLen bounds names and IDs, in bytes.
const maxLen = 255

func validate(u usercache.User) error {
	check := func(what, s string, least int) error {
		if len(s) < least || len(s) > maxLen || !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
			return fmt.Errorf("%w: %s of %d bytes: must be %d to %d bytes of UTF-8 without NUL", ErrInvalidUser, what, len(s), least, maxLen)
		}
		return nil
	}
	errs := []error{check("username", u.Username, 1)}
	for i, a := range u.Accounts {
		errs = append(errs, check("platform", a.Platform, 1), check("account ID", a.ID, 1), check("account username", a.Username, 0))
		if slices.ContainsFunc(u.Accounts[:i], func(b usercache.Account) bool { return b.Platform == a.Platform }) {
			errs = append(errs, fmt.Errorf("%w: two accounts on one platform", ErrInvalidUser))
		}
	}
	return errors.Join(errs...)
}
