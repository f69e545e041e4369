package usercache

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"weak"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/osse101/usercache/internal/coherence"
	"github.com/osse101/usercache/internal/pool"
)

// CachedRepository answers lookups from memory and passes everything else on
// to the repository that it decorates. It is safe for concurrent use.
//
// An answer comes from memory only if no write through this CachedRepository
// that could change it has been in progress, or has finished, since the load
// of that answer began. What changes users behind its back must be told to it,
// by [CachedRepository.Mutate] or [CachedRepository.Invalidate], or is seen
// when the TTL of an answer is over.
//
// Every user that it returns is the caller's own, to be changed at will.
type CachedRepository[U any] struct {
	repo      Repository[U]
	schema    Schema[U]
	precise   bool
	notFound  func(error) bool
	rejected  func(error) bool
	engine    *coherence.Engine[Lookup, *U]
	telemetry *telemetry
}

var _ Repository[User] = (*CachedRepository[User])(nil)

// New returns a cache in front of repo. It starts empty, and enabled unless
// the configuration says otherwise.
//
// New returns an error if repo is nil, if the schema has no Identity, if it
// has no Clone although U holds references, if an option is out of range, or if
// an instrument cannot be built. It starts no goroutine, and a cache that is
// dropped without Close leaves nothing behind.
func New[U any](repo Repository[U], schema Schema[U], opts ...Option) (*CachedRepository[U], error) {
	if repo == nil {
		return nil, errors.New("usercache: New: the repository is nil")
	}
	schema, err := schema.checked()
	if err != nil {
		return nil, err
	}
	cfg, err := newConfig(opts)
	if err != nil {
		return nil, err
	}
	t := newTelemetry(cfg)
	c := &CachedRepository[U]{
		repo:      repo,
		schema:    schema,
		precise:   cfg.preciseUsernames,
		notFound:  cfg.notFound,
		rejected:  cfg.rejected,
		telemetry: t,
		engine: coherence.New(coherence.Config[Lookup, *U]{
			Size:        cfg.Size,
			TTL:         cfg.TTL,
			NegativeTTL: cfg.NegativeTTL,
			Jitter:      cfg.TTLJitter,
			LoadTimeout: cfg.LoadTimeout,
			Uncertainty: cfg.Uncertainty,
			Clone:       schema.Clone,
			Refused:     func(l Lookup) { t.refused[l.kind].add(1) },
			Orphaned:    t.orphaned,
		}),
	}
	c.engine.SetEnabled(cfg.Enabled)
	// A meter provider holds on to what it calls, so it gets a weak pointer.
	weakly := weak.Make(c)
	err = t.instrument(cfg, func() (coherence.Counts, bool) {
		if c := weakly.Value(); c != nil {
			return c.engine.Counts(), true
		}
		return coherence.Counts{}, false
	})
	if err != nil {
		return nil, fmt.Errorf("usercache: New: telemetry: %w", err)
	}
	runtime.AddCleanup(c, (*telemetry).dropped, t)
	return c, nil
}

// GetUserByID returns the user with this ID. Errors are the repository's own,
// but for that of a context that ends while the caller waits.
func (c *CachedRepository[U]) GetUserByID(ctx context.Context, userID string) (*U, error) {
	return c.get(ctx, ByID(userID))
}

// GetUserByPlatformID returns the user to whom this account is linked. Errors
// are as those of GetUserByID.
func (c *CachedRepository[U]) GetUserByPlatformID(ctx context.Context, platform, platformID string) (*U, error) {
	return c.get(ctx, ByPlatformID(platform, platformID))
}

// GetUserByPlatformUsername returns the user of this name on this platform.
// Errors are as those of GetUserByID.
func (c *CachedRepository[U]) GetUserByPlatformUsername(ctx context.Context, platform, username string) (*U, error) {
	return c.get(ctx, ByPlatformUsername(platform, username))
}

