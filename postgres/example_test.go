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

func Example() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	if err := postgres.Migrate(ctx, pool); err != nil {
		log.Fatal(err)
	}

	users, err := usercache.New(postgres.New(pool), usercache.UserSchema(),
		usercache.WithPreciseUsernames(), usercache.WithRejected(postgres.Rejected))
	if err != nil {
		log.Fatal(err)
	}
	defer users.Close()

	u, err := users.GetUserByPlatformID(ctx, "twitch", "12345")
	fmt.Println(u, err)
}
