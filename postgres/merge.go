package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/osse101/usercache"
)

// MergeUsers implements usercache.Repository, in one transaction. The primary
// takes merged's name and accounts. On the platforms that merged does not
// mention it keeps its own account, or gets the secondary's; all others become
// nobody's. merged.ID must be empty or the primary's.
func (r *Repository) MergeUsers(ctx context.Context, primaryUserID, secondaryUserID string, merged usercache.User) error {
	primary, ok := canonicalID(primaryUserID)
	secondary, alsoOK := canonicalID(secondaryUserID)
	if ok && primary == secondary || primaryUserID == secondaryUserID {
		return fmt.Errorf("postgres: MergeUsers: %w", ErrSameUser)
	}
	if !ok || !alsoOK {
		return nobody("MergeUsers")
	}
	if err := validate(merged); err != nil {
		return fmt.Errorf("postgres: MergeUsers: %w", err)
	}
	if id, _ := canonicalID(merged.ID); merged.ID != "" && id != primary {
		return fmt.Errorf("postgres: MergeUsers: %w: the merged user's ID must be empty or the primary's", ErrInvalidUser)
	}
	return r.write(ctx, "MergeUsers", func(tx pgx.Tx) error {
		accounts, err := lockBoth(ctx, tx, primary, secondary)
		if err != nil {
			return err
		}
		result := slices.Clone(merged.Accounts)
		for _, a := range accounts {
			if !slices.ContainsFunc(result, func(b usercache.Account) bool { return b.Platform == a.Platform }) {
				result = append(result, a)
			}
		}
		for _, id := range []string{primary, secondary} {
			if err := unlink(ctx, tx, id, result); err != nil {
				return err
			}
		}
		// What is left of the secondary's moves with all that is known of it.
		if _, err := tx.Exec(ctx, `update user_accounts set user_id = $1::uuid where user_id = $2::uuid`, primary, secondary); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `delete from users where id = $1::uuid`, secondary); err != nil {
			return err
		}
		if _, _, err := rename(ctx, tx, primary, merged.Username); err != nil {
			return err
		}
		return link(ctx, tx, primary, result)
	})
}

// lockBoth locks the rows of two users, the lesser ID first, so that merges in
// both directions do not wait for each other. It returns their accounts, the
// primary's first.
func lockBoth(ctx context.Context, tx pgx.Tx, primary, secondary string) ([]usercache.Account, error) {
	locked, err := tx.Exec(ctx, `select 1 from users where id in ($1::uuid, $2::uuid) order by id for update`, primary, secondary)
	if err != nil {
		return nil, err
	}
	if locked.RowsAffected() < 2 {
		return nil, usercache.ErrUserNotFound
	}
	rows, err := tx.Query(ctx, `
select platform, platform_user_id, username from user_accounts
where user_id in ($1::uuid, $2::uuid) order by user_id <> $1::uuid, platform`, primary, secondary)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[usercache.Account])
}
