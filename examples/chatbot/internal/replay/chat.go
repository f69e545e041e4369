package replay

import (
	"fmt"
	"time"

	"github.com/osse101/usercache/examples/chatbot/internal/service"
)

// A chat is what the users of a trace say, under which names. Everybody's
// messages are sent in order, so that what the service must know of a user is
// always certain: what it acknowledged last.
type chat struct {
	trace *Trace
	names []string       // of each event, the name that it comes under
	acked []acknowledged // by user; each belongs to the worker that sends for the user
}

// acknowledged is what the service has said last of a user.
type acknowledged struct{ id, name string }

// renameEvery is how many messages pass, on average, before one comes under a
// new name.
const renameEvery = 200

func newChat(t *Trace) *chat {
	c := &chat{trace: t, names: make([]string, len(t.Events)), acked: make([]acknowledged, t.Users)}
	version := make([]int, t.Users)
	for i, e := range t.Events {
		if mix(uint64(i))%renameEvery == 0 {
			version[e.User]++
		}
		c.names[i] = fmt.Sprintf("viewer%d_%d", e.User, version[e.User])
	}
	return c
}

// mix spreads the bits of n: the finaliser of SplitMix64 (Steele, Lea and
// Flood, 2014). It renames the same users in every run.
func mix(n uint64) uint64 {
	n += 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

// message is the one that is sent for an event.
func (c *chat) message(i int) service.Message {
	return service.Message{
		Platform:   platform,
		PlatformID: platformID(c.trace.Events[i].User),
		Username:   c.names[i],
		Text:       "!hello",
	}
}

// stale reports whether an answer is at odds with what the service has
// acknowledged to the same user before, and takes note of what it says now.
func (c *chat) stale(i int, r service.Reply) bool {
	known := &c.acked[c.trace.Events[i].User]
	name := accountName(r, c.trace.Events[i].User)
	unknown := *known == acknowledged{}
	stale := r.Registered != unknown ||
		r.Renamed != (!unknown && known.name != c.names[i]) ||
		!unknown && r.User.ID != known.id ||
		name != c.names[i] || r.User.Username != c.names[i]
	*known = acknowledged{id: r.User.ID, name: name}
	return stale
}

// accountName is the name of the user's account, as an answer has it.
func accountName(r service.Reply, user int) string {
	for _, a := range r.User.Accounts {
		if a.Platform == platform && a.ID == platformID(user) {
			return a.Username
		}
	}
	return ""
}

// clock says when each message is sent, and how old an answer may become.
type clock struct {
	trace *Trace  // with the silences that are waited for
	speed float64 // 0: as fast as it goes
	ttl   time.Duration
}

// newClock returns the clock for a trace. With a speed, the TTL is divided by
// it as all times are, and a silence longer than the TTL is cut to one that
// still empties the cache.
func newClock(t *Trace, speed float64, ttl time.Duration) (clock, error) {
	if speed == 0 {
		return clock{trace: t, ttl: ttl}, nil
	}
	const shortest = time.Millisecond
	if scaled := time.Duration(float64(ttl) / speed); scaled < shortest {
		return clock{}, fmt.Errorf("-speed %v: makes of the TTL of %v one of %v: must leave at least %v", speed, ttl, scaled, shortest)
	}
	return clock{trace: t.compress(ttl + time.Second), speed: speed, ttl: ttl}, nil
}

// due is the time after the start at which an event is sent.
func (c clock) due(i int) time.Duration {
	if c.speed == 0 {
		return 0
	}
	return time.Duration(float64(c.trace.Events[i].At-c.trace.Events[0].At) / c.speed)
}
