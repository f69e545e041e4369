package usercache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sethvargo/go-envconfig"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// Config is what the environment can say about a cache. [ConfigFromEnv] fills
// it; [WithConfig] hands it to [New]. Its zero value is not usable: every field
// is taken as it stands, and a Size and a TTL of 0 are refused.
type Config struct {
	// Size is how many found answers are kept, and how many not-found answers
	// besides. USER_CACHE_SIZE, default 1000; from 1 to 100000000.
	Size int `env:"USER_CACHE_SIZE, default=1000"`

	// TTL is how long an answer is kept, counted from the start of its load.
	// USER_CACHE_TTL, default 5m; above 0, at most 8760h (a year).
	TTL time.Duration `env:"USER_CACHE_TTL, default=5m"`

	// NegativeTTL is how long a not-found answer is kept; 0 keeps none.
	// USER_CACHE_NEGATIVE_TTL, default 30s; from 0 to 8760h.
	NegativeTTL time.Duration `env:"USER_CACHE_NEGATIVE_TTL, default=30s"`

	// TTLJitter is the part of its lifetime that chance may take off an
	// answer, so that what was loaded together does not expire together.
	// USER_CACHE_TTL_JITTER, default 0.1 (a tenth); from 0 to below 1.
	TTLJitter float64 `env:"USER_CACHE_TTL_JITTER, default=0.1"`

	// LoadTimeout bounds each load; 0 sets no bound.
	// USER_CACHE_LOAD_TIMEOUT, default 5s; from 0 to 8760h.
	LoadTimeout time.Duration `env:"USER_CACHE_LOAD_TIMEOUT, default=5s"`

	// Uncertainty is how long, after a write that failed and may have been
	// applied or be applied yet, reads of what it names still go to the
	// repository; 0 trusts a failed write at once.
	// USER_CACHE_UNCERTAINTY, default 5s; from 0 to 8760h.
	Uncertainty time.Duration `env:"USER_CACHE_UNCERTAINTY, default=5s"`

	// Enabled says whether the cache starts enabled; see
	// [CachedRepository.SetEnabled]. USER_CACHE_ENABLED, default true.
	Enabled bool `env:"USER_CACHE_ENABLED, default=true"`
}

const (
	maxSize     = 100_000_000
	maxDuration = 365 * 24 * time.Hour
	maxNameLen  = 64

	allowedDuration = "a duration from 0 to 8760h, such as 5s"
)

// setting is one field of Config: its name and its environment variable, what
// they accept, and whether a value is in range. Its option is called With and
// the name.
type setting struct {
	field, variable, allowed string
	value                    func(Config) any
	ok                       func(Config) bool
}

var settings = []setting{
	{
		"Size", "USER_CACHE_SIZE", "a whole number from 1 to 100000000",
		func(c Config) any { return c.Size },
		func(c Config) bool { return c.Size >= 1 && c.Size <= maxSize },
	},
	{
		"TTL", "USER_CACHE_TTL", "a duration above 0 and at most 8760h, such as 5m",
		func(c Config) any { return c.TTL },
		func(c Config) bool { return c.TTL > 0 && c.TTL <= maxDuration },
	},
	{
		"NegativeTTL", "USER_CACHE_NEGATIVE_TTL", "a duration from 0 (off) to 8760h, such as 30s",
		func(c Config) any { return c.NegativeTTL },
		func(c Config) bool { return inRange(c.NegativeTTL) },
	},
	{
		"TTLJitter", "USER_CACHE_TTL_JITTER", "a number from 0 to below 1, such as 0.1",
		func(c Config) any { return c.TTLJitter },
		func(c Config) bool { return c.TTLJitter >= 0 && c.TTLJitter < 1 },
	},
	{
		"LoadTimeout", "USER_CACHE_LOAD_TIMEOUT", allowedDuration,
		func(c Config) any { return c.LoadTimeout },
		func(c Config) bool { return inRange(c.LoadTimeout) },
	},
	{
		"Uncertainty", "USER_CACHE_UNCERTAINTY", allowedDuration,
		func(c Config) any { return c.Uncertainty },
		func(c Config) bool { return inRange(c.Uncertainty) },
	},
	{
		"Enabled", "USER_CACHE_ENABLED", "true or false",
		func(c Config) any { return c.Enabled },
		func(Config) bool { return true },
	},
}

