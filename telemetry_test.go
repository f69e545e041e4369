package usercache_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	nooptrace "go.opentelemetry.io/otel/trace/noop"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/repositorytest"
)

// instruments is a meter provider and its reader.
type instruments struct {
	*sdkmetric.MeterProvider
	reader *sdkmetric.ManualReader
}

func newInstruments() instruments {
	r := sdkmetric.NewManualReader()
	return instruments{sdkmetric.NewMeterProvider(sdkmetric.WithReader(r)), r}
}

// collect returns all metrics of the cache by name.
func (i instruments) collect(t *testing.T) map[string]metricdata.Metrics {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := i.reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	byName := map[string]metricdata.Metrics{}
	for _, scope := range all.ScopeMetrics {
		if scope.Scope.Name != "github.com/osse101/usercache" {
			t.Errorf("metrics of the scope %q", scope.Scope.Name)
		}
		for _, m := range scope.Metrics {
			byName[m.Name] = m
		}
	}
	return byName
}

// points returns the values of a metric by their attributes.
func points(t *testing.T, m metricdata.Metrics) map[string]float64 {
	t.Helper()
	values := map[string]float64{}
	at := func(set attribute.Set, v float64) { values[set.Encoded(attribute.DefaultEncoder())] = v }
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			at(p.Attributes, float64(p.Value))
		}
	case metricdata.Gauge[int64]:
		for _, p := range data.DataPoints {
			at(p.Attributes, float64(p.Value))
		}
	case metricdata.Gauge[float64]:
		for _, p := range data.DataPoints {
			at(p.Attributes, p.Value)
		}
	case metricdata.Histogram[float64]:
		for _, p := range data.DataPoints {
			at(p.Attributes, float64(p.Count))
		}
	default:
		t.Errorf("%s is a %T", m.Name, m.Data)
	}
	return values
}

