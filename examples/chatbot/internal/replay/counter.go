package replay

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/examples/chatbot/internal/service"
)

// platform is where all users of a trace have their accounts. The platform ID
// of a user is the number in the trace.
const platform = "replay"

func platformID(user int) string { return strconv.Itoa(user) }

// counter stands between the cache and the repository. It counts the calls
// that come through, and notes at which time of the trace each user was last
// looked up there.
type counter struct {
	users         service.Users
	reads, writes atomic.Int64
	now, loaded   []atomic.Int64 // by user, as time.Duration since the start of the trace
}

var _ service.Users = (*counter)(nil)

func newCounter(users service.Users, n int) *counter {
	return &counter{users: users, now: make([]atomic.Int64, n), loaded: make([]atomic.Int64, n)}
}

// load notes a lookup of a user.
func (c *counter) load(platformID string) {
	c.reads.Add(1)
	if user, err := strconv.Atoi(platformID); err == nil && user >= 0 && user < len(c.now) {
		c.loaded[user].Store(c.now[user].Load())
	}
}

// age is how long ago, in the trace's time, what is known of a user at a
// moment was looked up.
func (c *counter) age(user int, at time.Duration) time.Duration {
	return at - time.Duration(c.loaded[user].Load())
}

func (c *counter) GetUserByID(ctx context.Context, userID string) (*usercache.User, error) {
	c.reads.Add(1)
	return c.users.GetUserByID(ctx, userID)
}

func (c *counter) GetUserByPlatformID(ctx context.Context, platform, platformID string) (*usercache.User, error) {
	c.load(platformID)
	return c.users.GetUserByPlatformID(ctx, platform, platformID)
}

func (c *counter) GetUserByPlatformUsername(ctx context.Context, platform, username string) (*usercache.User, error) {
	c.reads.Add(1)
	return c.users.GetUserByPlatformUsername(ctx, platform, username)
}

func (c *counter) UpsertUser(ctx context.Context, user *usercache.User) error {
	c.writes.Add(1)
	return c.users.UpsertUser(ctx, user)
}

func (c *counter) UpdateUser(ctx context.Context, user usercache.User) error {
	c.writes.Add(1)
	return c.users.UpdateUser(ctx, user)
}

func (c *counter) DeleteUser(ctx context.Context, userID string) error {
	c.writes.Add(1)
	return c.users.DeleteUser(ctx, userID)
}

func (c *counter) MergeUsers(ctx context.Context, primaryUserID, secondaryUserID string, merged usercache.User) error {
	c.writes.Add(1)
	return c.users.MergeUsers(ctx, primaryUserID, secondaryUserID, merged)
}
