package usercache_test

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sethvargo/go-envconfig"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/repositorytest"
)

var defaults = usercache.Config{
	Size: 1000, TTL: 5 * time.Minute, NegativeTTL: 30 * time.Second, TTLJitter: 0.1,
	LoadTimeout: 5 * time.Second, Uncertainty: 5 * time.Second, Enabled: true,
}

// build makes a cache with the options, if they allow it.
func build(opts ...usercache.Option) (*cache, error) {
	return usercache.New(repositorytest.NewMemory(), usercache.UserSchema(), opts...)
}

const (
	allowedSize     = "must be a whole number from 1 to 100000000"
	allowedTTL      = "must be a duration above 0 and at most 8760h, such as 5m"
	allowedNegative = "must be a duration from 0 (off) to 8760h, such as 30s"
	allowedJitter   = "must be a number from 0 to below 1, such as 0.1"
	allowedDuration = "must be a duration from 0 to 8760h, such as 5s"
	year            = 8760 * time.Hour
)

// Every bound is kept, on either side of it, by the option, by WithConfig and
// by the environment variable; an error names which, the value, and what is
// allowed.
func TestBounds(t *testing.T) {
	size := func(n int) (usercache.Option, usercache.Config) {
		c := defaults
		c.Size = n
		return usercache.WithSize(n), c
	}
	jitter := func(f float64) (usercache.Option, usercache.Config) {
		c := defaults
		c.TTLJitter = f
		return usercache.WithTTLJitter(f), c
	}
	duration := func(option func(time.Duration) usercache.Option, field func(*usercache.Config) *time.Duration) func(time.Duration) (usercache.Option, usercache.Config) {
		return func(d time.Duration) (usercache.Option, usercache.Config) {
			c := defaults
			*field(&c) = d
			return option(d), c
		}
	}
	ttl := duration(usercache.WithTTL, func(c *usercache.Config) *time.Duration { return &c.TTL })
	negative := duration(usercache.WithNegativeTTL, func(c *usercache.Config) *time.Duration { return &c.NegativeTTL })
	timeout := duration(usercache.WithLoadTimeout, func(c *usercache.Config) *time.Duration { return &c.LoadTimeout })
	uncertainty := duration(usercache.WithUncertainty, func(c *usercache.Config) *time.Duration { return &c.Uncertainty })

	for _, b := range []struct {
		field, variable, value, allowed string // allowed is empty for a value that is
		option                          usercache.Option
		config                          usercache.Config
	}{
		bound("Size", "SIZE", 0, allowedSize, size),
		bound("Size", "SIZE", 1, "", size),
		bound("Size", "SIZE", 100_000_000, "", size),
		bound("Size", "SIZE", 100_000_001, allowedSize, size),
		bound("Size", "SIZE", math.MinInt, allowedSize, size),
		bound("TTL", "TTL", 0, allowedTTL, ttl),
		bound("TTL", "TTL", 1, "", ttl),
		bound("TTL", "TTL", year, "", ttl),
		bound("TTL", "TTL", year+1, allowedTTL, ttl),
		bound("TTL", "TTL", -1, allowedTTL, ttl),
		bound("NegativeTTL", "NEGATIVE_TTL", -1, allowedNegative, negative),
		bound("NegativeTTL", "NEGATIVE_TTL", 0, "", negative),
		bound("NegativeTTL", "NEGATIVE_TTL", year, "", negative),
		bound("NegativeTTL", "NEGATIVE_TTL", year+1, allowedNegative, negative),
		bound("TTLJitter", "TTL_JITTER", -0.001, allowedJitter, jitter),
		bound("TTLJitter", "TTL_JITTER", 0, "", jitter),
		bound("TTLJitter", "TTL_JITTER", 0.999, "", jitter),
		bound("TTLJitter", "TTL_JITTER", 1, allowedJitter, jitter),
		bound("TTLJitter", "TTL_JITTER", math.NaN(), allowedJitter, jitter),
		bound("TTLJitter", "TTL_JITTER", math.Inf(1), allowedJitter, jitter),
		bound("LoadTimeout", "LOAD_TIMEOUT", -1, allowedDuration, timeout),
		bound("LoadTimeout", "LOAD_TIMEOUT", 0, "", timeout),
		bound("LoadTimeout", "LOAD_TIMEOUT", year, "", timeout),
		bound("LoadTimeout", "LOAD_TIMEOUT", year+1, allowedDuration, timeout),
		bound("Uncertainty", "UNCERTAINTY", -1, allowedDuration, uncertainty),
		bound("Uncertainty", "UNCERTAINTY", 0, "", uncertainty),
		bound("Uncertainty", "UNCERTAINTY", year, "", uncertainty),
		bound("Uncertainty", "UNCERTAINTY", year+1, allowedDuration, uncertainty),
	} {
		errs := map[string]error{}
		_, errs[fmt.Sprintf("usercache: With%s(%s): ", b.field, b.value)] = build(b.option)
		_, errs[fmt.Sprintf("usercache: WithConfig: %s (%s) is %s: ", b.field, b.variable, b.value)] = build(usercache.WithConfig(b.config))
		read, err := fromMap(map[string]string{b.variable: b.value})
		errs[fmt.Sprintf("usercache: %s=%q: ", b.variable, b.value)] = err
		if b.allowed == "" && read != b.config {
			t.Errorf("%s=%s: read %+v", b.variable, b.value, read)
		}
		for prefix, err := range errs {
			switch {
			case b.allowed == "" && err != nil:
				t.Errorf("%s is refused: %v", b.value, err)
			case b.allowed != "" && (err == nil || err.Error() != prefix+b.allowed):
				t.Errorf("got %v, want %s%s", err, prefix, b.allowed)
			}
		}
	}
}

