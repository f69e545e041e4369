package usercache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/repositorytest"
)

// traced is a cache over a Memory, and what it has recorded.
func traced(t *testing.T) (*cache, *repositorytest.Memory, *tracetest.SpanRecorder, trace.Tracer) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	repo := repositorytest.NewMemory()
	c, err := usercache.New(repo, usercache.UserSchema(), usercache.WithTracerProvider(provider), usercache.WithName("mine"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, repo, spans, provider.Tracer("test")
}

// describe is a span in one line.
func describe(s sdktrace.ReadOnlySpan) string {
	var attrs []string
	for _, a := range s.Attributes() {
		attrs = append(attrs, string(a.Key)+"="+a.Value.String())
	}
	slices.Sort(attrs)
	line := fmt.Sprintf("%s %s %s [%s]", s.Name(), s.SpanKind(), s.Status().Code, strings.Join(attrs, " "))
	if len(s.Events()) > 0 || s.Status().Description != "" {
		line += fmt.Sprintf(" and says %q %v", s.Status().Description, s.Events())
	}
	return line
}

func TestSpans(t *testing.T) {
	c, repo, spans, tracer := traced(t)
	broken := errors.New("no table for secret")
	fails := func(context.Context, string) error { return fmt.Errorf("wrapped: %w", broken) }
	u := user{Username: "ann", Accounts: []usercache.Account{{Platform: "tw", ID: "1"}}}
	var last int
	for _, step := range []struct {
		what   string
		traced bool // the caller's own span records
		do     func(ctx context.Context) error
		want   []string // in the order in which they end
	}{
		{"a write", false, func(ctx context.Context) error { return c.UpsertUser(ctx, &u) }, []string{
			"repository.UpsertUser client Unset [cache=mine]", "usercache.UpsertUser internal Unset [cache=mine]",
		}},
		{"a miss", false, func(ctx context.Context) error { return get(c.GetUserByID(ctx, u.ID)) }, []string{
			"repository.GetUserByID client Unset [cache=mine]", "usercache.GetUserByID internal Unset [cache=mine usercache.outcome=miss]",
		}},
		{"a hit", false, func(ctx context.Context) error { return get(c.GetUserByID(ctx, u.ID)) }, nil},
		{"a traced hit", true, func(ctx context.Context) error { return get(c.GetUserByID(ctx, u.ID)) }, []string{
			"usercache.GetUserByID internal Unset [cache=mine usercache.outcome=hit]",
		}},
		{"nobody", false, func(ctx context.Context) error { return absent(c.GetUserByPlatformID(ctx, "tw", "2")) }, []string{
			"repository.GetUserByPlatformID client Unset [cache=mine]", "usercache.GetUserByPlatformID internal Unset [cache=mine usercache.outcome=miss]",
		}},
		{"nobody again", true, func(ctx context.Context) error { return absent(c.GetUserByPlatformID(ctx, "tw", "2")) }, []string{
			"usercache.GetUserByPlatformID internal Unset [cache=mine usercache.outcome=not_found_hit]",
		}},
		{"a bypass", false, func(ctx context.Context) error { return get(c.GetUserByID(usercache.Fresh(ctx), u.ID)) }, []string{
			"repository.GetUserByID client Unset [cache=mine]", "usercache.GetUserByID internal Unset [cache=mine usercache.outcome=bypass]",
		}},
		{"a write to nobody", false, func(ctx context.Context) error { return absent(nil, c.DeleteUser(ctx, "x")) }, []string{
			"repository.DeleteUser client Unset [cache=mine]", "usercache.DeleteUser internal Unset [cache=mine]",
		}},
		{"a failing lookup", false, func(ctx context.Context) error {
			repo.Before = fails
			return is(broken, get(c.GetUserByPlatformUsername(ctx, "tw", "x")))
		}, []string{
			"repository.GetUserByPlatformUsername client Error [cache=mine error.type=*errors.errorString]",
			"usercache.GetUserByPlatformUsername internal Error [cache=mine error.type=*errors.errorString usercache.outcome=miss]",
		}},
		{"a failing write", false, func(ctx context.Context) error { return is(broken, c.UpdateUser(ctx, u)) }, []string{
			"repository.UpdateUser client Error [cache=mine error.type=*errors.errorString]",
			"usercache.UpdateUser internal Error [cache=mine error.type=*errors.errorString]",
		}},
		{"a warming", false, func(ctx context.Context) error {
			repo.Before = nil
			_, err := c.Warm(ctx, []usercache.Lookup{usercache.ByPlatformID("tw", "3")})
			return err
		}, []string{
			"repository.GetUserByPlatformID client Unset [cache=mine]", "usercache.Warm internal Unset [cache=mine]",
		}},
		{"a mutation", false, func(ctx context.Context) error { return c.Mutate(ctx, func(context.Context) error { return nil }) }, []string{
			"repository.Mutate client Unset [cache=mine]", "usercache.Mutate internal Unset [cache=mine]",
		}},
	} {
		ctx := t.Context()
		if step.traced {
			var parent trace.Span
			ctx, parent = tracer.Start(ctx, "parent")
			defer parent.End()
		}
		if err := step.do(ctx); err != nil {
			t.Errorf("%s: %v", step.what, err)
		}
		ended := spans.Ended()[last:]
		last += len(ended)
		var got []string
		for _, s := range ended {
			got = append(got, describe(s))
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("%s: got\n%s\nwant\n%s", step.what, strings.Join(got, "\n"), strings.Join(step.want, "\n"))
		}
		if len(ended) == 2 && ended[0].Parent().SpanID() != ended[1].SpanContext().SpanID() {
			t.Errorf("%s: the repository's span is no child of the call's", step.what)
		}
		if step.traced && ended[0].Parent().SpanID() != trace.SpanContextFromContext(ctx).SpanID() {
			t.Errorf("%s: the span is no child of the caller's", step.what)
		}
	}
}

func get(_ *user, err error) error { return err }

func absent(_ *user, err error) error { return is(usercache.ErrUserNotFound, err) }

// is returns nil if err is the one that is wanted.
func is(want, err error) error {
	if !errors.Is(err, want) {
		return fmt.Errorf("got the error %w, want %w", err, want)
	}
	return nil
}

// The span of a lookup that shared another's load says so, and links to the
// span of that load.
func TestSpanOfSharedLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, repo, spans, _ := traced(t)
		release := make(chan struct{})
		repo.Before = func(context.Context, string) error {
			<-release
			return nil
		}
		for range 2 {
			go func() {
				if err := absent(c.GetUserByPlatformID(t.Context(), "tw", "1")); err != nil {
					t.Error(err)
				}
			}()
			synctest.Wait()
		}
		close(release)
		synctest.Wait()
		byOutcome := map[string]sdktrace.ReadOnlySpan{}
		for _, s := range spans.Ended() {
			byOutcome[describe(s)] = s
		}
		const own, shared = "usercache.GetUserByPlatformID internal Unset [cache=mine usercache.outcome=miss]",
			"usercache.GetUserByPlatformID internal Unset [cache=mine usercache.outcome=coalesced]"
		load := byOutcome["repository.GetUserByPlatformID client Unset [cache=mine]"]
		if len(byOutcome) != 3 || load == nil || byOutcome[own] == nil || byOutcome[shared] == nil {
			t.Fatalf("the spans are %v", slices.Sorted(maps.Keys(byOutcome)))
		}
		links := byOutcome[shared].Links()
		if len(links) != 1 || !links[0].SpanContext.Equal(load.SpanContext()) {
			t.Errorf("links %v, want one to %v", links, load.SpanContext())
		}
		if len(byOutcome[own].Links()) != 0 {
			t.Error("the lookup that loaded links somewhere")
		}
	})
}

