// Package usercache puts an in-process cache in front of a user repository.
//
// [CachedRepository] implements the interface of the repository that it
// decorates and takes its place where dependencies are wired:
//
//	users, err := usercache.New(repo, usercache.UserSchema())
//
// From then on repeated lookups are answered from memory, and writes
// invalidate what they may change.
//
// # What is promised
//
// An answer comes from memory only if no write that could change it has been
// in progress, or has finished, since the load of that answer began. As long as
// every write goes through the one CachedRepository, each lookup is as fresh as
// the repository's own answer, whatever races whatever. Writes behind its back
// are bracketed by [CachedRepository.Mutate] or told to
// [CachedRepository.Invalidate]; those that nobody tells it are seen when the
// TTL of an answer is over.
//
// Package internal/coherence keeps the promise and explains how.
//
// # An application's own user type
//
// CachedRepository and [Repository] take the application's user struct as a
// type parameter, and a [Schema] says how to name a user and how to copy one. A
// repository with more methods embeds the CachedRepository beside the rest and
// brackets its own writes with Mutate.
//
// # Configuration and telemetry
//
// Options configure [New]; [ConfigFromEnv] reads the environment variables
// whose names begin with USER_CACHE_. OpenTelemetry metrics and spans report
// what the cache does, and [CachedRepository.Stats] gives the same figures to
// Go code. None of them names a user.
package usercache
