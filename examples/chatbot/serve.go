package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/examples/chatbot/internal/service"
	"github.com/osse101/usercache/examples/chatbot/internal/store"
)

const (
	recordEvery     = time.Minute    // between two records of who was active
	warmFrom        = 24 * time.Hour // of activity, the cache is warmed from
	warmTimeout     = 10 * time.Second
	shutdownTimeout = 20 * time.Second
)

// serve runs the service until ctx ends.
func serve(ctx context.Context, args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("chatbot serve", flag.ContinueOnError)
	addr := flags.String("addr", ":8080", "`address` for messages")
	adminAddr := flags.String("admin-addr", "127.0.0.1:8081", "`address` for metrics and administration, not for strangers")
	file := flags.String("db", "chatbot.db", "SQLite `file`, if DATABASE_URL is not set")
	level := flags.String("log-level", "info", "debug, info, warn or error")
	if err := parse(flags, args, stderr); err != nil {
		return err
	}
	var logLevel slog.Level
	if err := logLevel.UnmarshalText([]byte(*level)); err != nil {
		return misuse{fmt.Errorf("-log-level %q: must be debug, info, warn or error", *level)}
	}
	logger := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: logLevel}))
	a, err := start(ctx, settings{
		addr: *addr, adminAddr: *adminAddr, databaseURL: os.Getenv("DATABASE_URL"), file: *file, logger: logger,
	})
	if err != nil {
		return err
	}
	logger.Info("serving", slog.String("messages", a.server.URL()), slog.String("admin", a.server.AdminURL()), slog.String("database", a.store.Kind))
	var failed error
	select {
	case <-ctx.Done():
		logger.Info("stopping")
	case failed = <-a.server.Failed():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := errors.Join(failed, a.stop(stopping)); err != nil {
		return err
	}
	logger.Info("stopped")
	return nil
}

// settings say what the service is to be.
type settings struct {
	addr, adminAddr, databaseURL, file string
	logger                             *slog.Logger
}

// app is the service with all that it depends on.
type app struct {
	store    *store.Store
	server   *service.Server
	teardown []func(context.Context) error // what to end, last first
}

// start wires the dependencies. This is the place where the cache takes the
// place of the repository.
func start(ctx context.Context, s settings) (_ *app, err error) {
	a := &app{}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.stop(context.WithoutCancel(ctx)))
		}
	}()
	cfg, err := usercache.ConfigFromEnv(ctx)
	if err != nil {
		return nil, err
	}
	meters, metrics, err := service.NewMetrics()
	if err != nil {
		return nil, err
	}
	a.atEnd(meters.Shutdown)
	if a.store, err = store.Open(ctx, s.databaseURL, s.file); err != nil {
		return nil, err
	}
	a.atEnd(func(context.Context) error { return a.store.Close() })
	users, err := usercache.New(a.store.Users, usercache.UserSchema(),
		usercache.WithConfig(cfg),
		usercache.WithPreciseUsernames(),
		usercache.WithRejected(a.store.Rejected),
		usercache.WithMeterProvider(meters),
		usercache.WithLogger(s.logger),
	)
	if err != nil {
		return nil, err
	}
	a.atEnd(func(context.Context) error { return users.Close() })

	bot := service.Bot{Users: users}
	if a.store.Activity != nil {
		warm(ctx, users, a.store, cfg, s.logger)
		activity := service.NewActivity(a.store.Activity, recordEvery, s.logger)
		bot.Seen = activity.Seen
		recording, stop := context.WithCancel(context.WithoutCancel(ctx))
		done := make(chan struct{})
		go func() {
			defer close(done)
			activity.Run(recording)
		}()
		a.atEnd(func(ctx context.Context) error {
			stop()
			<-done
			return activity.Record(ctx)
		})
	}
	a.server, err = service.Start(service.Config{
		Addr: s.addr, AdminAddr: s.adminAddr, Bot: bot, Admin: service.AdminHandler(users, metrics),
		Meters: meters, Logger: s.logger,
	})
	if err != nil {
		return nil, err
	}
	a.atEnd(a.server.Shutdown)
	return a, nil
}

// atEnd has something ended by stop, before everything that was there before.
func (a *app) atEnd(end func(context.Context) error) { a.teardown = append(a.teardown, end) }

// stop ends everything, the server first.
func (a *app) stop(ctx context.Context) error {
	var failed error
	for i := len(a.teardown) - 1; i >= 0; i-- {
		failed = errors.Join(failed, a.teardown[i](ctx))
	}
	return failed
}

// warm loads who was active lately. What goes wrong makes a cold start, not
// a failed one.
func warm(ctx context.Context, users *usercache.CachedRepository[usercache.User], s *store.Store, cfg usercache.Config, logger *slog.Logger) {
	if !cfg.Enabled {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, warmTimeout)
	defer cancel()
	lookups, err := s.Activity.RecentlyActive(ctx, time.Now().Add(-warmFrom), cfg.Size)
	var report usercache.WarmReport
	if err == nil {
		report, err = users.Warm(ctx, lookups)
	}
	if err != nil {
		logger.Warn("the cache starts cold", slog.String("error_type", fmt.Sprintf("%T", err)))
	}
	logger.Info("warmed", slog.Int("warmed", report.Warmed), slog.Int("absent", report.Absent),
		slog.Int("failed", report.Failed), slog.Int("skipped", report.Skipped))
}