// everything makes each thing that is counted happen, a known number of times,
// on a cache of two answers. It runs in a synctest bubble.
func everything(t *testing.T, opts ...usercache.Option) *cache {
	ctx := context.Background()
	repo := repositorytest.NewMemory()
	var before func(method string) error
	repo.Before = func(_ context.Context, method string) error {
		if before != nil {
			return before(method)
		}
		return nil
	}
	opts = append([]usercache.Option{usercache.WithSize(2), usercache.WithPreciseUsernames()}, opts...)
	c, err := usercache.New(repo, usercache.UserSchema(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	people := map[string]*user{}
	for _, name := range []string{"ann", "ben", "cat"} {
		u := &user{Username: name, Accounts: []usercache.Account{{Platform: "tw", ID: name, Username: name}}}
		if err := repo.UpsertUser(ctx, u); err != nil {
			t.Fatal(err)
		}
		people[name] = u
	}
	get := func(ctx context.Context, l func(context.Context) (*user, error), nobody bool) {
		t.Helper()
		if _, err := l(ctx); errors.Is(err, usercache.ErrUserNotFound) != nobody || err != nil && !nobody {
			t.Errorf("a lookup: %v", err)
		}
	}
	account := func(id string) func(context.Context) (*user, error) {
		return func(ctx context.Context) (*user, error) { return c.GetUserByPlatformID(ctx, "tw", id) }
	}
	named := func(name string) func(context.Context) (*user, error) {
		return func(ctx context.Context) (*user, error) { return c.GetUserByPlatformUsername(ctx, "tw", name) }
	}
	id := func(name string) func(context.Context) (*user, error) {
		return func(ctx context.Context) (*user, error) { return c.GetUserByID(ctx, people[name].ID) }
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}

	get(ctx, account("ann"), false) // miss
	get(ctx, account("ann"), false) // hit
	get(ctx, named("nobody"), true) // miss
	get(ctx, named("nobody"), true) // hit, of a not-found answer
	get(ctx, named("nobody"), true)
	get(ctx, id("ann"), false)                                                  // miss
	get(ctx, account("ben"), false)                                             // miss, evicts
	get(usercache.Fresh(ctx), id("ann"), false)                                 // bypass
	get(ctx, named(strings.Repeat("x", 1025)), true)                            // bypass
	must(c.UpdateUser(ctx, *people["ben"]))                                     // drops one
	must(c.UpsertUser(ctx, people["ann"]))                                      // drops one
	get(ctx, account("ann"), false)                                             // miss
	must(c.MergeUsers(ctx, people["ann"].ID, people["cat"].ID, *people["ann"])) // drops two: nobody by name too
	get(ctx, account("ann"), false)                                             // miss
	get(ctx, id("ann"), false)                                                  // miss
	must(c.Mutate(ctx, func(context.Context) error {                            // drops two
		get(ctx, id("ann"), false) // bypass: fenced
		return nil
	}, usercache.Identity{UserID: people["ann"].ID}))
	get(ctx, id("ben"), false)                                 // miss
	must(c.DeleteUser(ctx, people["ben"].ID))                  // drops one
	get(ctx, id("ann"), false)                                 // miss
	c.Invalidate(usercache.Identity{UserID: people["ann"].ID}) // drops one
	get(ctx, id("ann"), false)                                 // miss
	c.Flush()                                                  // drops one
	c.SetEnabled(false)
	get(ctx, id("ann"), false) // bypass
	c.SetEnabled(true)

	// A load that a write overtakes, with another caller waiting for it.
	entered, release := make(chan struct{}), make(chan struct{})
	before = func(method string) error {
		if method == "GetUserByPlatformID" {
			before = nil
			close(entered)
			<-release
		}
		return nil
	}
	go get(ctx, account("ann"), false) // miss, refused
	<-entered
	must(c.UpdateUser(ctx, *people["ann"])) // drops nothing
	close(release)
	synctest.Wait()
	entered, release = make(chan struct{}), make(chan struct{})
	before = func(method string) error {
		close(entered)
		<-release
		return nil
	}
	go get(ctx, account("ann"), false) // miss
	<-entered
	before = nil
	go get(ctx, account("ann"), false) // miss, coalesced
	synctest.Wait()
	close(release)
	synctest.Wait()

	<-time.After(time.Hour) // one expires
	if s := c.Stats(); s.Evictions.Expired != 1 {
		t.Errorf("evictions %+v", s.Evictions)
	}
	before = func(string) error { return errors.New("broken") }
	if _, err := c.GetUserByPlatformID(ctx, "tw", "x"); err == nil { // miss
		t.Error("no error")
	}
	before = nil
	get(ctx, named("ann"), false) // miss
	return c
}

// What everything leaves, as every metric reports it.
var expected = map[string]struct {
	unit string
	kind string
	at   map[string]float64
}{
	"user_cache_hit": {"{lookup}", "counter", map[string]float64{
		"answer=found,cache=users,lookup=id": 0, "answer=found,cache=users,lookup=platform_id": 1, "answer=found,cache=users,lookup=platform_username": 0,
		"answer=not_found,cache=users,lookup=id": 0, "answer=not_found,cache=users,lookup=platform_id": 0, "answer=not_found,cache=users,lookup=platform_username": 2,
	}},
	"user_cache_miss": {"{lookup}", "counter", map[string]float64{
		"cache=users,lookup=id": 5, "cache=users,lookup=platform_id": 8, "cache=users,lookup=platform_username": 2,
	}},
	"user_cache_refused_fill": {"{load}", "counter", map[string]float64{
		"cache=users,lookup=id": 0, "cache=users,lookup=platform_id": 1, "cache=users,lookup=platform_username": 0,
	}},
	"user_cache_coalesced": {"{lookup}", "counter", map[string]float64{
		"cache=users,lookup=id": 0, "cache=users,lookup=platform_id": 1, "cache=users,lookup=platform_username": 0,
	}},
	"user_cache_bypass": {"{lookup}", "counter", map[string]float64{
		"cache=users,reason=fresh": 1, "cache=users,reason=fenced": 1, "cache=users,reason=disabled": 1, "cache=users,reason=oversized": 1, "cache=users,reason=closed": 0,
	}},
	"user_cache_invalidation": {"{entry}", "counter", map[string]float64{
		"cache=users,cause=upsert": 1, "cache=users,cause=update": 1, "cache=users,cause=delete": 1, "cache=users,cause=merge": 2,
		"cache=users,cause=mutate": 2, "cache=users,cause=explicit": 1, "cache=users,cause=remote": 0, "cache=users,cause=flush": 1,
	}},
	"user_cache_eviction": {"{entry}", "counter", map[string]float64{
		"cache=users,reason=capacity": 1, "cache=users,reason=expired": 1,
	}},
	"user_cache_size":     {"{entry}", "gauge", map[string]float64{"answer=found,cache=users": 1, "answer=not_found,cache=users": 0}},
	"user_cache_capacity": {"{entry}", "gauge", map[string]float64{"cache=users": 2}},
	// With the unit 1, Prometheus would call it user_cache_hit_rate_ratio.
	"user_cache_hit_rate": {"", "gauge", map[string]float64{"cache=users": 3. / 18}},
	"user_cache_repository_duration": {"s", "histogram", map[string]float64{
		"cache=users,operation=GetUserByID,outcome=ok": 8, "cache=users,operation=GetUserByPlatformID,outcome=ok": 6,
		"cache=users,operation=GetUserByPlatformID,outcome=error":           1,
		"cache=users,operation=GetUserByPlatformUsername,outcome=ok":        1,
		"cache=users,operation=GetUserByPlatformUsername,outcome=not_found": 2,
		"cache=users,operation=UpsertUser,outcome=ok":                       1, "cache=users,operation=UpdateUser,outcome=ok": 2, "cache=users,operation=DeleteUser,outcome=ok": 1,
		"cache=users,operation=MergeUsers,outcome=ok": 1, "cache=users,operation=Mutate,outcome=ok": 1,
	}},
}

// Every metric has its kind, unit, attributes and values, and there is no
// other.
func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newInstruments()
		c := everything(t, usercache.WithMeterProvider(in))
		got := in.collect(t)
		if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, slices.Sorted(maps.Keys(expected))) {
			t.Errorf("the metrics are %v", names)
		}
		for name, want := range expected {
			m := got[name]
			if m.Unit != want.unit || m.Description == "" || kind(m) != want.kind {
				t.Errorf("%s is a %s of %q: %q", name, kind(m), m.Unit, m.Description)
			}
			if values := points(t, m); !maps.Equal(values, want.at) {
				t.Errorf("%s is %v, want %v", name, values, want.at)
			}
		}
		duration, ok := got["user_cache_repository_duration"].Data.(metricdata.Histogram[float64])
		if !ok {
			t.Fatalf("the duration is a %T", got["user_cache_repository_duration"].Data)
		}
		want := []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
		for _, p := range duration.DataPoints {
			if !slices.Equal(p.Bounds, want) {
				t.Errorf("bounds %v", p.Bounds)
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if got := in.collect(t); len(got) != 1 || got["user_cache_repository_duration"].Name == "" {
			t.Errorf("after Close there are still %v", slices.Sorted(maps.Keys(got)))
		}
		if _, err := c.GetUserByID(t.Context(), "x"); !errors.Is(err, usercache.ErrUserNotFound) || c.Stats().Bypasses.Closed != 1 {
			t.Errorf("a lookup after Close: %v, %+v", err, c.Stats().Bypasses)
		}
	})
}