func inRange(d time.Duration) bool { return d >= 0 && d <= maxDuration }

// ConfigFromEnv reads a [Config] from the environment variables named at its
// fields. What is not set has its default. A value that cannot be read or is
// out of range, the empty one included, is an error that names the variable,
// the value and what is allowed.
func ConfigFromEnv(ctx context.Context) (Config, error) {
	return ConfigFromLookuper(ctx, envconfig.OsLookuper())
}

// ConfigFromLookuper is [ConfigFromEnv] with another source of variables, for
// tests and for variables under a prefix.
func ConfigFromLookuper(ctx context.Context, l envconfig.Lookuper) (Config, error) {
	var c Config
	for _, s := range settings {
		// One variable at a time, so that an error is known to be about it.
		read := Config{}
		value, set := l.Lookup(s.variable)
		only := envconfig.MapLookuper(nil)
		if set {
			only = envconfig.MapLookuper(map[string]string{s.variable: value})
		}
		err := envconfig.ProcessWith(ctx, &envconfig.Config{Target: &read, Lookuper: only})
		if err != nil || set && value == "" || !s.ok(read) {
			return Config{}, fmt.Errorf("usercache: %s=%q: must be %s", s.variable, value, s.allowed)
		}
	}
	err := envconfig.ProcessWith(ctx, &envconfig.Config{Target: &c, Lookuper: l})
	return c, err
}

// config is what the options say.
type config struct {
	Config
	name             string
	notFound         func(error) bool
	rejected         func(error) bool
	preciseUsernames bool
	meterProvider    metric.MeterProvider
	tracerProvider   trace.TracerProvider
	logger           *slog.Logger
}

// newConfig applies the options in their order to the defaults, which the tags
// of Config hold.
func newConfig(opts []Option) (config, error) {
	defaults, err := ConfigFromLookuper(context.Background(), envconfig.MapLookuper(nil))
	if err != nil {
		return config{}, err
	}
	wrapsNotFound := func(err error) bool { return errors.Is(err, ErrUserNotFound) }
	c := config{Config: defaults, name: "users", notFound: wrapsNotFound, rejected: wrapsNotFound}
	for i, o := range opts {
		if o == nil {
			return config{}, fmt.Errorf("usercache: option %d of %d is nil", i+1, len(opts))
		}
		if err := o.apply(&c); err != nil {
			return config{}, fmt.Errorf("usercache: %w", err)
		}
	}
	return c, nil
}

// Option configures [New]. Options apply in the order in which they are given;
// a later one wins. A value out of range is an error of New.
type Option interface {
	apply(*config) error
}

type optionFunc func(*config) error

func (f optionFunc) apply(c *config) error { return f(c) }

// set is the option that changes one field of the Config.
func set(field string, change func(*Config)) Option {
	return optionFunc(func(c *config) error {
		change(&c.Config)
		for _, s := range settings {
			if s.field == field && !s.ok(c.Config) {
				return fmt.Errorf("With%s(%v): must be %s", field, s.value(c.Config), s.allowed)
			}
		}
		return nil
	})
}

// required changes the config if there is a value to change it by.
func required(option string, given bool, change func(*config)) Option {
	return optionFunc(func(c *config) error {
		if !given {
			return fmt.Errorf("%s(nil): must not be nil", option)
		}
		change(c)
		return nil
	})
}

