package replay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	"golang.org/x/sync/errgroup"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/examples/chatbot/internal/service"
	"github.com/osse101/usercache/examples/chatbot/internal/store"
)

// Options say what is replayed, and how. All fields but Decorate are required.
type Options struct {
	Trace   *Trace
	Speed   float64 // times as fast as the chat was; 0 for as fast as it goes
	Workers int     // messages that are under way at a time; at least 1
	Cache   usercache.Config
	Open    func(context.Context) (*store.Store, error) // an empty repository, for each run
	// Progress is called now and then with how many messages of a run are
	// answered.
	Progress func(run string, answered, of int)
	// Decorate builds the cache; [Decorate] if nil.
	Decorate func(*store.Store, service.Users, usercache.Config) (Cache, error)
}

// Cache is a cached repository.
type Cache interface {
	service.Users
	Invalidate(...usercache.Identity)
	Stats() usercache.Stats
	Close() error
}

// Decorate puts the cache in front of the users of a store.
func Decorate(s *store.Store, users service.Users, cfg usercache.Config) (Cache, error) {
	return usercache.New(users, usercache.UserSchema(), usercache.WithConfig(cfg),
		usercache.WithPreciseUsernames(), usercache.WithRejected(s.Rejected))
}

// Run replays the trace without the cache, then with it.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Workers < 1 {
		return nil, fmt.Errorf("-workers %d: must be at least 1", o.Workers)
	}
	if o.Decorate == nil {
		o.Decorate = Decorate
	}
	clock, err := newClock(o.Trace, o.Speed, o.Cache.TTL)
	if err != nil {
		return nil, err
	}
	r := &Report{
		Trace: o.Trace, Speed: o.Speed, Workers: o.Workers, Cache: o.Cache,
		Ideal: clock.trace.ideal(o.Cache.Size, o.Cache.TTL),
	}
	if r.Without, err = one(ctx, o, clock, "without the cache", false, r); err != nil {
		return nil, err
	}
	if r.With, err = one(ctx, o, clock, "with the cache", true, r); err != nil {
		return nil, err
	}
	return r, nil
}

// one runs the service over an empty repository and sends it every message.
func one(ctx context.Context, o Options, clock clock, name string, cached bool, report *Report) (_ *Result, err error) {
	s, err := o.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	report.Database = s.Kind

	chat := newChat(clock.trace)
	counter := newCounter(s.Users, clock.trace.Users)
	users := service.Users(counter)
	var cache Cache
	if cached {
		cfg := o.Cache
		if clock.speed == 0 {
			// Time does not pass for the cache: the drive loop makes answers expire.
			cfg.TTL, cfg.TTLJitter = 365*24*time.Hour, 0
		} else {
			cfg.TTL = time.Duration(float64(cfg.TTL) / clock.speed)
			cfg.NegativeTTL = time.Duration(float64(cfg.NegativeTTL) / clock.speed)
		}
		if cache, err = o.Decorate(s, counter, cfg); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, cache.Close()) }()
		users = cache
	}
	server, err := service.Start(service.Config{
		Addr: "127.0.0.1:0", Bot: service.Bot{Users: users},
		Meters: noop.NewMeterProvider(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, server.Shutdown(ctx))
	}()

	d := &drive{Options: o, name: name, clock: clock, chat: chat, counter: counter, cache: cache, url: server.URL() + "/message/handle"}
	result, err := d.run(ctx)
	if err != nil {
		return nil, err
	}
	result.Reads, result.Writes = counter.reads.Load(), counter.writes.Load()
	if cache != nil {
		result.Stats = cache.Stats()
	}
	result.StaleAtEnd, err = check(ctx, chat, users, s.Users)
	return result, err
}

