package postgres

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/osse101/usercache"
)

// The errors that writes wrap, besides [usercache.ErrUserNotFound]. A write
// that returns one of them has changed nothing.
var (
	// ErrInvalidUser says that a user cannot be stored as it is: names and IDs
	// must be 1 to 255 bytes of UTF-8 without NUL (only the username of an
	// account may be empty), with at most one account for each platform.
	ErrInvalidUser = errors.New("invalid user")
	// ErrAccountTaken says that an account belongs to another user.
	ErrAccountTaken = errors.New("account is linked to another user")
	// ErrPlatformTaken says that an upsert would replace the account that the
	// user has on a platform; UpdateUser does that.
	ErrPlatformTaken = errors.New("user has another account on this platform")
	// ErrSameUser says that a user was to be merged with itself.
	ErrSameUser = errors.New("a user cannot be merged with itself")
)

// Rejected reports whether an error of a write says that it has certainly not
// been applied and never will be. It is made for [usercache.WithRejected].
//
// That is so for this package's own errors, and where the server reports that
// it refused the data (SQLSTATE class 22), a constraint (23), the statement
// (42), or rolled the transaction back (40, but for 40003, which says that the
// outcome is unknown). It is not so where the connection or the server went
// away, since the commit may have come through.
func Rejected(err error) bool {
	for _, sentinel := range []error{usercache.ErrUserNotFound, ErrInvalidUser, ErrAccountTaken, ErrPlatformTaken, ErrSameUser} {
		if errors.Is(err, sentinel) {
			return true
		}
	}
	code := sqlState(err)
	return len(code) == 5 && code != "40003" && slices.Contains([]string{"22", "23", "40", "42"}, code[:2])
}

func sqlState(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// translate gives the sentinel for a violated constraint, with the cause.
func translate(err error) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return err
	}
	switch {
	case pgErr.ConstraintName == "user_accounts_one_per_platform":
		return fmt.Errorf("%w: %w", ErrPlatformTaken, err)
	case pgErr.ConstraintName == "user_accounts_one_owner":
		return fmt.Errorf("%w: %w", ErrAccountTaken, err)
	case pgErr.Code == "23503": // the user was deleted meanwhile
		return fmt.Errorf("%w: %w", usercache.ErrUserNotFound, err)
	case pgErr.Code == "23514" || strings.HasPrefix(pgErr.Code, "22"):
		return fmt.Errorf("%w: %w", ErrInvalidUser, err)
	}
	return err
}

// maxLen bounds names and IDs, in bytes.
const maxLen = 255

// storable reports whether a table can hold s. What it cannot hold, a lookup
// need not ask for; the server would refuse to compare NUL or broken UTF-8.
func storable(s string) bool {
	return s != "" && len(s) <= maxLen && utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

func validate(u usercache.User) error {
	bad := func(what, s string) error {
		return fmt.Errorf("%w: %s of %d bytes: must be 1 to %d bytes of UTF-8 without NUL", ErrInvalidUser, what, len(s), maxLen)
	}
	if !storable(u.Username) {
		return bad("username", u.Username)
	}
	for i, a := range u.Accounts {
		switch {
		case !storable(a.Platform):
			return bad("platform of an account", a.Platform)
		case !storable(a.ID):
			return bad("ID of an account", a.ID)
		case a.Username != "" && !storable(a.Username):
			return bad("username of an account", a.Username)
		case slices.ContainsFunc(u.Accounts[:i], func(b usercache.Account) bool { return b.Platform == a.Platform }):
			return fmt.Errorf("%w: two accounts on one platform", ErrInvalidUser)
		}
	}
	return nil
}

// canonicalID returns the canonical spelling of a UUID. It reads what
// PostgreSQL reads: digits of either case, hyphens or none, braces or none.
func canonicalID(id string) (string, bool) {
	if strings.HasPrefix(id, "{") && strings.HasSuffix(id, "}") {
		id = id[1 : len(id)-1]
	}
	digits := strings.ReplaceAll(id, "-", "")
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != 16 {
		return "", false
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), true
}
