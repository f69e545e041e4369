package histories

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"

	"github.com/osse101/usercache"
)

// ErrLost is how a [Chaos] fails a write. It says nothing about whether the
// write has been applied.
var ErrLost = errors.New("histories: the answer was lost")

// Fault is how a write may fail.
type Fault int

const (
	// Applied writes fail after they have been applied.
	Applied Fault = 1 << iota
	// Dropped writes fail and are never applied.
	Dropped
	// Late writes fail first and are applied afterwards.
	Late
)

// Chaos is a repository that stretches every call by a random time and fails
// some writes. It belongs between a cache and its repository, and tells
// [Record] what has become of the writes that it failed.
type Chaos struct {
	repo usercache.Repository[usercache.User]
	// Faults are those that occur; 0 for none.
	Faults Fault
	// FaultRate is the part of the writes that fail.
	FaultRate float64

	mu     sync.Mutex
	random *rand.Rand
}

// NewChaos returns a Chaos without faults. The same seed makes the same
// choices, in the order in which calls come in.
func NewChaos(repo usercache.Repository[usercache.User], seed uint64) *Chaos {
	return &Chaos{repo: repo, random: rand.New(rand.NewPCG(seed, 1))}
}

// fate is what has become of a write.
type fate int

const (
	asAnswered fate = iota // the answer says it
	applied                // in spite of an error
	dropped
	unknown
)

// attempt is one call by a worker, as the Chaos beneath tells of it.
type attempt struct {
	fate    fate
	created string        // ID of a user that a failed write has created
	late    chan struct{} // if it is set, it is closed when the write is applied
}

type attemptKey struct{}

var _ usercache.Repository[usercache.User] = (*Chaos)(nil)

func (c *Chaos) intn(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.random.IntN(n)
}

// linger lets others go first, a few times.
func (c *Chaos) linger() {
	for range c.intn(6) {
		runtime.Gosched()
	}
}

// fault chooses what becomes of a write; 0 for nothing special.
func (c *Chaos) fault() Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Faults == 0 || c.random.Float64() >= c.FaultRate {
		return 0
	}
	for {
		if f := Fault(1 << c.random.IntN(3)); c.Faults&f != 0 {
			return f
		}
	}
}

// write makes a write, which may create a user with the ID that it returns.
func (c *Chaos) write(ctx context.Context, do func(context.Context) (created string, err error)) error {
	c.linger()
	defer c.linger()
	tell, ok := ctx.Value(attemptKey{}).(*attempt)
	fault := c.fault()
	if !ok || fault == 0 {
		_, err := do(ctx)
		return err
	}
	switch fault {
	case Dropped:
		tell.fate = dropped
	case Late:
		tell.fate = applied
		tell.late = make(chan struct{})
		go func() {
			defer close(tell.late)
			for range 10 + c.intn(30) {
				runtime.Gosched()
			}
			tell.apply(context.WithoutCancel(ctx), do)
		}()
	default:
		tell.fate = applied
		tell.apply(ctx, do)
	}
	return ErrLost
}

// apply applies a write whose answer is lost. One that the repository refuses
// has changed nothing, in whatever state it was made.
func (a *attempt) apply(ctx context.Context, do func(context.Context) (string, error)) {
	created, err := do(ctx)
	a.created = created
	if err != nil {
		a.fate = dropped
	}
}

// UpsertUser implements usercache.Repository.
func (c *Chaos) UpsertUser(ctx context.Context, user *usercache.User) error {
	mine := *user // a lost answer brings no ID
	err := c.write(ctx, func(ctx context.Context) (string, error) {
		err := c.repo.UpsertUser(ctx, &mine)
		return mine.ID, err
	})
	if err == nil {
		*user = mine
	}
	return err
}

// UpdateUser implements usercache.Repository.
func (c *Chaos) UpdateUser(ctx context.Context, user usercache.User) error {
	return c.write(ctx, func(ctx context.Context) (string, error) { return "", c.repo.UpdateUser(ctx, user) })
}

// DeleteUser implements usercache.Repository.
func (c *Chaos) DeleteUser(ctx context.Context, userID string) error {
	return c.write(ctx, func(ctx context.Context) (string, error) { return "", c.repo.DeleteUser(ctx, userID) })
}

// MergeUsers implements usercache.Repository.
func (c *Chaos) MergeUsers(ctx context.Context, primaryUserID, secondaryUserID string, merged usercache.User) error {
	return c.write(ctx, func(ctx context.Context) (string, error) {
		return "", c.repo.MergeUsers(ctx, primaryUserID, secondaryUserID, merged)
	})
}

// GetUserByID implements usercache.Repository.
func (c *Chaos) GetUserByID(ctx context.Context, userID string) (*usercache.User, error) {
	c.linger()
	defer c.linger()
	return c.repo.GetUserByID(ctx, userID)
}

// GetUserByPlatformID implements usercache.Repository.
func (c *Chaos) GetUserByPlatformID(ctx context.Context, platform, platformID string) (*usercache.User, error) {
	c.linger()
	defer c.linger()
	return c.repo.GetUserByPlatformID(ctx, platform, platformID)
}

// GetUserByPlatformUsername implements usercache.Repository.
func (c *Chaos) GetUserByPlatformUsername(ctx context.Context, platform, username string) (*usercache.User, error) {
	c.linger()
	defer c.linger()
	return c.repo.GetUserByPlatformUsername(ctx, platform, username)
}