type testBound = struct {
	field, variable, value, allowed string
	option                          usercache.Option
	config                          usercache.Config
}

func bound[T any](field, variable string, value T, allowed string, with func(T) (usercache.Option, usercache.Config)) testBound {
	option, config := with(value)
	return testBound{field, "USER_CACHE_" + variable, fmt.Sprint(value), allowed, option, config}
}

func fromMap(env map[string]string) (usercache.Config, error) {
	return usercache.ConfigFromLookuper(context.Background(), envconfig.MapLookuper(env))
}

// What cannot be read is an error about the variable, not about a Go field.
func TestUnreadableVariables(t *testing.T) {
	for variable, c := range map[string]struct {
		allowed string
		values  []string
	}{
		"USER_CACHE_SIZE":         {allowedSize, []string{"", "many", "1.5", "1e3", "99999999999999999999", " 5"}},
		"USER_CACHE_TTL":          {allowedTTL, []string{"", "300", "5 minutes", "m"}},
		"USER_CACHE_NEGATIVE_TTL": {allowedNegative, []string{"", "off"}},
		"USER_CACHE_TTL_JITTER":   {allowedJitter, []string{"", "10%", "a tenth"}},
		"USER_CACHE_LOAD_TIMEOUT": {allowedDuration, []string{"", "5"}},
		"USER_CACHE_UNCERTAINTY":  {allowedDuration, []string{"", "5"}},
		"USER_CACHE_ENABLED":      {"must be true or false", []string{"", "yes", "on"}},
	} {
		for _, value := range c.values {
			want := fmt.Sprintf("usercache: %s=%q: %s", variable, value, c.allowed)
			if got, err := fromMap(map[string]string{variable: value}); err == nil || err.Error() != want || got != (usercache.Config{}) {
				t.Errorf("got %+v, %v; want %s", got, err, want)
			}
		}
	}
}

func TestConfigFromEnv(t *testing.T) {
	for _, v := range variables() {
		t.Setenv(v, "") // so that it is restored
		if err := os.Unsetenv(v); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := usercache.ConfigFromEnv(t.Context()); err != nil || got != defaults {
		t.Errorf("without variables: %+v, %v", got, err)
	}
	for variable, value := range map[string]string{
		"USER_CACHE_SIZE": "17", "USER_CACHE_TTL": "1h", "USER_CACHE_NEGATIVE_TTL": "0", "USER_CACHE_TTL_JITTER": "0.25",
		"USER_CACHE_LOAD_TIMEOUT": "0s", "USER_CACHE_UNCERTAINTY": "1m30s", "USER_CACHE_ENABLED": "false",
	} {
		t.Setenv(variable, value)
	}
	want := usercache.Config{Size: 17, TTL: time.Hour, TTLJitter: 0.25, Uncertainty: 90 * time.Second}
	if got, err := usercache.ConfigFromEnv(t.Context()); err != nil || got != want {
		t.Errorf("with all variables: %+v, %v", got, err)
	}
	t.Setenv("USER_CACHE_SIZE", "none")
	if _, err := usercache.ConfigFromEnv(t.Context()); err == nil || !strings.Contains(err.Error(), `USER_CACHE_SIZE="none"`) {
		t.Errorf("a bad variable: %v", err)
	}
}

// variables are the names in the tags of Config.
func variables() []string {
	var names []string
	for f := range reflect.TypeFor[usercache.Config]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("env"), ",")
		names = append(names, name)
	}
	return names
}

