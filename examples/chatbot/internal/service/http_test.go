package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/osse101/usercache/examples/chatbot/internal/service"
	"github.com/osse101/usercache/repositorytest"
)

// fail makes one method of a Memory fail.
func fail(method string, err error) func(context.Context, string) error {
	return func(_ context.Context, called string) error {
		if called == method {
			return err
		}
		return nil
	}
}

const good = `{"platform":"twitch","platform_id":"id-4711","username":"alice","text":"hi"}`

func post(h http.Handler, contentType, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/message/handle", strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestMessageHandle(t *testing.T) {
	h := service.Bot{Users: repositorytest.NewMemory()}.Handler(slog.New(slog.DiscardHandler))
	w := post(h, "application/json; charset=utf-8", good)
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json; charset=utf-8" {
		t.Fatalf("%d %v: %s", w.Code, w.Header(), w.Body)
	}
	var answer struct {
		User struct {
			ID, Username string
			Accounts     []struct{ Platform, ID, Username string }
		}
		Registered, Renamed bool
		Text                string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	if answer.User.ID == "" || answer.User.Username != "alice" || len(answer.User.Accounts) != 1 ||
		answer.User.Accounts[0].ID != "id-4711" || !answer.Registered || answer.Renamed || answer.Text != "Welcome, alice!" {
		t.Errorf("%s", w.Body)
	}
}

// Every bad request has its status and an error in JSON that says what is
// allowed, and changes nothing.
func TestBadRequests(t *testing.T) {
	const json = "application/json"
	long := strings.Repeat("x", 256)
	for name, c := range map[string]struct {
		contentType, body string
		status            int
		says              string
	}{
		"no content type":   {"", good, 415, "application/json"},
		"another type":      {"text/plain", good, 415, "application/json"},
		"no body":           {json, "", 400, "one JSON object"},
		"no JSON":           {json, "hello", 400, "one JSON object"},
		"an array":          {json, "[]", 400, "one JSON object"},
		"two objects":       {json, good + good, 400, "something follows"},
		"trailing garbage":  {json, good + "]", 400, "one JSON object"},
		"an unknown field":  {json, `{"channel":"twitch"}`, 400, "channel"},
		"no platform":       {json, `{"platform_id":"1","username":"a"}`, 400, "platform has 0 bytes: must have 1 to 255"},
		"no platform ID":    {json, `{"platform":"p","username":"a"}`, 400, "platform_id has 0 bytes"},
		"no username":       {json, `{"platform":"p","platform_id":"1"}`, 400, "username has 0 bytes"},
		"a long username":   {json, `{"platform":"p","platform_id":"1","username":"` + long + `"}`, 400, "username has 256 bytes"},
		"NUL in a username": {json, `{"platform":"p","platform_id":"1","username":"a\u0000"}`, 400, "username holds a NUL"},
		"too much":          {json, `{"text":"` + strings.Repeat("x", 64<<10) + `"}`, 413, "65536 bytes"},
		"too much after it": {json, good + strings.Repeat(" ", 64<<10), 413, "65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			repo := repositorytest.NewMemory()
			repo.Before = func(_ context.Context, method string) error {
				t.Errorf("%s is called", method)
				return nil
			}
			w := post(service.Bot{Users: repo}.Handler(slog.New(slog.DiscardHandler)), c.contentType, c.body)
			checkError(t, w, c.status, c.says)
		})
	}
}

func checkError(t *testing.T, w *httptest.ResponseRecorder, status int, says string) {
	t.Helper()
	var answer map[string]string
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatalf("%d %q: %v", w.Code, w.Body, err)
	}
	if w.Code != status || len(answer) != 1 || !strings.Contains(answer["error"], says) {
		t.Errorf("got %d %v, want %d and %q", w.Code, answer, status, says)
	}
}

func TestMethodsAndPaths(t *testing.T) {
	repo := repositorytest.NewMemory()
	h := service.Bot{Users: repo}.Handler(slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{http.MethodGet, "/healthz", 200, ""},
		{http.MethodHead, "/healthz", 200, ""},
		{http.MethodPost, "/healthz", 405, http.MethodGet},
		{http.MethodGet, "/message/handle", 405, http.MethodPost},
		{http.MethodDelete, "/message/handle", 405, http.MethodPost},
		{http.MethodGet, "/admin/cache/stats", 404, ""},
		{http.MethodGet, "/metrics", 404, ""},
		{http.MethodGet, "/", 404, ""},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.status || w.Header().Get("Allow") != c.allow {
			t.Errorf("%s %s: %d, Allow %q", c.method, c.path, w.Code, w.Header().Get("Allow"))
		}
	}
}

// A failing repository is the service's 503, and its text, which may name
// users, is neither shown nor logged.
func TestRepositoryFailure(t *testing.T) {
	repo := repositorytest.NewMemory()
	repo.Before = fail("GetUserByPlatformID", errors.New("duplicate key alice-secret"))
	var log bytes.Buffer
	h := service.Bot{Users: repo}.Handler(slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	w := post(h, "application/json", good)
	checkError(t, w, http.StatusServiceUnavailable, "try again")
	if w.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if !strings.Contains(log.String(), "message failed") {
		t.Errorf("not logged: %s", &log)
	}
	repo.Before = nil
	if w := post(h, "application/json", good); w.Code != http.StatusOK {
		t.Errorf("after the failure: %d", w.Code)
	}
	for _, personal := range []string{"alice", "id-4711", "secret"} {
		if strings.Contains(log.String(), personal) {
			t.Errorf("the log names %q: %s", personal, &log)
		}
	}
}
