package usercache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/osse101/usercache/internal/coherence"
)

const scopeName = "github.com/osse101/usercache"

// counter is a running total that has a cache line to itself.
type counter struct {
	atomic.Uint64
	_ [56]byte
}

func (c *counter) add(n int) { c.Add(uint64(n)) }

// Each list of names stands in the order of the constants that index it.
var (
	lookupNames  = [lookupKinds]string{"id", "platform_id", "platform_username"}
	answerNames  = [answers]string{"found", "not_found"}
	bypassNames  = [bypasses]string{"fresh", "fenced", "disabled", "oversized", "closed"}
	causeNames   = [causes]string{"upsert", "update", "delete", "merge", "mutate", "explicit", "remote", "flush"}
	outcomeNames = [outcomes]string{"ok", "not_found", "error"}

	operationNames = [operations]string{
		"GetUserByID", "GetUserByPlatformID", "GetUserByPlatformUsername",
		"UpsertUser", "UpdateUser", "DeleteUser", "MergeUsers", "Mutate",
	}
)

type answer int

const (
	answerFound answer = iota
	answerNotFound
	answers
)

type bypass int

const (
	bypassFresh bypass = iota
	bypassFenced
	bypassDisabled
	bypassOversized
	bypassClosed
	bypasses
)

type cause int

const (
	causeUpsert cause = iota
	causeUpdate
	causeDelete
	causeMerge
	causeMutate
	causeExplicit
	causeRemote
	causeFlush
	causes
)

// operation is a call that reaches the repository. The lookups come first, in
// the order of lookupKind.
type operation int

const (
	opUpsert operation = operation(lookupKinds) + iota
	opUpdate
	opDelete
	opMerge
	opMutate
	operations
)

type outcome int

const (
	outcomeOK outcome = iota
	outcomeNotFound
	outcomeError
	outcomes
)

// telemetry is everything by which a cache reports itself. The totals are
// plain atomics that Stats and the observable instruments read, so that
// counting a hit is one addition and both always agree.
type telemetry struct {
	name     string
	capacity int
	logger   *slog.Logger
	tracer   trace.Tracer
	notFound func(error) bool

	hits        [lookupKinds][answers]counter
	misses      [lookupKinds]counter
	refused     [lookupKinds]counter
	coalesced   [lookupKinds]counter
	bypassed    [bypasses]counter
	invalidated [causes]counter

	duration      metric.Float64Histogram
	durationAttrs [operations][outcomes]metric.RecordOption
	spanNames     [operations]string
	spanAttrs     trace.SpanStartEventOption
	registration  metric.Registration
	withdrawn     sync.Once
}

func newTelemetry(c config) *telemetry {
	t := &telemetry{
		name:      c.name,
		capacity:  c.Size,
		logger:    c.logger,
		notFound:  c.notFound,
		spanAttrs: trace.WithAttributes(attribute.String("cache", c.name)),
	}
	if t.logger == nil {
		t.logger = slog.Default()
	}
	tracers := c.tracerProvider
	if tracers == nil {
		tracers = otel.GetTracerProvider()
	}
	t.tracer = tracers.Tracer(scopeName)
	for op, name := range operationNames {
		t.spanNames[op] = "usercache." + name
		for o, outcome := range outcomeNames {
			t.durationAttrs[op][o] = metric.WithAttributeSet(attribute.NewSet(
				attribute.String("cache", c.name),
				attribute.String("operation", name),
				attribute.String("outcome", outcome),
			))
		}
	}
	return t
}

// total is one series of an observable counter.
type total struct {
	instrument metric.Int64Observable
	counter    *counter
	attrs      metric.ObserveOption
}

