package postgres_test

import (
	"testing"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/postgres"
)

// An upsert that finds a user by an account waits for the user's row, which
// another transaction has locked. That transaction takes the account away. The
// upsert must not link it again: the account has no owner any more, so it
// creates one.
func TestUpsertByAnAccountThatIsUnlinkedMeanwhile(t *testing.T) {
	pool := newPool(t)
	repo := postgres.New(pool)
	ann := create(t, repo, user("ann", on("twitch", "1"), on("discord", "2")))

	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	kept, gone := on("twitch", "1"), on("discord", "2")
	if err := postgres.New(tx).UpdateUser(t.Context(), usercache.User{ID: ann.ID, Username: "ann", Accounts: []usercache.Account{kept}}); err != nil {
		t.Fatal(err)
	}

	ben := user("ben", gone)
	upserted := make(chan error, 1)
	go func() { upserted <- repo.UpsertUser(t.Context(), &ben) }()
	for waiting := 0; waiting == 0; { // until it waits for the row
		err := pool.QueryRow(t.Context(), `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`).Scan(&waiting)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-upserted; err != nil {
		t.Fatal(err)
	}
	if ben.ID == ann.ID {
		t.Error("the account is linked again to the user it was taken from")
	}
	got, err := repo.GetUserByPlatformID(t.Context(), gone.Platform, gone.ID)
	if err != nil || got.ID != ben.ID || got.Username != "ben" {
		t.Errorf("the account leads to %+v, %v", got, err)
	}
	if got, err := repo.GetUserByID(t.Context(), ann.ID); err != nil || got.Username != "ann" || len(got.Accounts) != 1 {
		t.Errorf("the other user is %+v, %v", got, err)
	}
}