// WithConfig sets everything that a [Config] says, as [ConfigFromEnv] returns
// it. Options that come after it win.
func WithConfig(cfg Config) Option {
	return optionFunc(func(c *config) error {
		for _, s := range settings {
			if !s.ok(cfg) {
				return fmt.Errorf("WithConfig: %s (%s) is %v: must be %s", s.field, s.variable, s.value(cfg), s.allowed)
			}
		}
		c.Config = cfg
		return nil
	})
}

// WithSize sets how many found answers are kept, and how many not-found
// answers besides: from 1 to 100000000, default 1000. An answer is to one
// lookup, so a user who is looked up by ID and by account takes two.
func WithSize(n int) Option { return set("Size", func(c *Config) { c.Size = n }) }

// WithTTL sets how long an answer is kept, counted from the start of its load
// and never extended: above 0, at most a year, default 5 minutes. It is the
// bound on writes that the cache cannot see.
func WithTTL(d time.Duration) Option { return set("TTL", func(c *Config) { c.TTL = d }) }

// WithNegativeTTL sets how long a not-found answer to a lookup by platform ID
// or username is kept: up to a year, default 30 seconds; 0 keeps none. Answers
// to lookups by user ID are never kept when nobody is found.
func WithNegativeTTL(d time.Duration) Option {
	return set("NegativeTTL", func(c *Config) { c.NegativeTTL = d })
}

// WithTTLJitter sets the part of its lifetime that chance may take off an
// answer: from 0 to below 1, default 0.1.
func WithTTLJitter(fraction float64) Option {
	return set("TTLJitter", func(c *Config) { c.TTLJitter = fraction })
}

// WithLoadTimeout bounds each load through its context: up to a year, default
// 5 seconds; 0 sets no bound. A load does not end with the context of the
// caller that started it, so without a bound a repository that hangs keeps a
// load for as long as somebody waits for it.
func WithLoadTimeout(d time.Duration) Option {
	return set("LoadTimeout", func(c *Config) { c.LoadTimeout = d })
}

// WithUncertainty sets how long reads of what a write names go to the
// repository after that write has failed: up to a year, default 5 seconds; 0
// ends that with the write. A write that was cancelled or lost its connection
// may have been committed, or may be yet; the window should cover the time
// that the database can take to do so. See [WithRejected].
func WithUncertainty(d time.Duration) Option {
	return set("Uncertainty", func(c *Config) { c.Uncertainty = d })
}

// WithNotFound says which errors of a lookup mean that there is nobody. Only
// those are kept as not-found answers. The default is those that wrap
// [ErrUserNotFound]. The function must be safe for concurrent use.
func WithNotFound(notFound func(error) bool) Option {
	return required("WithNotFound", notFound != nil, func(c *config) { c.notFound = notFound })
}

// WithRejected says which errors of a write mean that it has certainly not
// been applied and never will be, so that the cache need not wait
// [WithUncertainty] for it: a violated constraint, say. The default is those
// that wrap [ErrUserNotFound]. The function must be safe for concurrent use.
func WithRejected(rejected func(error) bool) Option {
	return required("WithRejected", rejected != nil, func(c *config) { c.rejected = rejected })
}

// WithPreciseUsernames makes a write drop only those answers to lookups by
// username that it names. By default every write but a delete drops them all,
// since a repository may ignore the username that a write is given, and only
// the database knows under which name a user is found after an account was
// linked.
//
// It is for repositories that store exactly the usernames that each write is
// given, as the shipped ones do, and for Schemas whose Identity names all of
// them. MergeUsers drops them all even so, since it moves accounts whose
// usernames it is not given; a Mutate or Invalidate must name every username
// that is found otherwise afterwards.
func WithPreciseUsernames() Option {
	return optionFunc(func(c *config) error {
		c.preciseUsernames = true
		return nil
	})
}

// WithMeterProvider sets where metrics go. The default is OpenTelemetry's
// global provider at the time of [New].
func WithMeterProvider(p metric.MeterProvider) Option {
	return required("WithMeterProvider", p != nil, func(c *config) { c.meterProvider = p })
}

