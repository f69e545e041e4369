package service

import (
	"context"
	"errors"
	"fmt"

	"github.com/osse101/usercache"
)

// Users is where the bot looks users up, and writes what it learns about them.
type Users = usercache.Repository[usercache.User]

// Message is what somebody said on a chat platform.
type Message struct {
	Platform   string `json:"platform"`
	PlatformID string `json:"platform_id"`
	Username   string `json:"username"`
	Text       string `json:"text"`
}

// Reply is the bot's answer to a [Message].
type Reply struct {
	// User is the sender, as the repository has it after the message.
	User usercache.User `json:"user"`
	// Registered says that the sender was unknown until this message.
	Registered bool `json:"registered"`
	// Renamed says that the message came under a name that was new.
	Renamed bool `json:"renamed"`
	// Text is what the bot says.
	Text string `json:"text"`
}

// Bot answers messages. It is safe for concurrent use.
type Bot struct {
	Users Users
	// Seen, if set, is told of every account that has spoken.
	Seen func(platform, platformID string)
}

// Handle answers a message. The sender is looked up once; only who is unknown,
// or has another name than before, costs writes and further lookups. Errors
// are the repository's own.
func (b Bot) Handle(ctx context.Context, m Message) (Reply, error) {
	var r Reply
	user, err := b.Users.GetUserByPlatformID(ctx, m.Platform, m.PlatformID)
	switch {
	case errors.Is(err, usercache.ErrUserNotFound):
		r.Registered = true
		user, err = b.save(ctx, m, usercache.User{Username: m.Username})
	case err == nil && nameOf(user, m) != m.Username:
		r.Renamed = true
		user, err = b.rename(ctx, m)
	}
	if err != nil {
		return Reply{}, err
	}
	if b.Seen != nil {
		b.Seen(m.Platform, m.PlatformID)
	}
	r.User = *user
	switch {
	case r.Registered:
		r.Text = fmt.Sprintf("Welcome, %s!", m.Username)
	case r.Renamed:
		r.Text = fmt.Sprintf("From now on you are %s.", m.Username)
	default:
		r.Text = fmt.Sprintf("Hello, %s.", m.Username)
	}
	return r, nil
}

// rename writes the account's new name back, and the user's own with it if the
// two were the same. What is about to be overwritten is read from the
// repository, not from a cache.
func (b Bot) rename(ctx context.Context, m Message) (*usercache.User, error) {
	user, err := b.Users.GetUserByPlatformID(usercache.Fresh(ctx), m.Platform, m.PlatformID)
	if err != nil {
		return nil, err
	}
	change := usercache.User{ID: user.ID, Username: user.Username}
	if user.Username == nameOf(user, m) {
		change.Username = m.Username
	}
	return b.save(ctx, m, change)
}

// save writes the user with the sender's account and returns what the
// repository made of it.
func (b Bot) save(ctx context.Context, m Message, user usercache.User) (*usercache.User, error) {
	user.Accounts = []usercache.Account{{Platform: m.Platform, ID: m.PlatformID, Username: m.Username}}
	if err := b.Users.UpsertUser(ctx, &user); err != nil {
		return nil, err
	}
	return b.Users.GetUserByPlatformID(ctx, m.Platform, m.PlatformID)
}

// nameOf is the name under which the sender's account is known so far.
func nameOf(user *usercache.User, m Message) string {
	for _, a := range user.Accounts {
		if a.Platform == m.Platform && a.ID == m.PlatformID {
			return a.Username
		}
	}
	return ""
}
