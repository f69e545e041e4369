package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/examples/chatbot/internal/service"
	"github.com/osse101/usercache/repositorytest"
)

var discard = slog.New(slog.DiscardHandler)

// running is a service over a Memory, with its administration.
type running struct {
	*service.Server
	repo *repositorytest.Memory
	t    *testing.T
}

func start(t *testing.T, prepare func(*repositorytest.Memory)) running {
	t.Helper()
	meters, metrics, err := service.NewMetrics()
	if err != nil {
		t.Fatal(err)
	}
	repo := repositorytest.NewMemory()
	prepare(repo)
	users := cached(t, repo, usercache.WithMeterProvider(meters))
	s, err := service.Start(service.Config{
		Addr: "127.0.0.1:0", AdminAddr: "127.0.0.1:0", Bot: service.Bot{Users: users},
		Admin: service.AdminHandler(users, metrics), Meters: meters, Logger: discard,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := errors.Join(s.Shutdown(context.Background()), meters.Shutdown(context.Background())); err != nil {
			t.Error(err)
		}
	})
	return running{s, repo, t}
}

// call makes a request and returns status and body.
func (r running) call(method, url, body string) (int, string) {
	r.t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}

// The names under which Prometheus sees the cache are fixed: dashboards and
// alerts are built on them. This goes all the way through the exporter.
func TestPrometheusNames(t *testing.T) {
	s := start(t, func(*repositorytest.Memory) {})
	for range 5 {
		if status, body := s.call("POST", s.URL()+"/message/handle", good); status != 200 {
			t.Fatal(status, body)
		}
	}
	status, text := s.call("GET", s.AdminURL()+"/metrics", "")
	if status != 200 {
		t.Fatal(status, text)
	}
	var families []string
	values := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if f := strings.Fields(line); len(f) == 4 && f[1] == "TYPE" && strings.HasPrefix(f[2], "user_cache_") {
			families = append(families, f[2]+" "+f[3])
		}
		if series, value, ok := strings.Cut(line, "} "); ok {
			values[withoutScope(series+"}")] = value
		}
	}
	slices.Sort(families)
	want := []string{
		"user_cache_bypass_total counter",
		"user_cache_capacity gauge",
		"user_cache_coalesced_total counter",
		"user_cache_eviction_total counter",
		"user_cache_hit_rate gauge",
		"user_cache_hit_total counter",
		"user_cache_invalidation_total counter",
		"user_cache_miss_total counter",
		"user_cache_refused_fill_total counter",
		"user_cache_repository_duration_seconds histogram",
		"user_cache_size gauge",
	}
	if !slices.Equal(families, want) {
		t.Errorf("metrics are\n%s\nwant\n%s", strings.Join(families, "\n"), strings.Join(want, "\n"))
	}
	if strings.Contains(text, "_ratio") {
		t.Error("there is a name with _ratio")
	}
	for series, value := range map[string]string{
		`user_cache_hit_total{answer="found",cache="users",lookup="platform_id"}`:                                                             "4",
		`user_cache_hit_total{answer="not_found",cache="users",lookup="platform_id"}`:                                                         "0",
		`user_cache_miss_total{cache="users",lookup="platform_id"}`:                                                                           "2",
		`user_cache_invalidation_total{cache="users",cause="upsert"}`:                                                                         "1",
		`user_cache_size{answer="found",cache="users"}`:                                                                                       "1",
		`user_cache_capacity{cache="users"}`:                                                                                                  "1000",
		`user_cache_hit_rate{cache="users"}`:                                                                                                  "0.6666666666666666",
		`user_cache_repository_duration_seconds_count{cache="users",operation="UpsertUser",outcome="ok"}`:                                     "1",
		`http_server_request_duration_seconds_count{http_request_method="POST",http_response_status_code="200",http_route="/message/handle"}`: "5",
	} {
		if got, ok := values[series]; !ok || got != value {
			t.Errorf("%s is %q, want %q", series, got, value)
		}
	}
	// The bounds of the default histogram are made for milliseconds.
	if _, ok := values[`user_cache_repository_duration_seconds_bucket{cache="users",operation="UpsertUser",outcome="ok",le="0.0001"}`]; !ok {
		t.Error("no bucket for a tenth of a millisecond")
	}
	if strings.Contains(text, "alice") || strings.Contains(text, "id-4711") || strings.Contains(text, "server_address") {
		t.Error("the metrics name users or hosts")
	}
}