// UpsertUser passes the write on, between invalidations of all that it may
// change. A nil user is an error; all other errors are the repository's own.
func (c *CachedRepository[U]) UpsertUser(ctx context.Context, user *U) error {
	if user == nil {
		return errors.New("usercache: UpsertUser: the user is nil")
	}
	return c.write(ctx, opUpsert, causeUpsert,
		func() []Identity { return []Identity{c.schema.Identity(user)} },
		func(ctx context.Context) error { return c.repo.UpsertUser(ctx, user) })
}

// UpdateUser passes the write on, between invalidations of all that it may
// change. Errors are the repository's own.
func (c *CachedRepository[U]) UpdateUser(ctx context.Context, user U) error {
	return c.write(ctx, opUpdate, causeUpdate,
		func() []Identity { return []Identity{c.schema.Identity(&user)} },
		func(ctx context.Context) error { return c.repo.UpdateUser(ctx, user) })
}

// DeleteUser passes the write on, between invalidations of all that it may
// change. Errors are the repository's own.
func (c *CachedRepository[U]) DeleteUser(ctx context.Context, userID string) error {
	return c.write(ctx, opDelete, causeDelete,
		func() []Identity { return []Identity{{UserID: userID}} },
		func(ctx context.Context) error { return c.repo.DeleteUser(ctx, userID) })
}

// MergeUsers passes the write on, between invalidations of all that it may
// change. Errors are the repository's own.
func (c *CachedRepository[U]) MergeUsers(ctx context.Context, primaryUserID, secondaryUserID string, merged U) error {
	return c.write(ctx, opMerge, causeMerge,
		func() []Identity {
			return []Identity{{UserID: primaryUserID}, {UserID: secondaryUserID}, c.schema.Identity(&merged)}
		},
		func(ctx context.Context) error { return c.repo.MergeUsers(ctx, primaryUserID, secondaryUserID, merged) })
}

// Mutate runs fn, which writes to the same users by other ways than this
// CachedRepository, between invalidations of all that the affected identities
// name: a merge that carries an inventory, raw SQL, a bulk job. Without an
// identity, or with one that names nobody, that is everything.
//
// Lookups of what is affected go to the repository while fn runs, and for the
// time of [WithUncertainty] if it fails in a way that [WithRejected] does not
// know. fn must have committed when it returns. A nil fn is an error; all other
// errors are fn's own.
func (c *CachedRepository[U]) Mutate(ctx context.Context, fn func(context.Context) error, affected ...Identity) error {
	if fn == nil {
		return errors.New("usercache: Mutate: the function is nil")
	}
	return c.write(ctx, opMutate, causeMutate, func() []Identity { return named(affected) }, fn)
}

// Invalidate drops the answers that the affected identities name, as after a
// write that has happened behind the cache's back. Without an identity, or with
// one that names nobody, that is everything.
func (c *CachedRepository[U]) Invalidate(affected ...Identity) {
	c.telemetry.invalidated[causeExplicit].add(c.engine.Invalidate(scope(named(affected), true, c.precise)))
}

// Flush drops every answer. Totals stay.
func (c *CachedRepository[U]) Flush() {
	c.telemetry.invalidated[causeFlush].add(c.engine.Flush())
}

// SetEnabled switches the cache off and on while it runs. Every switch drops
// every answer; while it is off, lookups go to the repository. It has no
// effect after Close.
func (c *CachedRepository[U]) SetEnabled(enabled bool) {
	c.telemetry.invalidated[causeFlush].add(c.engine.SetEnabled(enabled))
}

