package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/examples/chatbot/internal/store"
	"github.com/osse101/usercache/postgres/pgtest"
)

func TestMain(m *testing.M) {
	code := pgtest.Main(m)
	if err := goleak.Find(); err != nil && code == 0 {
		_, _ = io.WriteString(os.Stderr, err.Error()+"\n")
		code = 1
	}
	os.Exit(code)
}

// unset unsets what the developer's own environment may say.
func unset(t *testing.T) {
	t.Helper()
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); name == "DATABASE_URL" || strings.HasPrefix(name, "USER_CACHE_") {
			t.Setenv(name, "") // which restores it at the end
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestUsage(t *testing.T) {
	unset(t)
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"help"}, 0, "chatbot replay [flags]", ""},
		{[]string{"replay", "-h"}, 0, "", "-trace file"},
		{[]string{"-h"}, 0, "", "-admin-addr address"},
		{[]string{"relpay"}, 2, "", `no command "relpay": must be serve, replay or help`},
		{[]string{"serve", "now"}, 2, "", `takes no argument "now"`},
		{[]string{"-no-such-flag"}, 2, "", "no-such-flag"},
		{[]string{"-log-level", "loud"}, 2, "", `-log-level "loud": must be debug, info, warn or error`},
		{[]string{"-addr", "nowhere:at:all", "-db", filepath.Join(t.TempDir(), "u.db")}, 1, "", "nowhere:at:all"},
		{[]string{"-db", filepath.Join(t.TempDir(), "no", "such", "dir")}, 1, "", "sqlite"},
		{[]string{"replay", "-workers", "0"}, 2, "", "-workers 0: must be at least 1"},
		{[]string{"replay", "-speed", "0"}, 2, "", `-speed "0": must be max or a number above 0`},
		{[]string{"replay", "-speed", "NaN"}, 2, "", `-speed "NaN"`},
		{[]string{"replay", "-speed", "fast"}, 2, "", `-speed "fast"`},
		{[]string{"replay", "-trace", "none.csv.gz"}, 1, "", "none.csv.gz"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), c.args, &stdout, &stderr)
		if code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
			t.Errorf("%q: %d, stdout %q, stderr %q", c.args, code, &stdout, &stderr)
		}
	}
}

func TestBadEnvironment(t *testing.T) {
	unset(t)
	t.Setenv("USER_CACHE_TTL", "soon")
	for _, command := range []string{"serve", "replay"} {
		var stderr bytes.Buffer
		if code := run(t.Context(), []string{command}, io.Discard, &stderr); code != 1 || !strings.Contains(stderr.String(), `USER_CACHE_TTL="soon"`) {
			t.Errorf("%s: %d, %s", command, code, &stderr)
		}
	}
	t.Setenv("USER_CACHE_TTL", "1m")
	t.Setenv("DATABASE_URL", "postgres://user:hunter2@host:no-port/db")
	var stderr bytes.Buffer
	if code := run(t.Context(), []string{"serve"}, io.Discard, &stderr); code != 1 || !strings.Contains(stderr.String(), "DATABASE_URL") || strings.Contains(stderr.String(), "hunter2") {
		t.Errorf("a bad URL: %d, %s", code, &stderr)
	}
}

// The replay command reads the trace that it is given, and its exit code is 0
// if nothing was stale.
func TestReplayCommand(t *testing.T) {
	unset(t)
	trace := filepath.Join(t.TempDir(), "chat.csv")
	lines := "offset_ms,user\n" + strings.Repeat("0,1\n", 20) + strings.Repeat("600000,1\n", 5)
	if err := os.WriteFile(trace, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, url := range map[string]string{"SQLite": "", "PostgreSQL": pgtest.DSN(t)} {
		if url != "" {
			t.Setenv("DATABASE_URL", url)
		}
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), []string{"replay", "-trace", trace}, &stdout, &stderr); code != 0 {
			t.Fatalf("%s: %d, %s", name, code, &stderr)
		}
		// 25 messages, of which the first and the first after ten minutes miss.
		for _, want := range []string{"chat.csv: 25 messages by 1 users in 10m0s", name, "hit rate                92.0 %"} {
			if !strings.Contains(stdout.String(), want) {
				t.Errorf("%s: the report lacks %q:\n%s", name, want, &stdout)
			}
		}
		if !strings.Contains(stderr.String(), "with the cache: 25 of 25 messages") {
			t.Errorf("%s: progress %s", name, &stderr)
		}
		if err := os.Unsetenv("DATABASE_URL"); err != nil {
			t.Fatal(err)
		}
	}
}