// instrument builds all instruments. What they observe of the cache itself,
// they ask counts for, which reports false once the cache is gone.
func (t *telemetry) instrument(c config, counts func() (coherence.Counts, bool)) error {
	meters := c.meterProvider
	if meters == nil {
		meters = otel.GetMeterProvider()
	}
	m := meters.Meter(scopeName)
	var failed error
	counterOf := func(name, unit, description string) metric.Int64Observable {
		c, err := m.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
		failed = errors.Join(failed, err)
		return c
	}
	gaugeOf := func(name, unit, description string) metric.Int64Observable {
		g, err := m.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description))
		failed = errors.Join(failed, err)
		return g
	}
	with := func(kv ...attribute.KeyValue) metric.ObserveOption {
		return metric.WithAttributeSet(attribute.NewSet(append(kv, attribute.String("cache", t.name))...))
	}

	hit := counterOf("user_cache_hit", "{lookup}", "Lookups answered from memory.")
	miss := counterOf("user_cache_miss", "{lookup}", "Lookups that went to the repository, or waited for another's that did.")
	refused := counterOf("user_cache_refused_fill", "{load}", "Loads whose answer a write made unfit to store: the guard at work.")
	coalesced := counterOf("user_cache_coalesced", "{lookup}", "Misses that shared the load of another.")
	bypassed := counterOf("user_cache_bypass", "{lookup}", "Lookups that skipped the cache, neither hit nor miss; fenced ones met a write under way or of uncertain outcome.")
	invalidated := counterOf("user_cache_invalidation", "{entry}", "Entries dropped by a write, an invalidation or a flush.")
	evicted := counterOf("user_cache_eviction", "{entry}", "Entries that left by themselves: for want of room, or because their time was over.")
	size := gaugeOf("user_cache_size", "{entry}", "Live entries. Found and not-found answers each have the whole capacity.")
	limit := gaugeOf("user_cache_capacity", "{entry}", "Configured size.")
	// A unit of 1 would make the Prometheus name end in _ratio.
	hitRate, err := m.Float64ObservableGauge("user_cache_hit_rate", metric.WithDescription("Hits / (hits + misses) since the start; dashboards use rates of the counters instead."))
	failed = errors.Join(failed, err)
	t.duration, err = m.Float64Histogram("user_cache_repository_duration",
		metric.WithUnit("s"),
		metric.WithDescription("Time taken by calls that reached the repository."),
		metric.WithExplicitBucketBoundaries(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10))
	if failed = errors.Join(failed, err); failed != nil {
		return failed
	}

	var totals []total
	for k, name := range lookupNames {
		lookup := attribute.String("lookup", name)
		for a, answer := range answerNames {
			totals = append(totals, total{hit, &t.hits[k][a], with(lookup, attribute.String("answer", answer))})
		}
		totals = append(totals,
			total{miss, &t.misses[k], with(lookup)},
			total{refused, &t.refused[k], with(lookup)},
			total{coalesced, &t.coalesced[k], with(lookup)})
	}
	for r, name := range bypassNames {
		totals = append(totals, total{bypassed, &t.bypassed[r], with(attribute.String("reason", name))})
	}
	for i, name := range causeNames {
		totals = append(totals, total{invalidated, &t.invalidated[i], with(attribute.String("cause", name))})
	}
	observables := []metric.Observable{hit, miss, refused, coalesced, bypassed, invalidated, evicted, size, limit, hitRate}
	cache := with()
	found, absent := with(attribute.String("answer", answerNames[answerFound])), with(attribute.String("answer", answerNames[answerNotFound]))
	byCapacity, byExpiry := with(attribute.String("reason", "capacity")), with(attribute.String("reason", "expired"))

	t.registration, err = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		now, ok := counts()
		if !ok {
			return nil
		}
		for _, x := range totals {
			o.ObserveInt64(x.instrument, int64(x.counter.Load()), x.attrs)
		}
		o.ObserveInt64(evicted, int64(now.EvictedCapacity), byCapacity)
		o.ObserveInt64(evicted, int64(now.EvictedExpired), byExpiry)
		o.ObserveInt64(size, int64(now.Found), found)
		o.ObserveInt64(size, int64(now.Absent), absent)
		o.ObserveInt64(limit, int64(t.capacity), cache)
		if s := t.stats(); s.TotalHits()+s.TotalMisses() > 0 {
			o.ObserveFloat64(hitRate, s.HitRate, cache)
		}
		return nil
	}, observables...)
	return err
}

// withdraw takes the metrics back from the meter provider, once.
func (t *telemetry) withdraw() (err error) {
	t.withdrawn.Do(func() { err = t.registration.Unregister() })
	return err
}

// dropped withdraws the metrics of a cache that was dropped without Close.
func (t *telemetry) dropped() {
	if err := t.withdraw(); err != nil {
		t.logger.Error("usercache: withdrawing the metrics of a dropped cache", slog.Any("error", err))
	}
}

// spanError marks a span as failed, unless there was merely nobody. Only the
// error's type is recorded: the texts of database drivers hold names and IDs.
func (t *telemetry) spanError(span trace.Span, err error) {
	if err == nil || !span.IsRecording() || t.notFound(err) {
		return
	}
	span.SetStatus(codes.Error, "")
	span.SetAttributes(attribute.String("error.type", errorType(err)))
}

// errorType names the type of the error at the bottom of a chain of wrappers,
// which says more than that of a wrapper.
func errorType(err error) string {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return fmt.Sprintf("%T", err)
}

// call runs a call to the repository, with a span and a measurement of its
// own. The context that it passes on carries the span.
func (t *telemetry) call(ctx context.Context, op operation, call func(context.Context) error) (err error) {
	ctx, span := t.tracer.Start(ctx, "repository."+operationNames[op], t.spanAttrs, trace.WithSpanKind(trace.SpanKindClient))
	began := time.Now()
	result := outcomeError // unless the call returns
	defer func() {
		t.duration.Record(ctx, time.Since(began).Seconds(), t.durationAttrs[op][result])
		span.End()
	}()
	err = call(ctx)
	switch {
	case err == nil:
		result = outcomeOK
	case t.notFound(err):
		result = outcomeNotFound
	default:
		t.spanError(span, err)
	}
	return err
}