// Whatever happens, no ID, name or text of an error leaves the cache through
// metrics, spans or logs.
func TestNoPersonalData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const secret = "s3cr3t"
		in, spans := newInstruments(), tracetest.NewSpanRecorder()
		var log bytes.Buffer
		repo := repositorytest.NewMemory()
		c, err := usercache.New(repo, usercache.UserSchema(), usercache.WithMeterProvider(in),
			usercache.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))),
			usercache.WithLogger(slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ctx, cancel := context.WithCancel(t.Context())
		calls := func() {
			u := user{ID: secret, Username: secret, Accounts: []usercache.Account{{Platform: secret, ID: secret, Username: secret}}}
			for range 2 {
				_, _ = c.GetUserByID(ctx, secret)
				_, _ = c.GetUserByPlatformID(ctx, secret, secret)
				_, _ = c.GetUserByPlatformUsername(ctx, secret, secret)
			}
			_ = c.UpsertUser(ctx, &u)
			_ = c.UpdateUser(ctx, u)
			_ = c.MergeUsers(ctx, secret, secret+"2", u)
			_ = c.Mutate(ctx, func(context.Context) error { return errors.New(secret) }, usercache.Identity{UserID: secret})
			_ = c.DeleteUser(ctx, secret)
			_, _ = c.Warm(ctx, []usercache.Lookup{usercache.ByID(secret)})
		}
		calls()
		repo.Before = func(context.Context, string) error { return errors.New(secret) }
		calls()
		<-time.After(time.Minute) // fences come down

		// A panic that has nobody left to go to.
		entered := make(chan struct{})
		repo.Before = func(ctx context.Context, _ string) error {
			close(entered)
			<-ctx.Done()
			panic(secret)
		}
		go func() { _, _ = c.GetUserByID(ctx, secret) }()
		<-entered
		cancel()
		synctest.Wait()
		if !strings.Contains(log.String(), `"cache":"users","panic_type":"string"`) {
			t.Errorf("the panic is not logged: %s", &log)
		}

		told := log.String()
		for _, s := range spans.Ended() {
			told += describe(s) + fmt.Sprint(s.Links(), s.Events(), s.Status())
		}
		if n := len(spans.Ended()); n < 20 {
			t.Errorf("only %d spans", n)
		}
		for name, m := range in.collect(t) {
			told += fmt.Sprint(name, m)
		}
		if strings.Contains(strings.ToLower(told), secret) {
			t.Errorf("it tells: %s", told)
		}
	})
}