// The file that people copy names every variable and no other, with its
// default, and the README's table does too.
func TestEnvExample(t *testing.T) {
	f, err := os.Open(".env.example")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		if line := s.Text(); line != "" && !strings.HasPrefix(line, "#") {
			name, value, ok := strings.Cut(line, "=")
			if !ok || env[name] != "" {
				t.Errorf("the line %q", line)
			}
			env[name] = value
			if row := fmt.Sprintf("| `%s` | `%s` |", name, value); !strings.Contains(string(readme), row) {
				t.Errorf("the README lacks %s", row)
			}
		}
	}
	for _, name := range variables() {
		if _, ok := env[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	if got, err := fromMap(env); err != nil || got != defaults || len(env) != len(variables()) {
		t.Errorf("it says %+v in %d variables, %v", got, len(env), err)
	}
}

// What is not a value is an error of New that names the option.
func TestMissingValues(t *testing.T) {
	for want, opt := range map[string]usercache.Option{
		"usercache: option 2 of 2 is nil":                                               nil,
		"usercache: WithNotFound(nil): must not be nil":                                 usercache.WithNotFound(nil),
		"usercache: WithRejected(nil): must not be nil":                                 usercache.WithRejected(nil),
		"usercache: WithMeterProvider(nil): must not be nil":                            usercache.WithMeterProvider(nil),
		"usercache: WithTracerProvider(nil): must not be nil":                           usercache.WithTracerProvider(nil),
		"usercache: WithLogger(nil): must not be nil":                                   usercache.WithLogger(nil),
		`usercache: WithName(""): must be 1 to 64 bytes`:                                usercache.WithName(""),
		`usercache: WithName("` + strings.Repeat("x", 65) + `"): must be 1 to 64 bytes`: usercache.WithName(strings.Repeat("x", 65)),
	} {
		if c, err := build(usercache.WithSize(5), opt); c != nil || err == nil || err.Error() != want {
			t.Errorf("got %v, %v; want %s", c, err, want)
		}
	}
	if c, err := build(usercache.WithName(strings.Repeat("x", 64))); err != nil || c.Stats().Name != strings.Repeat("x", 64) {
		t.Errorf("a name of 64 bytes: %v", err)
	}
}

// Options apply in their order: those after WithConfig win, those before it
// do not.
func TestPrecedence(t *testing.T) {
	cfg := defaults
	cfg.Size, cfg.Enabled = 7, false
	for _, c := range []struct {
		opts     []usercache.Option
		capacity int
		enabled  bool
	}{
		{nil, 1000, true},
		{[]usercache.Option{usercache.WithConfig(cfg)}, 7, false},
		{[]usercache.Option{usercache.WithConfig(cfg), usercache.WithSize(9)}, 9, false},
		{[]usercache.Option{usercache.WithSize(9), usercache.WithConfig(cfg)}, 7, false},
		{[]usercache.Option{usercache.WithSize(9), usercache.WithSize(8)}, 8, true},
	} {
		cache, err := build(c.opts...)
		if err != nil {
			t.Fatal(err)
		}
		if s := cache.Stats(); s.Capacity != c.capacity || s.Enabled != c.enabled || s.Name != "users" {
			t.Errorf("capacity %d, enabled %v, name %q; want %+v", s.Capacity, s.Enabled, s.Name, c)
		}
	}
	if _, err := build(usercache.WithConfig(usercache.Config{})); err == nil || !strings.Contains(err.Error(), "WithConfig: Size (USER_CACHE_SIZE) is 0") {
		t.Errorf("the zero Config: %v", err)
	}
}

// The options reach the engine: answers live as long as they say, counted from
// the start of the load, and jitter only ever shortens that.
func TestLifetimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, m := newCache(t, usercache.WithTTL(10*time.Minute), usercache.WithNegativeTTL(time.Minute), usercache.WithTTLJitter(0))
		misses(t, c, m, byID("a1"), alice(), nil)
		err := notFound()
		misses(t, c, m, byAccount("twitch", "1"), nil, err)
		<-time.After(time.Minute - 1)
		hits(t, c, byAccount("twitch", "1"), nil, err)
		<-time.After(1)
		misses(t, c, m, byAccount("twitch", "1"), nil, err)
		<-time.After(9*time.Minute - 1)
		hits(t, c, byID("a1"), alice(), nil)
		<-time.After(1)
		misses(t, c, m, byID("a1"), alice(), nil)
	})
	synctest.Test(t, func(t *testing.T) {
		c, m := newCache(t, usercache.WithTTL(10*time.Minute), usercache.WithNegativeTTL(0), usercache.WithTTLJitter(0.5))
		for range 2 {
			misses(t, c, m, byAccount("twitch", "1"), nil, notFound()) // none are kept
		}
		const n = 200
		for i := range n {
			misses(t, c, m, byID(fmt.Sprint(i)), alice(), nil)
		}
		<-time.After(5*time.Minute - 1)
		if s := c.Stats(); s.Size.Found != n {
			t.Errorf("%d of %d left before half of the TTL", s.Size.Found, n)
		}
		<-time.After(150 * time.Second)
		if s := c.Stats(); s.Size.Found < n/4 || s.Size.Found > 3*n/4 {
			t.Errorf("%d of %d left in the middle of the jitter", s.Size.Found, n)
		}
		<-time.After(150*time.Second + 1)
		if s := c.Stats(); s.Size.Found != 0 {
			t.Errorf("%d of %d left after the TTL", s.Size.Found, n)
		}
	})
}
