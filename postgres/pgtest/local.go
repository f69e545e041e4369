package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// startLocal starts a private server from the binaries of this machine.
func startLocal(ctx context.Context) (_ *Server, err error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pgtest") // short, since a socket's path must be
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	as, err := unprivileged(dir)
	if err != nil {
		return nil, err
	}
	command := func(ctx context.Context, name string, args ...string) *exec.Cmd {
		c := exec.CommandContext(ctx, filepath.Join(bin, name), args...)
		c.Dir = dir
		c.SysProcAttr = processAttributes(as)
		return c
	}

	data := filepath.Join(dir, "data")
	out, err := command(ctx, "initdb", "--pgdata", data, "--username", "postgres", "--auth", "trust",
		"--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, bytes.TrimSpace(out))
	}
	// Another process may take the free port before the server does.
	for range 5 {
		var s *Server
		if s, err = serve(ctx, command, dir, data); err == nil {
			return s, nil
		}
	}
	return nil, err
}

// serve starts the server on a free port and waits until it answers.
func serve(ctx context.Context, command func(context.Context, string, ...string) *exec.Cmd, dir, data string) (*Server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	var log buffer
	// The server's life is not bound to ctx, but to Stop.
	c := command(context.Background(), "postgres", "-D", data, "-k", dir, "-p", port,
		"-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200",
		"-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")
	c.Stderr = &log
	if err := c.Start(); err != nil {
		return nil, err
	}
	exited := make(chan error, 1)
	go func() { exited <- c.Wait() }()

	dsn := "postgres://postgres@127.0.0.1:" + port + "/postgres?sslmode=disable"
	for {
		conn, err := pgx.Connect(ctx, dsn)
		if err == nil {
			if err := conn.Close(ctx); err != nil {
				return nil, errors.Join(err, c.Process.Kill())
			}
			break
		}
		select {
		case err := <-exited:
			return nil, fmt.Errorf("postgres exited: %w: %s", err, log.String())
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), c.Process.Kill(), errors.New(log.String()))
		case <-time.After(20 * time.Millisecond):
		}
	}
	return &Server{dsn: dsn, stop: sync.OnceValue(func() error {
		// SIGINT: roll back what is open, and stop.
		err := c.Process.Signal(syscall.SIGINT)
		select {
		case exit := <-exited:
			err = errors.Join(err, exit)
		case <-time.After(startTimeout):
			err = errors.Join(err, errors.New("postgres does not stop"), c.Process.Kill())
		}
		return errors.Join(err, os.RemoveAll(dir))
	})}, nil
}

// debian is where Debian and Ubuntu install the server.
var debian = "/usr/lib/postgresql/*/bin/initdb"

// binaries returns the directory of initdb and postgres: of those on PATH, else
// the newest that Debian and Ubuntu install.
func binaries() (string, error) {
	if p, err := exec.LookPath("initdb"); err == nil {
		if _, err := exec.LookPath("postgres"); err == nil {
			return filepath.Dir(p), nil
		}
	}
	found, err := filepath.Glob(debian)
	if err != nil || len(found) == 0 {
		return "", errors.New("no initdb on PATH or under /usr/lib/postgresql")
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))) // 0 for what is no number, so last
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
}

// unprivileged returns whom to run the server as, nil for ourselves, and gives
// that user the directory: PostgreSQL refuses to run as root.
func unprivileged(dir string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(errUID, errGID); err != nil {
			return nil, err
		}
		if err := os.Chown(dir, int(uid), int(gid)); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("running as root, and there is neither a user postgres nor nobody to run the server as")
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	return port, l.Close()
}

// buffer is a bytes.Buffer for one writer and one reader.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
