// Package postgres keeps users in PostgreSQL, 13 or later, through pgx.
//
// [Migrate] creates the tables, [New] returns a repository over a pool, a
// connection or a transaction. It stores usernames exactly as each write gives
// them, so a cache in front of it may use precise usernames:
//
//	repo := postgres.New(pool)
//	users, err := usercache.New(repo, usercache.UserSchema(),
//		usercache.WithPreciseUsernames(), usercache.WithRejected(postgres.Rejected))
//
// It needs no prepared statements and works in every query mode of pgx, so
// also behind a pooler that shares connections by transaction.
package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/osse101/usercache"
)

// DB is what a Repository needs of a *pgxpool.Pool, a *pgx.Conn or a pgx.Tx.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Repository keeps users in the tables that [Migrate] creates. It is as safe
// for concurrent use as its DB: a pool is, a connection and a transaction are
// not. Over a transaction every write is a savepoint, so that one that fails
// leaves the transaction usable.
type Repository struct{ db DB }

var _ usercache.Repository[usercache.User] = (*Repository)(nil)

// New returns a repository over db, which must not be nil.
func New(db DB) *Repository { return &Repository{db: db} }

// selectUser reads a whole user in one statement, so that name and links are
// of one moment. $1 and further parameters belong to the condition that is
// appended.
const selectUser = `
select u.id::text, u.username, u.created_at, u.updated_at, (
    select coalesce(json_agg(json_build_object(
        'platform', a.platform, 'id', a.platform_user_id, 'username', a.username
    ) order by a.platform collate "C"), '[]')::text
    from user_accounts a
    where a.user_id = u.id
)
from users u
where u.id = `

// one reads one user. Its arguments must be storable.
func (r *Repository) one(ctx context.Context, method, condition string, args ...any) (*usercache.User, error) {
	var u usercache.User
	var accounts string
	err := r.db.QueryRow(ctx, selectUser+condition, args...).Scan(&u.ID, &u.Username, &u.CreatedAt, &u.UpdatedAt, &accounts)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nobody(method)
	}
	if err == nil {
		err = json.Unmarshal([]byte(accounts), &u.Accounts)
	}
	if err != nil {
		return nil, fmt.Errorf("postgres: %s: %w", method, err)
	}
	u.CreatedAt, u.UpdatedAt = u.CreatedAt.UTC(), u.UpdatedAt.UTC()
	return &u, nil
}

func nobody(method string) error {
	return fmt.Errorf("postgres: %s: %w", method, usercache.ErrUserNotFound)
}

// GetUserByID implements usercache.Repository. An ID that is no UUID belongs to
// nobody.
func (r *Repository) GetUserByID(ctx context.Context, userID string) (*usercache.User, error) {
	id, ok := canonicalID(userID)
	if !ok {
		return nil, nobody("GetUserByID")
	}
	return r.one(ctx, "GetUserByID", "$1::uuid", id)
}

// GetUserByPlatformID implements usercache.Repository. Platform and ID are
// compared exactly.
func (r *Repository) GetUserByPlatformID(ctx context.Context, platform, platformID string) (*usercache.User, error) {
	if !storable(platform) || !storable(platformID) {
		return nil, nobody("GetUserByPlatformID")
	}
	return r.one(ctx, "GetUserByPlatformID",
		`(select user_id from user_accounts where platform = $1 and platform_user_id = $2)`, platform, platformID)
}

// GetUserByPlatformUsername implements usercache.Repository. It finds, among
// the users with an account on the platform, one whose account there, or who,
// has this name, without regard to case as the database's lower() sees it. Of
// several, one whose account has the name comes first, then the least ID.
func (r *Repository) GetUserByPlatformUsername(ctx context.Context, platform, username string) (*usercache.User, error) {
	if !storable(platform) || !storable(username) {
		return nil, nobody("GetUserByPlatformUsername")
	}
	return r.one(ctx, "GetUserByPlatformUsername", `(
    select user_id from (
        select user_id, 1 as rank from user_accounts
        where platform = $1 and lower(username) = lower($2)
        union all
        select a.user_id, 2 from users n
        join user_accounts a on a.user_id = n.id and a.platform = $1
        where lower(n.username) = lower($2)
    ) as named
    order by rank, user_id
    limit 1
)`, platform, username)
}

// errRaced says that a transaction met the traces of another and has to start
// over.
var errRaced = errors.New("lost a race against another transaction")

// maxAttempts bounds how often a write starts over.
const maxAttempts = 10

// write runs one write in a transaction, and starts over after a lost race or
// a deadlock. Inside a caller's transaction it does not: what a rollback to a
// savepoint cannot undo is the caller's to handle.
func (r *Repository) write(ctx context.Context, method string, do func(pgx.Tx) error) error {
	_, nested := r.db.(pgx.Tx)
	var err error
	for range maxAttempts {
		err = translate(pgx.BeginFunc(ctx, r.db, do))
		code := sqlState(err)
		rolledBack := code == "40001" || code == "40P01"
		if !errors.Is(err, errRaced) && (nested || !rolledBack) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("postgres: %s: %w", method, err)
	}
	return nil
}