// A temporary schema is gone when it is closed.
func TestTemporaryPostgres(t *testing.T) {
	url := pgtest.DSN(t)
	for range 2 { // the second finds nothing of the first
		s, err := store.OpenTemporary(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		u := usercache.User{Username: "alice", Accounts: []usercache.Account{{Platform: "twitch", ID: "1"}}}
		if _, err := s.Users.GetUserByPlatformID(t.Context(), "twitch", "1"); err == nil {
			t.Error("it is not empty")
		}
		if err := s.Users.UpsertUser(t.Context(), &u); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	s, err := store.Open(t.Context(), url, "")
	if err != nil {
		t.Fatal(err)
	}
	if lookups, err := s.Activity.RecentlyActive(t.Context(), time.Time{}, 10); err != nil || len(lookups) != 0 {
		t.Errorf("the database itself holds %v, %v", lookups, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// message sends one message to the app and returns the status.
func message(t *testing.T, a *app) int {
	t.Helper()
	defer http.DefaultClient.CloseIdleConnections()
	response, err := http.Post(a.server.URL()+"/message/handle", "application/json",
		strings.NewReader(`{"platform":"twitch","platform_id":"1","username":"alice","text":"hi"}`))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response.StatusCode
}

func stats(t *testing.T, a *app) (s usercache.Stats) {
	t.Helper()
	defer http.DefaultClient.CloseIdleConnections()
	response, err := http.Get(a.server.AdminURL() + "/admin/cache/stats")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

// The service as it is wired: users outlive it, and over PostgreSQL it starts
// warm with those who were active before.
func TestServeTwice(t *testing.T) {
	unset(t)
	t.Setenv("USER_CACHE_SIZE", "77")
	for name, c := range map[string]struct {
		url  string
		warm uint64
	}{
		"SQLite":     {"", 0},
		"PostgreSQL": {pgtest.DSN(t), 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := settings{
				addr: "127.0.0.1:0", adminAddr: "127.0.0.1:0", databaseURL: c.url,
				file: filepath.Join(t.TempDir(), "users.db"), logger: slog.New(slog.DiscardHandler),
			}
			for run := range 2 {
				a, err := start(t.Context(), s)
				if err != nil {
					t.Fatal(err)
				}
				if a.store.Kind != name {
					t.Errorf("the database is %s", a.store.Kind)
				}
				if run == 1 {
					if got := stats(t, a); got.Size.Found != c.warm || got.Capacity != 77 {
						t.Errorf("after the second start: %+v", got)
					}
				}
				if status := message(t, a); status != http.StatusOK {
					t.Errorf("status %d", status)
				}
				got := stats(t, a)
				if run == 1 && (got.TotalHits() != c.warm || got.TotalMisses() != 1-c.warm || got.Invalidations.Upsert != 0) {
					t.Errorf("the known user's message: %+v", got)
				}
				if err := a.stop(context.Background()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// serve ends when its context does, without an error, and logs no names.
func TestServeStops(t *testing.T) {
	unset(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	done := make(chan int, 1)
	go func() {
		code := run(ctx, []string{"serve", "-addr", "127.0.0.1:0", "-admin-addr", "127.0.0.1:0", "-db", filepath.Join(t.TempDir(), "users.db")}, io.Discard, in)
		in.Close()
		done <- code
	}()
	var log []string
	for d := json.NewDecoder(out); ; {
		var line struct{ Msg, Messages string }
		if err := d.Decode(&line); err != nil {
			break
		}
		log = append(log, line.Msg)
		if line.Msg == "serving" {
			response, err := http.Get(line.Messages + "/healthz")
			if err != nil {
				t.Error(err)
			} else if response.Body.Close(); response.StatusCode != http.StatusOK {
				t.Errorf("healthz: %s", response.Status)
			}
			http.DefaultClient.CloseIdleConnections()
			cancel()
		}
	}
	if code := <-done; code != 0 || strings.Join(log, ", ") != "serving, stopping, stopped" {
		t.Errorf("exit code %d, log %q", code, log)
	}
}