// check looks every user up, and counts those whose answer differs from what
// the service has acknowledged last, or from what the repository holds.
func check(ctx context.Context, c *chat, users, repository service.Users) (stale int, err error) {
	for user, known := range c.acked {
		got, err := users.GetUserByPlatformID(ctx, platform, platformID(user))
		if err != nil {
			return stale, fmt.Errorf("the lookup of user %d at the end: %w", user, err)
		}
		stored, err := repository.GetUserByPlatformID(ctx, platform, platformID(user))
		if err != nil {
			return stale, fmt.Errorf("the lookup of user %d in the repository at the end: %w", user, err)
		}
		name := accountName(service.Reply{User: *got}, user)
		if (acknowledged{got.ID, name}) != known || !reflect.DeepEqual(got, stored) {
			stale++
		}
	}
	return stale, nil
}

// drive sends the messages of one run.
type drive struct {
	Options
	name    string
	clock   clock
	chat    *chat
	counter *counter
	cache   Cache // nil without one
	url     string
	client  http.Client

	answered, stale atomic.Int64
}

// run shares the users out among the workers, and hands each the messages of
// its own in order. The queues are short, so that no worker runs far ahead of
// the others in the trace's time.
func (d *drive) run(ctx context.Context) (*Result, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: d.Workers}
	defer transport.CloseIdleConnections()
	d.client = http.Client{Transport: transport, Timeout: time.Minute}

	events := d.clock.trace.Events
	tenth := int64(max(1, len(events)/10))
	queues := make([]chan int, d.Workers)
	timings := make([][]timing, d.Workers)
	group, ctx := errgroup.WithContext(ctx)
	for w := range queues {
		queues[w] = make(chan int, 4)
		group.Go(func() error {
			for i := range queues[w] {
				t, err := d.send(ctx, i)
				if err != nil {
					return fmt.Errorf("%s, message %d of %d: %w", d.name, i+1, len(events), err)
				}
				timings[w] = append(timings[w], t)
				if n := d.answered.Add(1); n%tenth == 0 || int(n) == len(events) {
					d.Progress(d.name, int(n), len(events))
				}
			}
			return nil
		})
	}
	began := time.Now()
	group.Go(func() error {
		defer func() {
			for _, q := range queues {
				close(q)
			}
		}()
		for i, e := range events {
			if err := wait(ctx, time.Until(began.Add(d.clock.due(i)))); err != nil {
				return err
			}
			select {
			case queues[e.User%d.Workers] <- i:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return newResult(slices.Concat(timings...), time.Since(began), d.stale.Load()), nil
}

// wait returns when a time has passed, or with an error when ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// send sends the message of one event and looks at the answer. It returns how
// long that took.
func (d *drive) send(ctx context.Context, i int) (timing, error) {
	e := d.clock.trace.Events[i]
	if d.cache != nil && d.clock.speed == 0 && d.counter.age(e.User, e.At) >= d.clock.ttl {
		d.cache.Invalidate(usercache.Identity{Accounts: []usercache.Account{{Platform: platform, ID: platformID(e.User)}}})
	}
	d.counter.now[e.User].Store(int64(e.At))
	body, err := json.Marshal(d.chat.message(i))
	if err != nil {
		return timing{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url, bytes.NewReader(body))
	if err != nil {
		return timing{}, err
	}
	request.Header.Set("Content-Type", "application/json")

	began := time.Now()
	response, err := d.client.Do(request)
	if err != nil {
		return timing{}, err
	}
	answer, err := io.ReadAll(response.Body)
	took := time.Since(began)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return timing{}, err
	}
	if response.StatusCode != http.StatusOK {
		return timing{}, fmt.Errorf("%s: %s", response.Status, answer)
	}
	var reply service.Reply
	if err := json.Unmarshal(answer, &reply); err != nil {
		return timing{}, fmt.Errorf("the answer %.200q: %w", answer, err)
	}
	if d.chat.stale(i, reply) {
		d.stale.Add(1)
	}
	return timing{took, reply.Registered || reply.Renamed}, nil
}
