// Package sqlite keeps users in one SQLite file. It is the smallest repository
// that a cache can stand in front of for real, and behaves as the one for
// PostgreSQL does.
package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	_ "modernc.org/sqlite" // the driver

	"github.com/osse101/usercache"
)

// The errors that writes wrap, besides [usercache.ErrUserNotFound].
var (
	ErrInvalidUser   = errors.New("invalid user")
	ErrAccountTaken  = errors.New("account is linked to another user")
	ErrPlatformTaken = errors.New("user has another account on this platform")
	ErrSameUser      = errors.New("a user cannot be merged with itself")
)

// Rejected reports whether an error of a write says that it has certainly not
// been applied. It is made for [usercache.WithRejected].
func Rejected(err error) bool {
	return slices.ContainsFunc([]error{usercache.ErrUserNotFound, ErrInvalidUser, ErrAccountTaken, ErrPlatformTaken, ErrSameUser},
		func(sentinel error) bool { return errors.Is(err, sentinel) })
}

// Folded columns hold names as fold maps them, since SQLite itself knows the
// case of ASCII letters only.
const schema = `
create table if not exists users (
    id              text primary key,
    username        text not null,
    username_folded text not null,
    created_at      integer not null, -- microseconds since 1970
    updated_at      integer not null
) strict, without rowid;
create index if not exists users_username on users (username_folded);
create table if not exists user_accounts (
    user_id          text not null references users (id) on delete cascade,
    platform         text not null,
    platform_user_id text not null,
    username         text not null,
    username_folded  text not null,
    primary key (user_id, platform),
    unique (platform, platform_user_id)
) strict, without rowid;
create index if not exists user_accounts_username on user_accounts (platform, username_folded);`

// Repository keeps users in a file. It is safe for concurrent use.
type Repository struct{ db *sql.DB }

var _ usercache.Repository[usercache.User] = (*Repository)(nil)

// Open opens the file, and creates it and its tables if need be. The caller
// must Close the repository.
func Open(ctx context.Context, path string) (*Repository, error) {
	settings := url.Values{
		"_pragma": {"journal_mode(WAL)", "synchronous(NORMAL)", "foreign_keys(1)", "busy_timeout(5000)"},
		// Writers queue at the start of a transaction, where they can wait.
		"_txlock": {"immediate"},
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: url.PathEscape(path), RawQuery: settings.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	db.SetMaxOpenConns(8)
	db.SetMaxIdleConns(8)
	if _, err := db.ExecContext(ctx, schema); err != nil {
		return nil, fmt.Errorf("sqlite: %s: %w", path, errors.Join(err, db.Close()))
	}
	return &Repository{db: db}, nil
}

// Close closes the file.
func (r *Repository) Close() error { return r.db.Close() }

// querier is a *sql.DB or a *sql.Tx.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

const selectUser = `
select id, username, created_at, updated_at, (
    select json_group_array(json_object('platform', platform, 'id', platform_user_id, 'username', username) order by platform)
    from user_accounts where user_id = users.id
)
from users where id = `

// one reads a whole user in one statement.
func one(ctx context.Context, q querier, method, condition string, args ...any) (*usercache.User, error) {
	var u usercache.User
	var created, updated int64
	var accounts []byte
	err := q.QueryRowContext(ctx, selectUser+condition, args...).Scan(&u.ID, &u.Username, &created, &updated, &accounts)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nobody(method)
	}
	if err == nil {
		err = json.Unmarshal(accounts, &u.Accounts)
	}
	if err != nil {
		return nil, fmt.Errorf("sqlite: %s: %w", method, err)
	}
	u.CreatedAt, u.UpdatedAt = time.UnixMicro(created).UTC(), time.UnixMicro(updated).UTC()
	return &u, nil
}

func nobody(method string) error {
	return fmt.Errorf("sqlite: %s: %w", method, usercache.ErrUserNotFound)
}

// GetUserByID implements usercache.Repository.
func (r *Repository) GetUserByID(ctx context.Context, userID string) (*usercache.User, error) {
	if !storable(userID) {
		return nil, nobody("GetUserByID")
	}
	return one(ctx, r.db, "GetUserByID", "?", userID)
}

// GetUserByPlatformID implements usercache.Repository.
func (r *Repository) GetUserByPlatformID(ctx context.Context, platform, platformID string) (*usercache.User, error) {
	if !storable(platform) || !storable(platformID) {
		return nil, nobody("GetUserByPlatformID")
	}
	return one(ctx, r.db, "GetUserByPlatformID",
		"(select user_id from user_accounts where platform = ? and platform_user_id = ?)", platform, platformID)
}