func kind(m metricdata.Metrics) string {
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		if data.IsMonotonic && data.Temporality == metricdata.CumulativeTemporality {
			return "counter"
		}
	case metricdata.Gauge[int64], metricdata.Gauge[float64]:
		return "gauge"
	case metricdata.Histogram[float64]:
		if data.Temporality == metricdata.CumulativeTemporality {
			return "histogram"
		}
	}
	return fmt.Sprintf("%T", m.Data)
}

// Stats has the figures of the metrics, under keys that administration pages
// rely on.
func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := everything(t)
		defer c.Close()
		s := c.Stats()
		if s.TotalHits() != 3 || s.TotalMisses() != 15 {
			t.Errorf("%d hits, %d misses", s.TotalHits(), s.TotalMisses())
		}
		got, err := json.MarshalIndent(s, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		const want = `{"name":"users","enabled":true,"size":{"found":1,"not_found":0},"capacity":2,"hit_rate":0.16666666666666666,"lookups":{` +
			`"id":{"hits":{"found":0,"not_found":0},"misses":5,"coalesced":0,"refused_fills":0},` +
			`"platform_id":{"hits":{"found":1,"not_found":0},"misses":8,"coalesced":1,"refused_fills":1},` +
			`"platform_username":{"hits":{"found":0,"not_found":2},"misses":2,"coalesced":0,"refused_fills":0}},` +
			`"evictions":{"capacity":1,"expired":1},` +
			`"invalidations":{"upsert":1,"update":1,"delete":1,"merge":2,"mutate":2,"explicit":1,"remote":0,"flush":1},` +
			`"bypasses":{"fresh":1,"fenced":1,"disabled":1,"oversized":1,"closed":0}}`
		var indented bytes.Buffer
		if err := json.Indent(&indented, []byte(want), "", " "); err != nil {
			t.Fatal(err)
		}
		if string(got) != indented.String() {
			t.Errorf("got %s", got)
		}
	})
}