// orphaned reports the panic of a load that nobody waits for any more. Its
// value is left out, since it may hold personal data.
func (t *telemetry) orphaned(panicked any) {
	t.logger.Error("usercache: a load panicked after the caller that started it had left",
		slog.String("cache", t.name), slog.String("panic_type", fmt.Sprintf("%T", panicked)))
}

// Stats are the figures that a cache reports, at one moment. They encode to
// JSON. All are totals since New but Enabled, Size, Capacity and HitRate.
type Stats struct {
	Name    string `json:"name"`
	Enabled bool   `json:"enabled"`
	// Size counts live entries; found and not-found answers each have the
	// whole Capacity.
	Size     AnswerStats `json:"size"`
	Capacity int         `json:"capacity"`
	// HitRate is hits / (hits + misses) since New, 0 before the first lookup.
	HitRate       float64           `json:"hit_rate"`
	Lookups       LookupStats       `json:"lookups"`
	Evictions     EvictionStats     `json:"evictions"`
	Invalidations InvalidationStats `json:"invalidations"`
	Bypasses      BypassStats       `json:"bypasses"`
}

// AnswerStats counts something by kind of answer.
type AnswerStats struct {
	Found    uint64 `json:"found"`
	NotFound uint64 `json:"not_found"`
}

// LookupStats counts lookups by method.
type LookupStats struct {
	ID               MethodStats `json:"id"`
	PlatformID       MethodStats `json:"platform_id"`
	PlatformUsername MethodStats `json:"platform_username"`
}

// MethodStats counts the lookups by one method.
type MethodStats struct {
	// Hits were answered from memory.
	Hits AnswerStats `json:"hits"`
	// Misses went to the repository, or waited for another's load.
	Misses uint64 `json:"misses"`
	// Coalesced are the misses that shared another's load.
	Coalesced uint64 `json:"coalesced"`
	// RefusedFills are loads whose answer a write made unfit to store.
	RefusedFills uint64 `json:"refused_fills"`
}

// EvictionStats counts entries that left by themselves.
type EvictionStats struct {
	Capacity uint64 `json:"capacity"`
	Expired  uint64 `json:"expired"`
}

// InvalidationStats counts the entries that were dropped, by cause.
type InvalidationStats struct {
	Upsert   uint64 `json:"upsert"`
	Update   uint64 `json:"update"`
	Delete   uint64 `json:"delete"`
	Merge    uint64 `json:"merge"`
	Mutate   uint64 `json:"mutate"`
	Explicit uint64 `json:"explicit"`
	Remote   uint64 `json:"remote"`
	Flush    uint64 `json:"flush"`
}

// BypassStats counts lookups that skipped the cache, by reason.
type BypassStats struct {
	Fresh     uint64 `json:"fresh"`
	Fenced    uint64 `json:"fenced"`
	Disabled  uint64 `json:"disabled"`
	Oversized uint64 `json:"oversized"`
	Closed    uint64 `json:"closed"`
}

// TotalHits is the number of lookups that were answered from memory.
func (s Stats) TotalHits() uint64 {
	total := uint64(0)
	for _, m := range []MethodStats{s.Lookups.ID, s.Lookups.PlatformID, s.Lookups.PlatformUsername} {
		total += m.Hits.Found + m.Hits.NotFound
	}
	return total
}

// TotalMisses is the number of lookups that went to the repository or waited
// for another's load.
func (s Stats) TotalMisses() uint64 {
	return s.Lookups.ID.Misses + s.Lookups.PlatformID.Misses + s.Lookups.PlatformUsername.Misses
}

func (t *telemetry) stats() Stats {
	method := func(k lookupKind) MethodStats {
		return MethodStats{
			Hits:         AnswerStats{t.hits[k][answerFound].Load(), t.hits[k][answerNotFound].Load()},
			Misses:       t.misses[k].Load(),
			Coalesced:    t.coalesced[k].Load(),
			RefusedFills: t.refused[k].Load(),
		}
	}
	killed := func(c cause) uint64 { return t.invalidated[c].Load() }
	skipped := func(b bypass) uint64 { return t.bypassed[b].Load() }
	s := Stats{
		Name: t.name, Capacity: t.capacity,
		Lookups: LookupStats{method(lookupID), method(lookupPlatformID), method(lookupPlatformUsername)},
		Invalidations: InvalidationStats{
			killed(causeUpsert), killed(causeUpdate), killed(causeDelete), killed(causeMerge),
			killed(causeMutate), killed(causeExplicit), killed(causeRemote), killed(causeFlush),
		},
		Bypasses: BypassStats{
			skipped(bypassFresh), skipped(bypassFenced), skipped(bypassDisabled),
			skipped(bypassOversized), skipped(bypassClosed),
		},
	}
	if hits, all := s.TotalHits(), s.TotalHits()+s.TotalMisses(); all > 0 {
		s.HitRate = float64(hits) / float64(all)
	}
	return s
}
