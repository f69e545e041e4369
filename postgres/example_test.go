package postgres_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/postgres"
)

// newUsers is where the service wires its dependencies. What it returns is
// used as the repository was.
func newUsers(ctx context.Context, pool *pgxpool.Pool) (*usercache.CachedRepository[usercache.User], error) {
	if err := postgres.Migrate(ctx, pool); err != nil {
		return nil, err
	}
	cfg, err := usercache.ConfigFromEnv(ctx) // USER_CACHE_SIZE, USER_CACHE_TTL and so on
	if err != nil {
		return nil, err
	}
	return usercache.New(postgres.New(pool), usercache.UserSchema(),
		usercache.WithConfig(cfg),
		usercache.WithPreciseUsernames(),          // it stores usernames as they are given
		usercache.WithRejected(postgres.Rejected), // and tells a refused write from a doubtful one
	)
}

func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	users, err := newUsers(ctx, pool)
	if err != nil {
		log.Fatal(err)
	}
	defer users.Close()

	u, err := users.GetUserByPlatformID(ctx, "twitch", "12345") // the database's answer
	fmt.Println(u, err)
	u, err = users.GetUserByPlatformID(ctx, "twitch", "12345") // the same, from memory
	fmt.Println(u, err)
}
