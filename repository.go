package usercache

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/osse101/usercache/internal/coherence"
	"github.com/osse101/usercache/internal/identity"
)

// ErrUserNotFound is what a lookup of nobody, and a write to nobody, wraps.
//
// By default the cache recognises a not-found answer by it; a repository with
// a sentinel of its own says so through [WithNotFound].
var ErrUserNotFound = errors.New("user not found")

//go:generate go tool mockgen -typed -source=repository.go -destination=mocks/repository.go -package=mocks

// Repository is where users are kept. [CachedRepository] decorates one and is
// one; the application's own user struct takes the place of U, so a
// repository whose methods have these names fits as it stands.
//
// Implementations must be safe for concurrent use. Every lookup returns the
// committed state of one moment, and an error that wraps [ErrUserNotFound]
// (or one that [WithNotFound] recognises) when there is nobody to return.
type Repository[U any] interface {
	// UpsertUser creates the user or updates the one that its ID or its
	// accounts name, and never removes a link to an account. It fills in the
	// user's ID when it creates one.
	UpsertUser(ctx context.Context, user *U) error

	// GetUserByID returns the user with this ID.
	GetUserByID(ctx context.Context, userID string) (*U, error)

	// GetUserByPlatformID returns the user to whom the account with this ID
	// on this platform is linked.
	GetUserByPlatformID(ctx context.Context, platform, platformID string) (*U, error)

	// GetUserByPlatformUsername returns the user of this name among those
	// who have an account on this platform.
	GetUserByPlatformUsername(ctx context.Context, platform, username string) (*U, error)

	// UpdateUser replaces the stored user, links to accounts included.
	UpdateUser(ctx context.Context, user U) error

	// DeleteUser removes the user and the links to its accounts.
	DeleteUser(ctx context.Context, userID string) error

	// MergeUsers makes one user of two: the secondary disappears, its
	// accounts lead to the primary, and the primary takes what merged says.
	MergeUsers(ctx context.Context, primaryUserID, secondaryUserID string, merged U) error
}

// Account is one linked account on a chat platform.
type Account struct {
	// Platform names the platform, for example "twitch".
	Platform string `json:"platform"`
	// ID is the account's own identifier on that platform.
	ID string `json:"id"`
	// Username is the name that the account shows there; it may be empty.
	Username string `json:"username,omitempty"`
}

