// Package replay sends the messages of a chat, as they were once said, to the
// chat bot over real HTTP: once without a cache and once with it. It measures
// both and looks for stale answers.
package replay
