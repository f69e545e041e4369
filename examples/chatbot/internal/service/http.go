package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"time"
)

const (
	maxBody        = 64 << 10 // bytes
	maxField       = 255      // bytes of a name or an ID
	messageTimeout = 5 * time.Second
)

// Handler serves the bot:
//
//	POST /message/handle  a Message as JSON; the answer is a Reply
//	GET  /healthz         200 while the process serves
//
// Errors are JSON objects with a field "error". What goes wrong behind the
// service is 503, and its text is neither shown nor logged, since the texts of
// database drivers hold names and IDs.
func (b Bot) Handler(logger *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	handle(mux, http.MethodPost, "/message/handle", func(w http.ResponseWriter, r *http.Request) {
		b.serveMessage(w, r, logger)
	})
	handle(mux, http.MethodGet, "/healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	return mux
}

// serveMessage takes a message, has it answered and logs how that went.
func (b Bot) serveMessage(w http.ResponseWriter, r *http.Request, logger *slog.Logger) {
	m, status, err := readMessage(w, r)
	if err != nil {
		writeError(w, status, err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), messageTimeout)
	defer cancel()
	began := time.Now()
	reply, err := b.Handle(ctx, m)
	if err != nil {
		logger.ErrorContext(ctx, "message failed",
			slog.String("error_type", fmt.Sprintf("%T", err)), slog.Duration("took", time.Since(began)))
		w.Header().Set("Retry-After", "1")
		writeError(w, http.StatusServiceUnavailable, "the users cannot be reached; try again")
		return
	}
	logger.DebugContext(ctx, "message handled",
		slog.Bool("registered", reply.Registered), slog.Bool("renamed", reply.Renamed), slog.Duration("took", time.Since(began)))
	writeJSON(w, http.StatusOK, reply)
}

// readMessage reads and checks a message. With an error comes the status that
// it deserves.
func readMessage(w http.ResponseWriter, r *http.Request) (m Message, status int, err error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return m, http.StatusUnsupportedMediaType, errors.New("Content-Type must be application/json")
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	err = d.Decode(&m)
	if err == nil {
		if _, err = d.Token(); err == nil {
			err = errors.New("something follows the message")
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return m, http.StatusRequestEntityTooLarge, fmt.Errorf("the body must be at most %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return m, http.StatusBadRequest, fmt.Errorf("the body must be one JSON object with platform, platform_id, username and text: %w", err)
	}
	for _, f := range []struct{ name, value string }{
		{"platform", m.Platform}, {"platform_id", m.PlatformID}, {"username", m.Username},
	} {
		switch {
		case f.value == "" || len(f.value) > maxField:
			return m, http.StatusBadRequest, fmt.Errorf("%s has %d bytes: must have 1 to %d", f.name, len(f.value), maxField)
		case strings.ContainsRune(f.value, 0):
			return m, http.StatusBadRequest, fmt.Errorf("%s holds a NUL: must not", f.name)
		}
	}
	return m, 0, nil
}

// handle registers a handler for one method of a path. Other methods of that
// path, and paths that nothing is registered for, are errors in JSON too.
func handle(mux *http.ServeMux, method, path string, h http.HandlerFunc) {
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method && (method != http.MethodGet || r.Method != http.MethodHead) {
			w.Header().Set("Allow", method)
			writeError(w, http.StatusMethodNotAllowed, fmt.Sprintf("%s must be called by %s", path, method))
			return
		}
		h(w, r)
	})
}

func writeError(w http.ResponseWriter, status int, text string) {
	writeJSON(w, status, map[string]string{"error": text})
}

// writeJSON answers with v. A connection that fails under the answer is the
// client's to notice.
func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, `{"error":"the answer cannot be encoded"}`, http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}