// withoutScope drops the labels that name the instrumentation library.
func withoutScope(series string) string {
	name, labels, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
	kept := slices.DeleteFunc(strings.Split(labels, ","), func(l string) bool { return strings.HasPrefix(l, "otel_scope_") })
	return name + "{" + strings.Join(kept, ",") + "}"
}

func TestAdmin(t *testing.T) {
	s := start(t, func(*repositorytest.Memory) {})
	stats := func() (stats usercache.Stats) {
		t.Helper()
		status, body := s.call("GET", s.AdminURL()+"/admin/cache/stats", "")
		if status != 200 {
			t.Fatal(status, body)
		}
		if err := json.Unmarshal([]byte(body), &stats); err != nil {
			t.Fatal(err)
		}
		return stats
	}
	if got := stats(); got.Capacity != 1000 || !got.Enabled || got.Size.Found != 0 {
		t.Errorf("at first: %+v", got)
	}
	s.call("POST", s.URL()+"/message/handle", good)
	if got := stats(); got.Size.Found != 1 || got.TotalMisses() != 2 {
		t.Errorf("after a message: %+v", got)
	}
	if status, _ := s.call("GET", s.AdminURL()+"/admin/cache/flush", ""); status != http.StatusMethodNotAllowed {
		t.Errorf("GET flushes: %d", status)
	}
	if status, _ := s.call("POST", s.AdminURL()+"/admin/cache/flush", ""); status != http.StatusNoContent {
		t.Errorf("flush: %d", status)
	}
	if got := stats(); got.Size.Found != 0 || got.Invalidations.Flush != 1 {
		t.Errorf("after the flush: %+v", got)
	}
	if status, _ := s.call("POST", s.AdminURL()+"/message/handle", good); status != http.StatusNotFound {
		t.Errorf("the administration takes messages: %d", status)
	}
}

// A page from elsewhere, shown by a browser on the same machine, cannot flush.
func TestAdminRefusesOtherOrigins(t *testing.T) {
	s := start(t, func(*repositorytest.Memory) {})
	request, err := http.NewRequest(http.MethodPost, s.AdminURL()+"/admin/cache/flush", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Sec-Fetch-Site", "cross-site")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("got %s", response.Status)
	}
}

// Shutdown lets a message that is being answered finish, and breaks it off
// when its context ends.
func TestShutdown(t *testing.T) {
	for name, patient := range map[string]bool{"patient": true, "impatient": false} {
		t.Run(name, func(t *testing.T) {
			entered, release := make(chan struct{}), make(chan struct{})
			s := start(t, func(m *repositorytest.Memory) {
				m.Before = func(ctx context.Context, method string) error {
					if method == "UpsertUser" {
						close(entered)
						<-release
					}
					return nil
				}
			})
			type answer struct {
				status int
				err    error
			}
			answered := make(chan answer, 1)
			go func() {
				response, err := http.Post(s.URL()+"/message/handle", "application/json", strings.NewReader(good))
				if err != nil {
					answered <- answer{err: err}
					return
				}
				response.Body.Close()
				answered <- answer{status: response.StatusCode}
			}()
			<-entered
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			down := make(chan error, 1)
			go func() { down <- s.Shutdown(ctx) }()
			// The port is closed before requests are waited for.
			for {
				conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL(), "http://"))
				if err != nil {
					break
				}
				conn.Close()
			}
			if patient {
				close(release)
				if err := <-down; err != nil {
					t.Error(err)
				}
				if a := <-answered; a.err != nil || a.status != http.StatusOK {
					t.Errorf("the message in flight: %+v", a)
				}
				return
			}
			cancel()
			if err := <-down; !errors.Is(err, context.Canceled) {
				t.Errorf("Shutdown: %v", err)
			}
			if a := <-answered; a.err == nil {
				t.Errorf("the message was answered: %d", a.status)
			}
			close(release)
		})
	}
}

func TestStartErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := service.Config{
		Addr: taken.Addr().String(), Bot: service.Bot{Users: repositorytest.NewMemory()},
		Meters: noop.NewMeterProvider(), Logger: discard,
	}
	if _, err := service.Start(cfg); err == nil || !strings.Contains(err.Error(), cfg.Addr) {
		t.Errorf("an address in use: %v", err)
	}
	cfg.Addr, cfg.AdminAddr, cfg.Admin = "127.0.0.1:0", "127.0.0.1:no-such-port", http.NotFoundHandler()
	if _, err := service.Start(cfg); err == nil || !strings.Contains(err.Error(), "administration") {
		t.Errorf("a bad administration address: %v", err)
	}
}