// GetUserByPlatformUsername implements usercache.Repository. Of several users,
// one whose account has the name comes first, then the least ID.
func (r *Repository) GetUserByPlatformUsername(ctx context.Context, platform, username string) (*usercache.User, error) {
	if !storable(platform) || !storable(username) {
		return nil, nobody("GetUserByPlatformUsername")
	}
	folded := fold(username)
	return one(ctx, r.db, "GetUserByPlatformUsername", `(
    select user_id from (
        select user_id, 1 as rank from user_accounts where platform = ? and username_folded = ?
        union all
        select a.user_id, 2 from users n join user_accounts a on a.user_id = n.id and a.platform = ?
        where n.username_folded = ?
    ) order by rank, user_id limit 1
)`, platform, folded, platform, folded)
}

// write runs one write in a transaction.
func (r *Repository) write(ctx context.Context, method string, do func(*sql.Tx) error) error {
	tx, err := r.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("sqlite: %s: %w", method, err)
	}
	if err := do(tx); err != nil {
		if back := tx.Rollback(); back != nil && !errors.Is(back, sql.ErrTxDone) {
			err = errors.Join(err, back)
		}
		return fmt.Errorf("sqlite: %s: %w", method, err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("sqlite: %s: %w", method, err)
	}
	return nil
}

// UpsertUser implements usercache.Repository.
func (r *Repository) UpsertUser(ctx context.Context, user *usercache.User) error {
	if user == nil {
		return fmt.Errorf("sqlite: UpsertUser: %w: nil", ErrInvalidUser)
	}
	if err := validate(*user); err != nil {
		return fmt.Errorf("sqlite: UpsertUser: %w", err)
	}
	var stored usercache.User
	err := r.write(ctx, "UpsertUser", func(tx *sql.Tx) error {
		id := user.ID
		for _, a := range user.Accounts {
			owner, err := ownerOf(ctx, tx, a)
			if err != nil {
				return err
			}
			if id == "" {
				id = owner
			}
			if owner != "" && owner != id {
				return ErrAccountTaken
			}
		}
		var old usercache.User
		if id != "" {
			known, err := one(ctx, tx, "UpsertUser", "?", id)
			if err != nil {
				return err
			}
			old = *known
		} else {
			id = uuid.NewString()
		}
		accounts := slices.Clone(user.Accounts)
		for _, a := range old.Accounts {
			given := on(a.Platform, user.Accounts)
			switch {
			case given == nil:
				accounts = append(accounts, a)
			case given.ID != a.ID:
				return ErrPlatformTaken
			}
		}
		var err error
		stored, err = put(ctx, tx, id, old, user.Username, accounts)
		return err
	})
	if err == nil {
		user.ID, user.CreatedAt, user.UpdatedAt = stored.ID, stored.CreatedAt, stored.UpdatedAt
	}
	return err
}

// UpdateUser implements usercache.Repository.
func (r *Repository) UpdateUser(ctx context.Context, user usercache.User) error {
	if err := validate(user); err != nil {
		return fmt.Errorf("sqlite: UpdateUser: %w", err)
	}
	return r.write(ctx, "UpdateUser", func(tx *sql.Tx) error {
		old, err := one(ctx, tx, "UpdateUser", "?", user.ID)
		if err != nil {
			return err
		}
		if err := free(ctx, tx, user.Accounts, user.ID); err != nil {
			return err
		}
		_, err = put(ctx, tx, user.ID, *old, user.Username, user.Accounts)
		return err
	})
}

// DeleteUser implements usercache.Repository.
func (r *Repository) DeleteUser(ctx context.Context, userID string) error {
	return r.write(ctx, "DeleteUser", func(tx *sql.Tx) error {
		if _, err := one(ctx, tx, "DeleteUser", "?", userID); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "delete from users where id = ?", userID)
		return err
	})
}

