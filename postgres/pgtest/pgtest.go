// Package pgtest gives tests a real PostgreSQL server, and a fresh database for
// each of them.
//
// The server is, in this order:
//
//  1. the one that the environment variable USERCACHE_TEST_POSTGRES names by a
//     DSN, whose user must be allowed to create databases;
//  2. a private one, started from the initdb and postgres of this machine (on
//     PATH or under /usr/lib/postgresql), with its data in a temporary
//     directory, and stopped at the end;
//  3. a container, through testcontainers-go, where Docker runs.
//
// Where there is none of them, a test fails.
package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/testcontainers/testcontainers-go"
	container "github.com/testcontainers/testcontainers-go/modules/postgres"
)

// Variable is the environment variable that names a server by its DSN.
const Variable = "USERCACHE_TEST_POSTGRES"

// startTimeout bounds how long a server may take to start or stop.
const startTimeout = 2 * time.Minute

// Server is a running PostgreSQL server. It is safe for concurrent use.
type Server struct {
	dsn  string
	stop func() error
}

// Start finds or starts a server, as the package documentation says. The
// caller must Stop it.
func Start(ctx context.Context) (*Server, error) {
	if dsn := os.Getenv(Variable); dsn != "" {
		return &Server{dsn: dsn, stop: func() error { return nil }}, nil
	}
	s, errLocal := startLocal(ctx)
	if errLocal == nil {
		return s, nil
	}
	s, errDocker := startContainer(ctx)
	if errDocker == nil {
		return s, nil
	}
	return nil, fmt.Errorf("pgtest: no PostgreSQL server; do one of these: set %s to a DSN; install the server (Debian: apt-get install postgresql; now: %w); run Docker (now: %w)",
		Variable, errLocal, errDocker)
}

// Stop stops the server, if Start has started one, and removes its data.
func (s *Server) Stop() error { return s.stop() }

// Database creates an empty database and returns its DSN, and a function that
// drops it with whatever is still connected.
func (s *Server) Database(ctx context.Context) (dsn string, drop func(context.Context) error, err error) {
	name := "usercache_test_" + strings.ToLower(rand.Text()) // others may use the same server
	if err := s.exec(ctx, "create database "+name); err != nil {
		return "", nil, fmt.Errorf("pgtest: %w", err)
	}
	drop = func(ctx context.Context) error {
		if err := s.exec(ctx, "drop database "+name+" with (force)"); err != nil {
			return fmt.Errorf("pgtest: %w", err)
		}
		return nil
	}
	return withDatabase(s.dsn, name), drop, nil
}

func (s *Server) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, s.dsn)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

// withDatabase returns dsn, in either of its forms, with another database.
func withDatabase(dsn, name string) string {
	if u, err := url.Parse(dsn); err == nil && strings.HasPrefix(u.Scheme, "postgres") {
		u.Path = "/" + name
		return u.String()
	}
	return dsn + " dbname=" + name // of repeated keywords the last counts
}

func startContainer(ctx context.Context) (s *Server, err error) {
	defer func() { // without a Docker host, testcontainers panics
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	c, err := container.Run(ctx, "postgres:17-alpine", container.BasicWaitStrategies())
	if err != nil {
		return nil, errors.Join(err, testcontainers.TerminateContainer(c))
	}
	dsn, err := c.ConnectionString(ctx, "sslmode=disable")
	if err != nil {
		return nil, errors.Join(err, testcontainers.TerminateContainer(c))
	}
	return &Server{dsn: dsn, stop: func() error { return testcontainers.TerminateContainer(c) }}, nil
}

// shared is the one server of a test binary.
var shared struct {
	once   sync.Once
	server *Server
	err    error
}

// Main runs the tests of a package and stops the server that [DSN] may have
// started. It returns the exit code:
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
func Main(m *testing.M) int {
	code := m.Run()
	if shared.server != nil {
		if err := shared.server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "pgtest: stopping the server:", err)
			return max(code, 1)
		}
	}
	return code
}

// DSN returns the DSN of a fresh, empty database on the server that all tests
// of the binary share. It is dropped when t ends. A test binary that calls DSN
// must have a TestMain with [Main].
func DSN(t testing.TB) string {
	t.Helper()
	shared.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		shared.server, shared.err = Start(ctx)
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	dsn, drop, err := shared.server.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := drop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return dsn
}
