package pgtest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// Each call gives an empty database of its own, in either form of a DSN.
func TestDSN(t *testing.T) {
	a, b := DSN(t), DSN(t)
	for i, dsn := range []string{a, b} {
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "create table t ()"); err != nil {
			t.Errorf("database %d: %v", i, err)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestWithDatabase(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://u:p@h:1/old?sslmode=disable": "postgres://u:p@h:1/new?sslmode=disable",
		"postgresql://h":                         "postgresql://h/new",
		"host=h dbname=old":                      "host=h dbname=old dbname=new",
	} {
		got := withDatabase(dsn, "new")
		if got != want {
			t.Errorf("withDatabase(%q) = %q, want %q", dsn, got, want)
		}
		cfg, err := pgx.ParseConfig(got)
		if err != nil || cfg.Database != "new" {
			t.Errorf("%q leads to %v, %v", got, cfg.Database, err)
		}
	}
}

// A server named by the environment is used as it is, and left running.
func TestServerFromTheEnvironment(t *testing.T) {
	dsn := DSN(t)
	t.Setenv(Variable, dsn)
	s, err := Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, drop, err := s.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := drop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal("the server is gone:", err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// A private server is gone after Stop, and so is its data.
func TestStop(t *testing.T) {
	if os.Getenv(Variable) != "" {
		t.Setenv(Variable, "")
	}
	s, err := Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if conn, err := pgx.Connect(t.Context(), s.dsn); err == nil {
		t.Error("the server still answers", conn.Close(t.Context()))
	}
}

// Without any way to a server the error names all three.
func TestNoServer(t *testing.T) {
	t.Setenv(Variable, "")
	t.Setenv("PATH", "")
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(t.TempDir(), "no-docker.sock"))
	defer func(was string) { debian = was }(debian)
	debian = filepath.Join(t.TempDir(), "*")
	_, err := Start(context.Background())
	if err == nil {
		t.Fatal("a server from nowhere")
	}
	for _, way := range []string{Variable, "apt-get install postgresql", "Docker"} {
		if !strings.Contains(err.Error(), way) {
			t.Errorf("%q does not mention %s", err, way)
		}
	}
}
