package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/osse101/usercache"
)

// TouchActivity records that accounts were active at a time, in one statement.
// It only ever moves their time forward, and passes over accounts that are
// linked to nobody; Account.Username is ignored. When a user was active is no
// part of the user, so a cache need not be told.
//
// It is for batches: one call for each message would cost the database more
// than the cache saves it.
func (r *Repository) TouchActivity(ctx context.Context, at time.Time, accounts ...usercache.Account) error {
	storableOnly := make([]usercache.Account, 0, len(accounts))
	for _, a := range accounts {
		if storable(a.Platform) && storable(a.ID) {
			storableOnly = append(storableOnly, a)
		}
	}
	if len(storableOnly) == 0 {
		return nil
	}
	platforms, ids, _ := columns(storableOnly)
	// Rows are locked in one order, so that overlapping batches of several
	// instances do not wait for each other.
	_, err := r.db.Exec(ctx, `
update user_accounts a set last_active_at = $1
from (
    select a.platform, a.platform_user_id from user_accounts a
    join (select distinct * from unnest($2::text[], $3::text[])) as given (platform, id)
        on a.platform = given.platform and a.platform_user_id = given.id
    where a.last_active_at is null or a.last_active_at < $1
    order by a.platform, a.platform_user_id
    for update of a
) as due
where a.platform = due.platform and a.platform_user_id = due.platform_user_id
    and (a.last_active_at is null or a.last_active_at < $1)`, at, platforms, ids)
	if err != nil {
		return fmt.Errorf("postgres: TouchActivity: %w", err)
	}
	return nil
}

// RecentlyActive returns lookups by platform ID of up to limit accounts that
// were active at or after since, the latest first: what a service that has just
// started should have [usercache.CachedRepository.Warm] load. A limit below 1
// is an error.
func (r *Repository) RecentlyActive(ctx context.Context, since time.Time, limit int) ([]usercache.Lookup, error) {
	if limit < 1 {
		return nil, fmt.Errorf("postgres: RecentlyActive: limit %d: must be at least 1", limit)
	}
	rows, err := r.db.Query(ctx, `
select platform, platform_user_id from user_accounts
where last_active_at >= $1
order by last_active_at desc, platform, platform_user_id
limit $2`, since, limit)
	if err != nil {
		return nil, fmt.Errorf("postgres: RecentlyActive: %w", err)
	}
	lookups, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (usercache.Lookup, error) {
		var platform, id string
		err := row.Scan(&platform, &id)
		return usercache.ByPlatformID(platform, id), err
	})
	if err != nil {
		return nil, fmt.Errorf("postgres: RecentlyActive: %w", err)
	}
	return lookups, nil
}
