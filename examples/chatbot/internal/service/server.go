package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/metric"
)

// Config says what a server serves.
type Config struct {
	Addr      string       // where messages arrive, such as :8080
	AdminAddr string       // where the administration listens; "" for nowhere
	Bot       Bot          // required
	Admin     http.Handler // required with an AdminAddr
	Meters    metric.MeterProvider
	Logger    *slog.Logger // required
}

// Server is a service that runs. Make one with [Start].
type Server struct {
	messages, admin *listener
	logger          *slog.Logger
	failed          chan error
	serving         sync.WaitGroup
}

// listener is an HTTP server on its socket.
type listener struct {
	http   *http.Server
	socket net.Listener
}

func listen(addr string, h http.Handler, logger *slog.Logger) (*listener, error) {
	socket, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return &listener{
		socket: socket,
		http: &http.Server{
			Handler:           h,
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       10 * time.Second,
			WriteTimeout:      15 * time.Second,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    16 << 10,
			ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelWarn),
		},
	}, nil
}

// Start listens and serves until [Server.Shutdown]. If it returns an error it
// leaves nothing behind.
func Start(c Config) (*Server, error) {
	messages, err := listen(c.Addr, otelhttp.NewHandler(c.Bot.Handler(c.Logger), "chatbot", otelhttp.WithMeterProvider(c.Meters)), c.Logger)
	if err != nil {
		return nil, fmt.Errorf("service: %w", err)
	}
	s := &Server{messages: messages, logger: c.Logger, failed: make(chan error, 2)}
	if c.AdminAddr != "" {
		if s.admin, err = listen(c.AdminAddr, c.Admin, c.Logger); err != nil {
			return nil, fmt.Errorf("service: administration: %w", errors.Join(err, messages.socket.Close()))
		}
		s.serve(s.admin)
	}
	s.serve(s.messages)
	return s, nil
}

func (s *Server) serve(l *listener) {
	s.serving.Go(func() {
		if err := l.http.Serve(l.socket); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- fmt.Errorf("service: %w", err)
		}
	})
}

// URL is where messages arrive.
func (s *Server) URL() string { return "http://" + s.messages.socket.Addr().String() }

// AdminURL is where the administration listens; "" without one.
func (s *Server) AdminURL() string {
	if s.admin == nil {
		return ""
	}
	return "http://" + s.admin.socket.Addr().String()
}

// Failed yields an error if a listener fails before Shutdown.
func (s *Server) Failed() <-chan error { return s.failed }

// Shutdown refuses new requests and waits for those that are being answered:
// first messages, then the administration, so that the last figures can be
// read. When ctx ends it breaks off what is left and returns an error.
func (s *Server) Shutdown(ctx context.Context) error {
	var failed error
	for _, l := range []*listener{s.messages, s.admin} {
		if l == nil {
			continue
		}
		if err := l.http.Shutdown(ctx); err != nil {
			failed = errors.Join(failed, fmt.Errorf("service: requests were broken off: %w", err), l.http.Close())
		}
	}
	s.serving.Wait()
	return failed
}
