// Package store opens the repository that the chat bot keeps its users in: a
// PostgreSQL database if one is given, else an SQLite file.
package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/examples/chatbot/internal/sqlite"
	"github.com/osse101/usercache/postgres"
)

// Store is an open repository.
type Store struct {
	// Kind names the database.
	Kind string
	// Users is the repository.
	Users usercache.Repository[usercache.User]
	// Rejected is for [usercache.WithRejected].
	Rejected func(error) bool
	// Activity is what a cache is warmed from; nil if the database keeps no
	// record of it.
	Activity *postgres.Repository

	close func() error
}

// Close closes the repository, and removes it if it is a temporary one.
func (s *Store) Close() error { return s.close() }

// Open opens the database at the URL, or the SQLite file if that is empty, and
// brings its tables up to date.
func Open(ctx context.Context, databaseURL, file string) (*Store, error) {
	if databaseURL == "" {
		return openFile(ctx, file, func() error { return nil })
	}
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", err) // pgx leaves the password out
	}
	return openPostgres(ctx, config, func() error { return nil })
}

// OpenTemporary opens a repository that is empty and disappears when it is
// closed: a schema of its own in the database at the URL, or an SQLite file in
// the temporary directory if that is empty.
func OpenTemporary(ctx context.Context, databaseURL string) (*Store, error) {
	if databaseURL == "" {
		dir, err := os.MkdirTemp("", "chatbot-*")
		if err != nil {
			return nil, err
		}
		s, err := openFile(ctx, filepath.Join(dir, "users.db"), func() error { return os.RemoveAll(dir) })
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		return s, nil
	}
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("DATABASE_URL: %w", err)
	}
	schema := pgx.Identifier{"chatbot_" + strings.ReplaceAll(uuid.NewString(), "-", "")}.Sanitize()
	if err := execute(ctx, config.ConnConfig, "create schema "+schema); err != nil {
		return nil, fmt.Errorf("PostgreSQL: %w", err)
	}
	drop := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		return execute(ctx, config.ConnConfig, "drop schema "+schema+" cascade")
	}
	within := config.Copy()
	within.ConnConfig.RuntimeParams["search_path"] = schema
	s, err := openPostgres(ctx, within, drop)
	if err != nil {
		return nil, errors.Join(err, drop())
	}
	return s, nil
}

func openFile(ctx context.Context, file string, remove func() error) (*Store, error) {
	users, err := sqlite.Open(ctx, file)
	if err != nil {
		return nil, err
	}
	return &Store{
		Kind: "SQLite", Users: users, Rejected: sqlite.Rejected,
		close: func() error { return errors.Join(users.Close(), remove()) },
	}, nil
}

func openPostgres(ctx context.Context, config *pgxpool.Config, remove func() error) (*Store, error) {
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL: %w", err)
	}
	if err := postgres.Migrate(ctx, pool); err != nil {
		pool.Close()
		return nil, err
	}
	users := postgres.New(pool)
	return &Store{
		Kind: "PostgreSQL", Users: users, Rejected: postgres.Rejected, Activity: users,
		close: func() error {
			pool.Close()
			return remove()
		},
	}, nil
}

func execute(ctx context.Context, config *pgx.ConnConfig, sql string) error {
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}