// Warm loads lookups into the cache, by the same guarded way as any miss, so
// that a service does not start cold. It stops when the cache is full, since
// whatever it would evict then is in use or was asked for first, and when ctx
// ends, with an error that wraps the context's. Lookups that fail are counted
// and do not stop it. It returns an error, and loads nothing, if an option is
// out of range or the cache is disabled or closed.
//
// Loads by Warm count neither as hits nor as misses.
func (c *CachedRepository[U]) Warm(ctx context.Context, lookups []Lookup, opts ...WarmOption) (WarmReport, error) {
	report := WarmReport{Total: len(lookups)}
	cfg, err := newWarmConfig(opts)
	if err != nil {
		return report, err
	}
	if !c.engine.Enabled() {
		return report, errors.New("usercache: Warm: the cache is disabled or closed")
	}
	ctx, span := c.telemetry.tracer.Start(ctx, "usercache.Warm", c.telemetry.spanAttrs)
	defer span.End()

	begin, stop := context.WithCancel(ctx)
	defer stop()
	for r := range pool.Each(begin, lookups, cfg.concurrency, func(l Lookup) warmResult { return c.warm(ctx, l) }) {
		if r.Err != nil {
			r.Value.err = fmt.Errorf("usercache: Warm: a load ended by %w", r.Err)
		}
		report.add(r.Value)
		if r.Value.full {
			stop()
		}
		if cfg.progress != nil {
			cfg.progress(report.progress())
		}
	}
	report.Skipped = report.Total - report.Warmed - report.Absent - report.Failed
	if err := ctx.Err(); err != nil {
		c.telemetry.spanError(span, err)
		return report, fmt.Errorf("usercache: Warm: %d of %d lookups left: %w", report.Skipped, report.Total, err)
	}
	return report, nil
}

// warm loads one lookup.
func (c *CachedRepository[U]) warm(ctx context.Context, l Lookup) warmResult {
	if l.oversized() {
		return warmResult{}
	}
	res := c.load(ctx, l, true)
	switch {
	case res.Outcome == coherence.Left:
		return warmResult{}
	case res.Err != nil && !c.notFound(res.Err):
		return warmResult{err: res.Err}
	}
	found := res.Class == coherence.Found
	return warmResult{
		warmed: found && (res.Outcome == coherence.Hit || res.Stored),
		absent: res.Err != nil || res.Class == coherence.Transient, // nobody, with or without an error
		full:   found && res.Full,
	}
}

// Stats returns the cache's figures.
func (c *CachedRepository[U]) Stats() Stats {
	s := c.telemetry.stats()
	now := c.engine.Counts()
	s.Enabled = c.engine.Enabled()
	s.Size = AnswerStats{uint64(now.Found), uint64(now.Absent)}
	s.Evictions = EvictionStats{now.EvictedCapacity, now.EvictedExpired}
	return s
}

// Close drops every answer and withdraws the cache's metrics. Afterwards every
// call goes straight to the repository, which stays open. Close may be called
// more than once, and while other calls are under way; only the first returns
// an error, if withdrawing the metrics fails.
func (c *CachedRepository[U]) Close() error {
	c.telemetry.invalidated[causeFlush].add(c.engine.Close())
	if err := c.telemetry.withdraw(); err != nil {
		return fmt.Errorf("usercache: Close: %w", err)
	}
	return nil
}

// get answers a lookup. The way of a hit is short: it starts a span only if
// the caller is being traced.
func (c *CachedRepository[U]) get(ctx context.Context, l Lookup) (*U, error) {
	if ctx.Value(freshKey{}) == nil && !trace.SpanFromContext(ctx).IsRecording() {
		if a, ok := c.engine.Lookup(l); ok {
			c.hit(l, a)
			return a.Value, a.Err
		}
	}
	return c.getTraced(ctx, l)
}

// hit counts a hit and returns how a span calls it.
func (c *CachedRepository[U]) hit(l Lookup, a coherence.Answer[*U]) string {
	if a.Class == coherence.Absent {
		c.telemetry.hits[l.kind][answerNotFound].add(1)
		return "not_found_hit"
	}
	c.telemetry.hits[l.kind][answerFound].add(1)
	return "hit"
}