// User is the user that the shipped repositories store. An application with a
// struct of its own uses that in its place and describes it by a [Schema].
type User struct {
	// ID is the database's identifier; empty until the user is created.
	ID string `json:"id"`
	// Username is the user's name across platforms.
	Username string `json:"username"`
	// Accounts are the linked accounts, at most one for each platform.
	Accounts []Account `json:"accounts"`
	// CreatedAt and UpdatedAt are set by the repository.
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Identity is every name that a user may be looked up by. The cache derives
// from it which answers a write can change. The zero Identity names nobody;
// where an Identity says what a write affects, that means everybody.
type Identity struct {
	// UserID is the database's identifier.
	UserID string
	// Usernames are the names that a lookup by username may match, in any
	// spelling and on any platform.
	Usernames []string
	// Accounts are the linked accounts. Their usernames count as Usernames.
	Accounts []Account
}

// Schema is what the cache must know of an application's own user type.
type Schema[U any] struct {
	// Identity names a user. It must be a pure function, it must name every
	// account and every username that the user shows, and it is never given
	// nil. An answer for which it returns no UserID is passed on but never
	// stored. Required.
	//
	// An answer lives until a write names something of it: its user ID, one
	// of its accounts, or the name it was looked up by. A repository whose
	// lookups leave accounts out of the user must therefore be given the
	// user's ID in every write, or have its writes bracketed by
	// [CachedRepository.Mutate] with an Identity that names it.
	Identity func(*U) Identity

	// Clone returns a deep copy: nothing reachable from the copy may be
	// reachable from the original. It must be a pure function and is never
	// given nil. It may be nil only if U holds no reference of any kind
	// (strings and time.Time are fine); then plain assignment copies.
	Clone func(*U) *U
}

// checked returns the schema with a Clone that suffers nil, or an error if it
// lacks what it must have.
func (s Schema[U]) checked() (Schema[U], error) {
	if s.Identity == nil {
		return s, errors.New("usercache: New: Schema.Identity is nil: it must name a user")
	}
	deep := s.Clone
	if deep == nil {
		if path := reference(reflect.TypeFor[U]()); path != "" {
			return s, fmt.Errorf("usercache: New: Schema.Clone is nil, which is allowed only if the user holds no reference: %s", path)
		}
		deep = func(u *U) *U {
			c := *u
			return &c
		}
	}
	s.Clone = func(u *U) *U {
		if u == nil { // a not-found answer
			return nil
		}
		return deep(u)
	}
	return s, nil
}

// UserSchema describes [User].
func UserSchema() Schema[User] {
	return Schema[User]{
		Identity: func(u *User) Identity {
			return Identity{UserID: u.ID, Usernames: []string{u.Username}, Accounts: u.Accounts}
		},
		Clone: func(u *User) *User {
			c := *u
			c.Accounts = slices.Clone(u.Accounts)
			return &c
		},
	}
}

// lookupKind says by which method a user is looked up.
type lookupKind uint8

const (
	lookupID lookupKind = iota
	lookupPlatformID
	lookupPlatformUsername
	lookupKinds // how many there are
)

// Lookup is one question to a repository: a lookup method and its arguments.
// It is comparable, and two lookups are equal only if method and arguments
// are, byte by byte. The zero Lookup asks for the user with the empty ID.
type Lookup struct {
	kind     lookupKind
	platform string // empty for lookupID
	name     string // user ID, platform ID or username
}

// ByID is the lookup that [Repository.GetUserByID] answers.
func ByID(userID string) Lookup {
	return Lookup{kind: lookupID, name: userID}
}

// ByPlatformID is the lookup that [Repository.GetUserByPlatformID] answers.
func ByPlatformID(platform, platformID string) Lookup {
	return Lookup{kind: lookupPlatformID, platform: platform, name: platformID}
}

// ByPlatformUsername is the lookup that
// [Repository.GetUserByPlatformUsername] answers.
func ByPlatformUsername(platform, username string) Lookup {
	return Lookup{kind: lookupPlatformUsername, platform: platform, name: username}
}

// ask puts the lookup to a repository.
func ask[U any](ctx context.Context, repo Repository[U], l Lookup) (*U, error) {
	switch l.kind {
	case lookupID:
		return repo.GetUserByID(ctx, l.name)
	case lookupPlatformID:
		return repo.GetUserByPlatformID(ctx, l.platform, l.name)
	default:
		return repo.GetUserByPlatformUsername(ctx, l.platform, l.name)
	}
}

type freshKey struct{}

// Fresh returns a context under which lookups skip the cache: they neither
// take their answer from it nor leave one in it. It is for a read whose answer
// will be written back, and for reads inside a transaction that the context
// carries.
func Fresh(ctx context.Context) context.Context {
	return context.WithValue(ctx, freshKey{}, true)
}

// oversized reports whether a looked-up name is too long to be cached, so that
// whoever chooses the names does not choose the cache's memory too.
func (l Lookup) oversized() bool {
	const limit = 1 << 10 // bytes
	return len(l.platform) > limit || len(l.name) > limit
}

// allUsernames is the tag that all answers to lookups by username share.
const allUsernames = coherence.Broad

// noUsername is the tag of the empty name. Very many users may share it, in
// accounts without a name, and none is told by it: so answers do not carry it,
// but those to a lookup of that very name, and every write does.
var noUsername = identity.UsernameTag("")

// tags are what the answer to a lookup depends on, whatever it is.
func (l Lookup) tags() []coherence.Tag {
	switch l.kind {
	case lookupID:
		return []coherence.Tag{identity.UserTag(l.name)}
	case lookupPlatformID:
		return []coherence.Tag{identity.AccountTag(l.platform, l.name)}
	}
	return []coherence.Tag{identity.UsernameTag(l.name), allUsernames}
}

// tags appends the tags of every name in id.
func (id Identity) tags(to []coherence.Tag) []coherence.Tag {
	username := func(name string) {
		if t := identity.UsernameTag(name); t != noUsername {
			to = append(to, t)
		}
	}
	if id.UserID != "" {
		to = append(to, identity.UserTag(id.UserID))
	}
	for _, name := range id.Usernames {
		username(name)
	}
	for _, a := range id.Accounts {
		to = append(to, identity.AccountTag(a.Platform, a.ID))
		username(a.Username)
	}
	return to
}

// named returns the identities as they are, or nil for everybody if one of them
// names nobody.
func named(affected []Identity) []Identity {
	if slices.ContainsFunc(affected, func(id Identity) bool { return len(id.tags(nil)) == 0 }) {
		return nil
	}
	return affected
}

// scope is what a write affects that names these identities; everything, if
// they name nobody. One that may change under which name a user is found
// affects all lookups by username, unless usernames are precise.
func scope(affected []Identity, renames, preciseUsernames bool) coherence.Scope {
	var tags []coherence.Tag
	for _, id := range affected {
		tags = id.tags(tags)
	}
	if len(tags) == 0 {
		return coherence.Scope{All: true}
	}
	if renames {
		tags = append(tags, noUsername)
		if !preciseUsernames {
			tags = append(tags, allUsernames)
		}
	}
	return coherence.Scope{Tags: tags}
}

// reference returns where in t a reference is found that a plain copy would
// share, or "". Strings and time.Time cannot be changed through a copy.
func reference(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return ""
		}
		for i := range t.NumField() {
			f := t.Field(i)
			if found := reference(f.Type); found != "" {
				return f.Name + " " + found
			}
		}
	case reflect.Array:
		return reference(t.Elem())
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Chan, reflect.Func, reflect.Interface, reflect.UnsafePointer:
		return "is a " + t.Kind().String()
	}
	return ""
}
