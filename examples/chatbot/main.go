// Command chatbot is a small chat bot over a cached user repository, and a
// replay of a chat that measures what the cache is worth.
//
//	chatbot [serve] [flags]   serve messages (the default)
//	chatbot replay [flags]    replay a chat without the cache and with it
//	chatbot help              say what there is
//
// The environment configures both: DATABASE_URL names a PostgreSQL database
// (an SQLite file serves without it), the variables USER_CACHE_* the cache.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

const usage = `chatbot is a small chat bot over a cached user repository.

  chatbot [serve] [flags]   serve messages (the default)
  chatbot replay [flags]    replay a chat without the cache and with it
  chatbot help              this

Flags of a command: chatbot <command> -h

Environment:
  DATABASE_URL   a PostgreSQL database, as postgres://user:password@host/name; without it, users are kept in SQLite
  USER_CACHE_*   the cache: SIZE, TTL, NEGATIVE_TTL, TTL_JITTER, LOAD_TIMEOUT, UNCERTAINTY, ENABLED
`

func main() {
	// The first signal stops gracefully; the second at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run runs a command and returns the exit code: 0, 1 if it failed, 2 if it
// was called wrongly.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	command := "serve"
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		command, args = args[0], args[1:]
	}
	var err error
	switch command {
	case "serve":
		err = serve(ctx, args, stderr)
	case "replay":
		err = replayChat(ctx, args, stdout, stderr)
	case "help":
		fmt.Fprint(stdout, usage)
	default:
		err = misuse{fmt.Errorf("no command %q: must be serve, replay or help", command)}
	}
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, new(misuse)):
		fmt.Fprintln(stderr, "chatbot:", err)
		return 2
	default:
		fmt.Fprintln(stderr, "chatbot:", err)
		return 1
	}
}

// misuse is the error of a call that the usage does not allow.
type misuse struct{ error }

func (m misuse) Unwrap() error { return m.error }

// parse parses the flags of a command, which takes no other arguments.
func parse(flags *flag.FlagSet, args []string, stderr io.Writer) error {
	flags.SetOutput(stderr)
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("%s takes no argument %q", flags.Name(), flags.Arg(0))
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		return misuse{err}
	}
	return err
}