// getTraced answers a lookup, hit or not, under a span.
func (c *CachedRepository[U]) getTraced(ctx context.Context, l Lookup) (u *U, err error) {
	ctx, span := c.telemetry.tracer.Start(ctx, c.telemetry.spanNames[l.kind], c.telemetry.spanAttrs)
	defer span.End()
	how := "miss"
	defer func() {
		span.SetAttributes(attribute.String("usercache.outcome", how))
		c.telemetry.spanError(span, err)
	}()

	reason := bypassFresh
	switch {
	case ctx.Value(freshKey{}) != nil:
	case l.oversized():
		reason = bypassOversized
	default:
		if a, ok := c.engine.Lookup(l); ok {
			how = c.hit(l, a)
			return a.Value, a.Err
		}
		res := c.load(ctx, l, false)
		switch res.Outcome {
		case coherence.Hit:
			how = c.hit(l, res.Answer)
			return res.Value, res.Err
		case coherence.Joined:
			how = "coalesced"
			c.telemetry.coalesced[l.kind].add(1)
			c.telemetry.misses[l.kind].add(1)
			if origin, ok := res.Note.(trace.SpanContext); ok {
				span.AddLink(trace.Link{SpanContext: origin})
			}
			return res.Value, res.Err
		case coherence.Fenced:
			reason = bypassFenced
		case coherence.Disabled:
			reason = bypassDisabled
		case coherence.Closed:
			reason = bypassClosed
		default: // Loaded, or Left by a caller that could not wait
			c.telemetry.misses[l.kind].add(1)
			return res.Value, res.Err
		}
	}
	how = "bypass"
	c.telemetry.bypassed[reason].add(1)
	u, _, err = c.fetch(ctx, l)
	return u, err
}

// load answers a lookup through the engine.
func (c *CachedRepository[U]) load(ctx context.Context, l Lookup, keepOthers bool) coherence.Result[*U] {
	return c.engine.Load(ctx, coherence.Request[Lookup, *U]{
		Key:        l,
		Tags:       l.tags(),
		KeepOthers: keepOthers,
		Fetch: func(ctx context.Context) coherence.Answer[*U] {
			u, origin, err := c.fetch(ctx, l)
			a := c.classify(l, u, err)
			a.Note = origin
			return a
		},
	})
}

// classify says what may be done with an answer of the repository.
func (c *CachedRepository[U]) classify(l Lookup, u *U, err error) coherence.Answer[*U] {
	a := coherence.Answer[*U]{Value: u, Err: err, Class: coherence.Transient}
	switch {
	case errors.Is(err, context.Canceled):
		// Somebody's context has ended; to whoever waits for an answer that
		// says nothing, whatever else the error wraps.
		a.Class = coherence.Private
	case err != nil:
		// A database may give a new user the very ID that was not found.
		if u == nil && l.kind != lookupID && !errors.Is(err, context.DeadlineExceeded) && c.notFound(err) {
			a.Class = coherence.Absent
		}
	case u != nil:
		id := c.schema.Identity(u)
		if id.UserID == "" {
			// What it depends on is unknown.
			a.Class = coherence.Private
			break
		}
		a.Class = coherence.Found
		a.Tags = id.tags(nil)
	}
	return a
}

// fetch asks the repository. It also returns the context of the span that it
// did so under.
func (c *CachedRepository[U]) fetch(ctx context.Context, l Lookup) (u *U, origin trace.SpanContext, err error) {
	err = c.telemetry.call(ctx, operation(l.kind), func(ctx context.Context) (err error) {
		origin = trace.SpanContextFromContext(ctx)
		u, err = ask(ctx, c.repo, l)
		return err
	})
	return u, origin, err
}

// write runs a write between raising and lowering the fences on what it
// affects, which is asked before the call and after it: an upsert fills in the
// user's ID.
func (c *CachedRepository[U]) write(ctx context.Context, op operation, why cause, affected func() []Identity, call func(context.Context) error) (err error) {
	ctx, span := c.telemetry.tracer.Start(ctx, c.telemetry.spanNames[op], c.telemetry.spanAttrs)
	defer span.End()

	renames := op != opDelete
	// A merge moves usernames that it does not name to another user's ID: of
	// several users of one name, another may come first now.
	precise := c.precise && op != opMerge
	w, killed := c.engine.Raise(scope(affected(), renames, precise))
	uncertain := true // unless the call returns and says otherwise
	var also coherence.Scope
	defer func() {
		// The fences come down even if naming what was affected panics.
		defer func() { c.telemetry.invalidated[why].add(killed + w.Lower(also, uncertain)) }()
		also = scope(affected(), renames, precise)
	}()

	err = c.telemetry.call(ctx, op, call)
	uncertain = err != nil && !c.rejected(err)
	c.telemetry.spanError(span, err)
	return err
}