// UpsertUser implements usercache.Repository. It also fills in CreatedAt and
// UpdatedAt. A new user's ID is a random UUID from the database.
func (r *Repository) UpsertUser(ctx context.Context, user *usercache.User) error {
	if user == nil {
		return fmt.Errorf("postgres: UpsertUser: %w: nil", ErrInvalidUser)
	}
	if err := validate(*user); err != nil {
		return fmt.Errorf("postgres: UpsertUser: %w", err)
	}
	given := ""
	if user.ID != "" {
		var ok bool
		if given, ok = canonicalID(user.ID); !ok {
			return nobody("UpsertUser")
		}
	}
	var id string
	var created, updated time.Time
	err := r.write(ctx, "UpsertUser", func(tx pgx.Tx) (err error) {
		id = given
		if id == "" {
			if id, err = owner(ctx, tx, user.Accounts); err != nil {
				return err
			}
		}
		if id == "" {
			err = tx.QueryRow(ctx, `insert into users (username) values ($1) returning id::text, created_at, updated_at`,
				user.Username).Scan(&id, &created, &updated)
			if err != nil {
				return err
			}
			err = link(ctx, tx, id, user.Accounts)
			if errors.Is(err, ErrAccountTaken) {
				return errRaced // somebody else has just created the user
			}
			return err
		}
		created, updated, err = rename(ctx, tx, id, user.Username)
		if errors.Is(err, pgx.ErrNoRows) {
			if given == "" {
				return errRaced // the owner has just been deleted
			}
			return usercache.ErrUserNotFound
		}
		if err != nil {
			return err
		}
		if given == "" {
			// Now that the user's row is locked, the links stay as they are. The
			// one that named the user may have gone meanwhile.
			if still, err := owner(ctx, tx, user.Accounts); err != nil || still != id {
				return errors.Join(err, errRaced)
			}
		}
		return link(ctx, tx, id, user.Accounts)
	})
	if err != nil {
		return err
	}
	user.ID, user.CreatedAt, user.UpdatedAt = id, created.UTC(), updated.UTC()
	return nil
}

// owner returns the ID of the one user that any of the accounts are linked to,
// or "".
func owner(ctx context.Context, tx pgx.Tx, accounts []usercache.Account) (string, error) {
	platforms, ids, _ := columns(accounts)
	rows, err := tx.Query(ctx, `
select distinct a.user_id::text from user_accounts a
join unnest($1::text[], $2::text[]) as given (platform, id)
    on a.platform = given.platform and a.platform_user_id = given.id`, platforms, ids)
	if err != nil {
		return "", err
	}
	owners, err := pgx.CollectRows(rows, pgx.RowTo[string])
	switch {
	case err != nil:
		return "", err
	case len(owners) > 1:
		return "", ErrAccountTaken
	case len(owners) == 0:
		return "", nil
	}
	return owners[0], nil
}

// rename sets a user's name and locks its row. It returns pgx.ErrNoRows if
// there is none.
func rename(ctx context.Context, tx pgx.Tx, id, username string) (created, updated time.Time, err error) {
	err = tx.QueryRow(ctx, `
update users set username = $2, updated_at = greatest(now(), updated_at)
where id = $1::uuid returning created_at, updated_at`, id, username).Scan(&created, &updated)
	return created, updated, err
}

// link links accounts to a user, or replaces the names of those that are. The
// accounts are locked in one order by all writers.
func link(ctx context.Context, tx pgx.Tx, id string, accounts []usercache.Account) error {
	accounts = slices.SortedFunc(slices.Values(accounts), func(a, b usercache.Account) int {
		return strings.Compare(a.Platform+"\x00"+a.ID, b.Platform+"\x00"+b.ID)
	})
	platforms, ids, usernames := columns(accounts)
	done, err := tx.Exec(ctx, `
insert into user_accounts as a (user_id, platform, platform_user_id, username)
select $1::uuid, platform, id, username
from unnest($2::text[], $3::text[], $4::text[]) as given (platform, id, username)
on conflict (platform, platform_user_id) do update set username = excluded.username
where a.user_id = excluded.user_id`, id, platforms, ids, usernames)
	if err == nil && done.RowsAffected() < int64(len(accounts)) {
		err = ErrAccountTaken
	}
	return err
}

// unlink removes a user's links to all accounts but those to keep.
func unlink(ctx context.Context, tx pgx.Tx, id string, keep []usercache.Account) error {
	platforms, ids, _ := columns(keep)
	_, err := tx.Exec(ctx, `
delete from user_accounts where user_id = $1::uuid and (platform, platform_user_id) not in (
    select * from unnest($2::text[], $3::text[])
)`, id, platforms, ids)
	return err
}

// columns turns accounts into one array for each column.
func columns(accounts []usercache.Account) (platforms, ids, usernames []string) {
	platforms, ids, usernames = []string{}, []string{}, []string{} // a nil slice would be NULL
	for _, a := range accounts {
		platforms, ids, usernames = append(platforms, a.Platform), append(ids, a.ID), append(usernames, a.Username)
	}
	return platforms, ids, usernames
}

// UpdateUser implements usercache.Repository.
func (r *Repository) UpdateUser(ctx context.Context, user usercache.User) error {
	id, ok := canonicalID(user.ID)
	if !ok {
		return nobody("UpdateUser")
	}
	if err := validate(user); err != nil {
		return fmt.Errorf("postgres: UpdateUser: %w", err)
	}
	return r.write(ctx, "UpdateUser", func(tx pgx.Tx) error {
		if _, _, err := rename(ctx, tx, id, user.Username); err != nil {
			return notFoundIfNoRows(err)
		}
		if err := unlink(ctx, tx, id, user.Accounts); err != nil {
			return err
		}
		return link(ctx, tx, id, user.Accounts)
	})
}

func notFoundIfNoRows(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return usercache.ErrUserNotFound
	}
	return err
}

// DeleteUser implements usercache.Repository.
func (r *Repository) DeleteUser(ctx context.Context, userID string) error {
	id, ok := canonicalID(userID)
	if !ok {
		return nobody("DeleteUser")
	}
	return r.write(ctx, "DeleteUser", func(tx pgx.Tx) error {
		done, err := tx.Exec(ctx, `delete from users where id = $1::uuid`, id)
		if err == nil && done.RowsAffected() == 0 {
			err = usercache.ErrUserNotFound
		}
		return err
	})
}
