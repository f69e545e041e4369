package service

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/osse101/usercache"
)

// Toucher records that accounts were active. The PostgreSQL repository is one.
type Toucher interface {
	TouchActivity(ctx context.Context, at time.Time, accounts ...usercache.Account) error
}

// maxActive bounds how many accounts are remembered between two batches.
const maxActive = 100_000

// Activity gathers which accounts were active and records them in batches, for
// the cache to be warmed with after a restart. It is safe for concurrent use.
type Activity struct {
	to     Toucher
	every  time.Duration
	logger *slog.Logger

	mu     sync.Mutex
	active map[usercache.Account]struct{}
}

// NewActivity returns an Activity that records to the Toucher.
func NewActivity(to Toucher, every time.Duration, logger *slog.Logger) *Activity {
	return &Activity{to: to, every: every, logger: logger, active: make(map[usercache.Account]struct{})}
}

// Seen notes that an account was active. Beyond 100 000 accounts in one batch,
// further ones are left out: they would not fit a warm cache either.
func (a *Activity) Seen(platform, platformID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.active) < maxActive {
		a.active[usercache.Account{Platform: platform, ID: platformID}] = struct{}{}
	}
}

// Record writes what was gathered to the repository. A batch that fails is
// lost: it makes the next start a little colder.
func (a *Activity) Record(ctx context.Context) error {
	a.mu.Lock()
	accounts := make([]usercache.Account, 0, len(a.active))
	for account := range a.active {
		accounts = append(accounts, account)
	}
	clear(a.active)
	a.mu.Unlock()
	if len(accounts) == 0 {
		return nil
	}
	return a.to.TouchActivity(ctx, time.Now(), accounts...)
}

// Run records a batch at every interval until ctx ends.
func (a *Activity) Run(ctx context.Context) {
	tick := time.NewTicker(a.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := a.Record(ctx); err != nil {
				a.logger.WarnContext(ctx, "activity is not recorded", slog.String("error_type", fmt.Sprintf("%T", err)))
			}
		}
	}
}