// MergeUsers implements usercache.Repository.
func (r *Repository) MergeUsers(ctx context.Context, primaryUserID, secondaryUserID string, merged usercache.User) error {
	if primaryUserID == secondaryUserID {
		return fmt.Errorf("sqlite: MergeUsers: %w", ErrSameUser)
	}
	if err := validate(merged); err != nil {
		return fmt.Errorf("sqlite: MergeUsers: %w", err)
	}
	if merged.ID != "" && merged.ID != primaryUserID {
		return fmt.Errorf("sqlite: MergeUsers: %w: the merged user's ID must be empty or the primary's", ErrInvalidUser)
	}
	return r.write(ctx, "MergeUsers", func(tx *sql.Tx) error {
		primary, err := one(ctx, tx, "MergeUsers", "?", primaryUserID)
		if err != nil {
			return err
		}
		secondary, err := one(ctx, tx, "MergeUsers", "?", secondaryUserID)
		if err != nil {
			return err
		}
		if err := free(ctx, tx, merged.Accounts, primaryUserID, secondaryUserID); err != nil {
			return err
		}
		accounts := slices.Clone(merged.Accounts)
		for _, a := range slices.Concat(primary.Accounts, secondary.Accounts) {
			if on(a.Platform, accounts) == nil {
				accounts = append(accounts, a)
			}
		}
		if _, err := tx.ExecContext(ctx, "delete from users where id = ?", secondaryUserID); err != nil {
			return err
		}
		_, err = put(ctx, tx, primaryUserID, *primary, merged.Username, accounts)
		return err
	})
}

func on(platform string, accounts []usercache.Account) *usercache.Account {
	i := slices.IndexFunc(accounts, func(a usercache.Account) bool { return a.Platform == platform })
	if i < 0 {
		return nil
	}
	return &accounts[i]
}

// ownerOf returns the ID of the user to whom an account is linked, or "".
func ownerOf(ctx context.Context, tx *sql.Tx, a usercache.Account) (owner string, err error) {
	err = tx.QueryRowContext(ctx, "select user_id from user_accounts where platform = ? and platform_user_id = ?", a.Platform, a.ID).Scan(&owner)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return owner, err
}

// free returns an error if an account belongs to anybody but owners.
func free(ctx context.Context, tx *sql.Tx, accounts []usercache.Account, owners ...string) error {
	for _, a := range accounts {
		owner, err := ownerOf(ctx, tx, a)
		if err != nil {
			return err
		}
		if owner != "" && !slices.Contains(owners, owner) {
			return ErrAccountTaken
		}
	}
	return nil
}

// put stores a user in place of old, with exactly these accounts.
func put(ctx context.Context, tx *sql.Tx, id string, old usercache.User, username string, accounts []usercache.Account) (usercache.User, error) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	u := usercache.User{ID: id, Username: username, CreatedAt: old.CreatedAt, UpdatedAt: now}
	if old.ID == "" {
		u.CreatedAt = now
	}
	if now.Before(old.UpdatedAt) { // the wall clock went back
		u.UpdatedAt = old.UpdatedAt
	}
	_, err := tx.ExecContext(ctx, `
insert into users (id, username, username_folded, created_at, updated_at) values (?, ?, ?, ?, ?)
on conflict (id) do update set username = excluded.username, username_folded = excluded.username_folded, updated_at = excluded.updated_at`,
		id, username, fold(username), u.CreatedAt.UnixMicro(), u.UpdatedAt.UnixMicro())
	if err != nil {
		return u, err
	}
	if _, err := tx.ExecContext(ctx, "delete from user_accounts where user_id = ?", id); err != nil {
		return u, err
	}
	for _, a := range accounts {
		_, err := tx.ExecContext(ctx, `
insert into user_accounts (user_id, platform, platform_user_id, username, username_folded) values (?, ?, ?, ?, ?)`,
			id, a.Platform, a.ID, a.Username, fold(a.Username))
		if err != nil {
			return u, err
		}
	}
	return u, nil
}

// maxLen bounds names and IDs, in bytes.
const maxLen = 255

func storable(s string) bool {
	return s != "" && len(s) <= maxLen && utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

func validate(u usercache.User) error {
	if !storable(u.Username) {
		return fmt.Errorf("%w: the username must be 1 to %d bytes of UTF-8 without NUL", ErrInvalidUser, maxLen)
	}
	for i, a := range u.Accounts {
		if !storable(a.Platform) || !storable(a.ID) || a.Username != "" && !storable(a.Username) {
			return fmt.Errorf("%w: platform and ID of an account must be 1 to %d bytes of UTF-8 without NUL, its username up to that", ErrInvalidUser, maxLen)
		}
		if on(a.Platform, u.Accounts[:i]) != nil {
			return fmt.Errorf("%w: two accounts on one platform", ErrInvalidUser)
		}
	}
	return nil
}

// fold maps names that differ in case alone to one: each letter to the least
// of those that Unicode's simple case folding holds to be equal. That is no
// coarser than the tags of the cache, which precise usernames require.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, s)
}