// WithTracerProvider sets where spans go. The default is OpenTelemetry's
// global provider at the time of [New].
func WithTracerProvider(p trace.TracerProvider) Option {
	return required("WithTracerProvider", p != nil, func(c *config) { c.tracerProvider = p })
}

// WithLogger sets where the cache reports what no caller can be told. The
// default is [slog.Default] at the time of New.
func WithLogger(l *slog.Logger) Option {
	return required("WithLogger", l != nil, func(c *config) { c.logger = l })
}

// WithName sets the attribute "cache" on all metrics and spans, which tells
// several caches of one process apart: 1 to 64 bytes, default "users".
func WithName(name string) Option {
	return optionFunc(func(c *config) error {
		if name == "" || len(name) > maxNameLen {
			return fmt.Errorf("WithName(%.80q): must be 1 to %d bytes", name, maxNameLen)
		}
		c.name = name
		return nil
	})
}

// WarmOption configures [CachedRepository.Warm].
type WarmOption interface {
	applyWarm(*warmConfig) error
}

type warmConfig struct {
	concurrency int
	progress    func(WarmProgress)
}

type warmOptionFunc func(*warmConfig) error

func (f warmOptionFunc) applyWarm(c *warmConfig) error { return f(c) }

func newWarmConfig(opts []WarmOption) (warmConfig, error) {
	c := warmConfig{concurrency: 8}
	for i, o := range opts {
		if o == nil {
			return c, fmt.Errorf("usercache: Warm: option %d of %d is nil", i+1, len(opts))
		}
		if err := o.applyWarm(&c); err != nil {
			return c, fmt.Errorf("usercache: Warm: %w", err)
		}
	}
	return c, nil
}

// WithWarmConcurrency sets how many lookups are loaded at a time: from 1 to
// 1000, default 8.
func WithWarmConcurrency(n int) WarmOption {
	return warmOptionFunc(func(c *warmConfig) error {
		if n < 1 || n > 1000 {
			return fmt.Errorf("WithWarmConcurrency(%d): must be a whole number from 1 to 1000", n)
		}
		c.concurrency = n
		return nil
	})
}

// WithWarmProgress sets a function that is called after each lookup, on the
// goroutine that called Warm.
func WithWarmProgress(progress func(WarmProgress)) WarmOption {
	return warmOptionFunc(func(c *warmConfig) error {
		if progress == nil {
			return errors.New("WithWarmProgress(nil): must not be nil")
		}
		c.progress = progress
		return nil
	})
}

// WarmProgress says how far a [CachedRepository.Warm] has come.
type WarmProgress struct {
	Done   int // lookups that were tried, the failed ones included
	Failed int
	Total  int // lookups that were given
}

// WarmReport says what a [CachedRepository.Warm] has done. Every lookup that
// was given counts once.
type WarmReport struct {
	Total  int // lookups that were given
	Warmed int // in the cache now, or before already
	Absent int // nobody was found
	Failed int // the repository returned an error

	// Skipped lookups were not tried, or their answer was not stored: the
	// cache was full, the context ended, a write was under way, the name is
	// too long to cache, or the answer names no user ID.
	Skipped int

	// FirstError is the first that the repository returned, if any.
	FirstError error

	tried int
}

// warmResult is what became of one lookup; the zero value is a skipped one.
type warmResult struct {
	warmed, absent, full bool
	err                  error
}

func (r *WarmReport) add(x warmResult) {
	r.tried++
	switch {
	case x.err != nil:
		r.Failed++
		if r.FirstError == nil {
			r.FirstError = x.err
		}
	case x.absent:
		r.Absent++
	case x.warmed:
		r.Warmed++
	}
}

func (r *WarmReport) progress() WarmProgress {
	return WarmProgress{Done: r.tried, Failed: r.Failed, Total: r.Total}
}