// Before the first lookup there is no hit rate, while every other series is
// there at zero.
func TestMetricsAtTheStart(t *testing.T) {
	in := newInstruments()
	newCache(t, usercache.WithMeterProvider(in))
	got := in.collect(t)
	for name, want := range expected {
		switch name {
		case "user_cache_hit_rate", "user_cache_repository_duration":
			if _, ok := got[name]; ok {
				t.Errorf("there is a %s", name)
			}
		case "user_cache_capacity":
		default:
			for at := range want.at {
				if v, ok := points(t, got[name])[at]; !ok || v != 0 {
					t.Errorf("%s{%s} is %v, %v", name, at, v, ok)
				}
			}
		}
	}
}

// Two caches on one provider keep their figures apart.
func TestTwoCaches(t *testing.T) {
	in := newInstruments()
	a, am := newCache(t, usercache.WithMeterProvider(in), usercache.WithName("a"), usercache.WithSize(7))
	_, _ = newCache(t, usercache.WithMeterProvider(in), usercache.WithName("b"), usercache.WithSize(8))
	misses(t, a, am, byID("a1"), alice(), nil)
	got := in.collect(t)
	if v := points(t, got["user_cache_capacity"]); !maps.Equal(v, map[string]float64{"cache=a": 7, "cache=b": 8}) {
		t.Errorf("capacity %v", v)
	}
	if v := points(t, got["user_cache_miss"]); v["cache=a,lookup=id"] != 1 || v["cache=b,lookup=id"] != 0 {
		t.Errorf("misses %v", v)
	}
	if a.Stats().Name != "a" {
		t.Errorf("the name is %q", a.Stats().Name)
	}
}

// A cache that is dropped without Close is collected, and its metrics go.
func TestDroppedCacheIsCollected(t *testing.T) {
	in := newInstruments()
	func() {
		c, err := usercache.New(repositorytest.NewMemory(), usercache.UserSchema(), usercache.WithMeterProvider(in))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.GetUserByID(t.Context(), "x"); err == nil {
			t.Error("somebody was found")
		}
		if len(in.collect(t)) < 5 {
			t.Error("it does not report while it is in use")
		}
	}()
	for range 1000 {
		runtime.GC()
		if got := in.collect(t); len(got) == 1 { // the histogram's totals stay
			return
		}
	}
	t.Error("the provider keeps the cache alive")
}

// brokenMeters is a provider whose meter fails in one way.
type brokenMeters struct {
	noop.MeterProvider
	m brokenMeter
}

type brokenMeter struct {
	noop.Meter
	instrument, register, unregister error
}

func (p brokenMeters) Meter(string, ...metric.MeterOption) metric.Meter { return p.m }

func (m brokenMeter) Int64ObservableCounter(name string, o ...metric.Int64ObservableCounterOption) (metric.Int64ObservableCounter, error) {
	if m.instrument != nil {
		return nil, m.instrument
	}
	return m.Meter.Int64ObservableCounter(name, o...)
}

func (m brokenMeter) RegisterCallback(metric.Callback, ...metric.Observable) (metric.Registration, error) {
	return registration{err: m.unregister}, m.register
}

type registration struct {
	noop.Registration
	err error
}

func (r registration) Unregister() error { return r.err }

func TestBrokenMeters(t *testing.T) {
	broken := errors.New("broken")
	for name, m := range map[string]brokenMeter{"an instrument": {instrument: broken}, "the registration": {register: broken}} {
		c, err := usercache.New(repositorytest.NewMemory(), usercache.UserSchema(), usercache.WithMeterProvider(brokenMeters{m: m}))
		if c != nil || !errors.Is(err, broken) || !strings.Contains(err.Error(), "telemetry") {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
	c, err := usercache.New(repositorytest.NewMemory(), usercache.UserSchema(), usercache.WithMeterProvider(brokenMeters{m: brokenMeter{unregister: broken}}))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); !errors.Is(err, broken) {
		t.Errorf("Close: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
}

// Without a provider of its own a cache uses the global ones.
func TestGlobalProviders(t *testing.T) {
	defer func() { // the first providers cannot be had back: they pass everything on now
		otel.SetMeterProvider(noop.NewMeterProvider())
		otel.SetTracerProvider(nooptrace.NewTracerProvider())
	}()
	in, spans := newInstruments(), tracetest.NewSpanRecorder()
	otel.SetMeterProvider(in.MeterProvider)
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	c, m := newCache(t)
	misses(t, c, m, byID("a1"), alice(), nil)
	if len(in.collect(t)) == 0 || len(spans.Ended()) != 2 {
		t.Errorf("%d metrics, %d spans", len(in.collect(t)), len(spans.Ended()))
	}
}
