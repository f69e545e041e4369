package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/postgres"
	"github.com/osse101/usercache/postgres/pgtest"
	"github.com/osse101/usercache/repositorytest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

type repository = usercache.Repository[usercache.User]

// newPool returns a pool on a fresh database with the tables.
func newPool(t *testing.T, change ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(cfg)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := postgres.Migrate(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	return pool
}

func cached(t *testing.T, repo repository) repository {
	t.Helper()
	c, err := usercache.New(repo, usercache.UserSchema(),
		usercache.WithPreciseUsernames(), usercache.WithRejected(postgres.Rejected))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// suite runs the conformance suite over repositories that newRepo makes.
func suite(t *testing.T, newRepo func(t *testing.T) repository) {
	repositorytest.Run(t, repositorytest.Config{
		New:          newRepo,
		InvalidUser:  postgres.ErrInvalidUser,
		AccountTaken: postgres.ErrAccountTaken, PlatformTaken: postgres.ErrPlatformTaken,
		SameUser:    postgres.ErrSameUser,
		UnicodeFold: true, // under the locale C.UTF-8
	})
}

func TestConformance(t *testing.T) {
	suite(t, func(t *testing.T) repository { return postgres.New(newPool(t)) })
}

func TestConformanceCached(t *testing.T) {
	suite(t, func(t *testing.T) repository { return cached(t, postgres.New(newPool(t))) })
}

// Behind a pooler pgx may have to do without the extended protocol.
func TestConformanceSimpleProtocol(t *testing.T) {
	suite(t, func(t *testing.T) repository {
		return postgres.New(newPool(t, func(c *pgxpool.Config) {
			c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
		}))
	})
}

func user(name string, accounts ...usercache.Account) usercache.User {
	return usercache.User{Username: name, Accounts: accounts}
}

func on(platform, id string) usercache.Account { return usercache.Account{Platform: platform, ID: id} }

func create(t *testing.T, r repository, u usercache.User) usercache.User {
	t.Helper()
	if err := r.UpsertUser(t.Context(), &u); err != nil {
		t.Fatal(err)
	}
	return u
}

// Over a transaction, writes are seen inside it only, and one that fails
// leaves it usable.
func TestInsideATransaction(t *testing.T) {
	pool := newPool(t)
	outside := postgres.New(pool)
	taken := create(t, outside, user("Bob", on("twitch", "2")))
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	inside := postgres.New(tx)
	u := create(t, inside, user("Alice", on("twitch", "1")))
	u.Accounts = taken.Accounts
	if err := inside.UpdateUser(t.Context(), u); !errors.Is(err, postgres.ErrAccountTaken) {
		t.Errorf("error %v", err)
	}
	if got, err := inside.GetUserByPlatformID(t.Context(), "twitch", "1"); err != nil || got.ID != u.ID {
		t.Errorf("inside: %v, %v", got, err)
	}
	if _, err := outside.GetUserByID(t.Context(), u.ID); !errors.Is(err, usercache.ErrUserNotFound) {
		t.Errorf("outside: %v", err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := outside.GetUserByID(t.Context(), u.ID); err != nil {
		t.Errorf("after commit: %v", err)
	}
}

// counter counts statements.
type counter struct{ n atomic.Int64 }

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.n.Add(1)
	return ctx
}

func (*counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A lookup is one statement, so that it never sees half a write; what no table
// can hold is not asked for at all.
func TestALookupIsOneStatement(t *testing.T) {
	var statements counter
	r := postgres.New(newPool(t, func(c *pgxpool.Config) { c.ConnConfig.Tracer = &statements }))
	u := create(t, r, user("Alice", on("twitch", "1"), on("discord", "2")))
	for name, lookup := range map[string]struct {
		ask  func() (*usercache.User, error)
		want int64
	}{
		"ID":           {func() (*usercache.User, error) { return r.GetUserByID(t.Context(), u.ID) }, 1},
		"ID, spelled":  {func() (*usercache.User, error) { return r.GetUserByID(t.Context(), "{"+strings.ToUpper(u.ID)+"}") }, 1},
		"account":      {func() (*usercache.User, error) { return r.GetUserByPlatformID(t.Context(), "twitch", "1") }, 1},
		"username":     {func() (*usercache.User, error) { return r.GetUserByPlatformUsername(t.Context(), "twitch", "ALICE") }, 1},
		"malformed ID": {func() (*usercache.User, error) { return r.GetUserByID(t.Context(), u.ID[1:]) }, 0},
		"NUL":          {func() (*usercache.User, error) { return r.GetUserByPlatformID(t.Context(), "twitch", "\x00") }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			before := statements.n.Load()
			got, err := lookup.ask()
			if n := statements.n.Load() - before; n != lookup.want {
				t.Errorf("%d statements, want %d", n, lookup.want)
			}
			if lookup.want == 0 {
				if !errors.Is(err, usercache.ErrUserNotFound) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil || got.ID != u.ID || len(got.Accounts) != 2 || got.Accounts[0].Platform != "discord" {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

// Lookups use the indexes: no plan reads a whole table.
func TestLookupsUseIndexes(t *testing.T) {
	pool := newPool(t)
	for _, sql := range []string{
		`insert into users (username) select 'user' || n from generate_series(1, 5000) n`,
		`insert into user_accounts (user_id, platform, platform_user_id, username)
		 select id, 'twitch', username, username from users`,
		`analyze users, user_accounts`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	var explained explainer
	r := postgres.New(&explained)
	explained.DB = pool
	_, _ = r.GetUserByID(t.Context(), "00000000-0000-4000-8000-000000000000")
	_, _ = r.GetUserByPlatformID(t.Context(), "twitch", "user7")
	_, _ = r.GetUserByPlatformUsername(t.Context(), "twitch", "User7")
	_, _ = r.RecentlyActive(t.Context(), time.Now(), 10)
	if len(explained.plans) != 4 {
		t.Fatalf("%d plans", len(explained.plans))
	}
	for _, plan := range explained.plans {
		if strings.Contains(plan, "Seq Scan") {
			t.Errorf("a whole table is read:\n%s", plan)
		}
	}
}

// explainer asks for the plan of each query before it runs.
type explainer struct {
	postgres.DB
	plans []string
}

func (e *explainer) explain(ctx context.Context, sql string, args []any) {
	rows, err := e.DB.Query(ctx, "explain "+sql, args...)
	if err == nil {
		var lines []string
		lines, err = pgx.CollectRows(rows, pgx.RowTo[string])
		e.plans = append(e.plans, strings.Join(lines, "\n"))
	}
	if err != nil {
		e.plans = append(e.plans, "Seq Scan? "+err.Error())
	}
}

func (e *explainer) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	e.explain(ctx, sql, args)
	return e.DB.QueryRow(ctx, sql, args...)
}

func (e *explainer) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	e.explain(ctx, sql, args)
	return e.DB.Query(ctx, sql, args...)
}

// Migrations run once, also when several instances start together.
func TestMigrateConcurrently(t *testing.T) {
	dsn := pgtest.DSN(t)
	var instances sync.WaitGroup
	for range 5 {
		instances.Go(func() {
			pool, err := pgxpool.New(t.Context(), dsn)
			if err != nil {
				t.Error(err)
				return
			}
			defer pool.Close()
			for range 2 {
				if err := postgres.Migrate(t.Context(), pool); err != nil {
					t.Error(err)
				}
			}
			if _, err := postgres.New(pool).GetUserByPlatformID(t.Context(), "twitch", "1"); !errors.Is(err, usercache.ErrUserNotFound) {
				t.Error(err)
			}
		})
	}
	instances.Wait()
}

// A Migrate that cannot reach its database says so.
func TestMigrateFails(t *testing.T) {
	pool := newPool(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := postgres.Migrate(ctx, pool); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// Merges in both directions at once, and updates of the same users, neither
// deadlock nor lose anything but the race.
func TestConcurrentMerges(t *testing.T) {
	r := postgres.New(newPool(t))
	for range 20 {
		a := create(t, r, user("a", on("twitch", "a"), on("irc", "a")))
		b := create(t, r, user("b", on("discord", "b"), on("irc", "b")))
		var won atomic.Int64
		var writers sync.WaitGroup
		for _, pair := range [][2]usercache.User{{a, b}, {b, a}} {
			writers.Go(func() {
				err := r.MergeUsers(t.Context(), pair[0].ID, pair[1].ID, usercache.User{Username: "merged"})
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, usercache.ErrUserNotFound):
					t.Error(err)
				}
			})
			writers.Go(func() {
				u := pair[0]
				if err := r.UpsertUser(t.Context(), &u); err != nil && !errors.Is(err, usercache.ErrUserNotFound) && !errors.Is(err, postgres.ErrPlatformTaken) && !errors.Is(err, postgres.ErrAccountTaken) {
					t.Error(err)
				}
			})
		}
		writers.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d merges came through, want 1", won.Load())
		}
		one, err := r.GetUserByPlatformID(t.Context(), "twitch", "a")
		if err != nil {
			t.Fatal(err)
		}
		two, err := r.GetUserByPlatformID(t.Context(), "discord", "b")
		if err != nil || one.ID != two.ID {
			t.Fatalf("two owners: %v, %v, %v", one, two, err)
		}
		if err := r.DeleteUser(t.Context(), one.ID); err != nil {
			t.Fatal(err)
		}
	}
}

// A merge keeps what is known of an account that moves.
func TestMergeKeepsActivity(t *testing.T) {
	r := postgres.New(newPool(t))
	a := create(t, r, user("a", on("twitch", "a")))
	b := create(t, r, user("b", on("irc", "b")))
	at := time.Now().Truncate(time.Microsecond)
	if err := r.TouchActivity(t.Context(), at, on("irc", "b")); err != nil {
		t.Fatal(err)
	}
	if err := r.MergeUsers(t.Context(), a.ID, b.ID, usercache.User{Username: "a"}); err != nil {
		t.Fatal(err)
	}
	got, err := r.RecentlyActive(t.Context(), at, 10)
	if err != nil || !slices.Equal(got, []usercache.Lookup{usercache.ByPlatformID("irc", "b")}) {
		t.Errorf("got %v, %v", got, err)
	}
}

// Activity moves forward only, for accounts that exist; the latest come first.
func TestActivity(t *testing.T) {
	r := postgres.New(newPool(t))
	create(t, r, user("a", on("twitch", "1"), on("irc", "1")))
	create(t, r, user("b", on("twitch", "2")))
	start := time.Now()
	at := func(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }
	for _, touch := range []struct {
		at       time.Time
		accounts []usercache.Account
	}{
		{at(5), []usercache.Account{on("twitch", "1"), on("twitch", "1"), on("twitch", "\x00"), on("twitch", "unknown")}},
		{at(3), []usercache.Account{on("twitch", "1"), on("irc", "1")}},
		{at(4), []usercache.Account{on("twitch", "2")}},
		{at(9), nil},
	} {
		if err := r.TouchActivity(t.Context(), touch.at, touch.accounts...); err != nil {
			t.Fatal(err)
		}
	}
	first, second, third := usercache.ByPlatformID("twitch", "1"), usercache.ByPlatformID("twitch", "2"), usercache.ByPlatformID("irc", "1")
	for _, c := range []struct {
		since time.Time
		limit int
		want  []usercache.Lookup
	}{
		{start, 10, []usercache.Lookup{first, second, third}},
		{start, 2, []usercache.Lookup{first, second}},
		{at(4), 10, []usercache.Lookup{first, second}},
		{at(6), 10, nil},
	} {
		if got, err := r.RecentlyActive(t.Context(), c.since, c.limit); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("since %v, limit %d: %v, %v; want %v", c.since.Sub(start), c.limit, got, err, c.want)
		}
	}
	if _, err := r.RecentlyActive(t.Context(), start, 0); err == nil || !strings.Contains(err.Error(), "limit 0") {
		t.Errorf("limit 0: %v", err)
	}
}

// RecentlyActive feeds Warm.
func TestWarmFromActivity(t *testing.T) {
	r := postgres.New(newPool(t))
	create(t, r, user("a", on("twitch", "1")))
	if err := r.TouchActivity(t.Context(), time.Now(), on("twitch", "1")); err != nil {
		t.Fatal(err)
	}
	lookups, err := r.RecentlyActive(t.Context(), time.Now().Add(-time.Hour), 100)
	if err != nil {
		t.Fatal(err)
	}
	c, err := usercache.New[usercache.User](r, usercache.UserSchema())
	if err != nil {
		t.Fatal(err)
	}
	if report, err := c.Warm(t.Context(), lookups); err != nil || report.Warmed != 1 {
		t.Errorf("report %+v, %v", report, err)
	}
	if _, err := c.GetUserByPlatformID(t.Context(), "twitch", "1"); err != nil || c.Stats().TotalHits() != 1 {
		t.Errorf("%v, stats %+v", err, c.Stats())
	}
}

// Rejected knows what was certainly rolled back from what may have happened.
func TestRejected(t *testing.T) {
	pool := newPool(t)
	r := postgres.New(pool)
	u := create(t, r, user("a", on("twitch", "1")))
	other := create(t, r, user("b", on("irc", "2")))
	certain := []error{
		r.DeleteUser(t.Context(), "nobody"),
		r.UpdateUser(t.Context(), usercache.User{ID: u.ID}),
		r.UpdateUser(t.Context(), usercache.User{ID: u.ID, Username: "x", Accounts: other.Accounts}),
		r.UpsertUser(t.Context(), &usercache.User{ID: u.ID, Username: "x", Accounts: []usercache.Account{on("twitch", "9")}}),
		r.MergeUsers(t.Context(), u.ID, u.ID, u),
	}
	_, err := pool.Exec(t.Context(), "select from nowhere")
	certain = append(certain, err, fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: "40P01"}))
	for _, err := range certain {
		if err == nil || !postgres.Rejected(err) {
			t.Errorf("%v: not certain", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range []error{
		nil, errors.New("connection reset"), r.DeleteUser(ctx, u.ID),
		&pgconn.PgError{Code: "40003"}, &pgconn.PgError{Code: "57P01"}, &pgconn.PgError{Code: "08006"}, &pgconn.PgError{},
	} {
		if postgres.Rejected(err) {
			t.Errorf("%v: certain", err)
		}
	}
}

// Errors name no user: they may end up in a log.
func TestErrorsHoldNoPersonalData(t *testing.T) {
	r := postgres.New(newPool(t))
	a := create(t, r, user("SECRET-a", on("twitch", "SECRET-1")))
	b := create(t, r, user("SECRET-b", on("twitch", "SECRET-2")))
	_, lookup := r.GetUserByPlatformID(t.Context(), "twitch", "SECRET-9")
	for _, err := range []error{
		lookup,
		r.UpdateUser(t.Context(), usercache.User{ID: a.ID, Username: "SECRET", Accounts: b.Accounts}),
		r.UpsertUser(t.Context(), &usercache.User{ID: a.ID, Username: "SECRET", Accounts: []usercache.Account{on("twitch", "SECRET-9")}}),
		r.UpdateUser(t.Context(), usercache.User{ID: a.ID, Username: strings.Repeat("SECRET", 100)}),
		r.MergeUsers(t.Context(), a.ID, a.ID, a),
	} {
		if err == nil || strings.Contains(err.Error(), "SECRET") || strings.Contains(err.Error(), a.ID) {
			t.Errorf("error %v", err)
		}
	}
}
