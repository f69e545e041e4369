package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/examples/chatbot/internal/replay"
	"github.com/osse101/usercache/examples/chatbot/internal/store"
)

// replayChat replays a chat and prints a report. It fails if an answer was
// stale.
func replayChat(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("chatbot replay", flag.ContinueOnError)
	path := flags.String("trace", "", "CSV `file`, gzipped or not, with the header offset_ms,user; without it, a chat is generated")
	seed := flags.Uint64("seed", 1, "seed of the generated chat")
	speed := flags.String("speed", "max", "how many times as fast as the chat was, or max: as fast as it goes, with answers expiring by the trace's time")
	workers := flags.Int("workers", 4, "messages that are under way at a time")
	if err := parse(flags, args, stderr); err != nil {
		return err
	}
	times, err := parseSpeed(*speed)
	if err != nil {
		return misuse{err}
	}
	if *workers < 1 {
		return misuse{fmt.Errorf("-workers %d: must be at least 1", *workers)}
	}
	cfg, err := usercache.ConfigFromEnv(ctx)
	if err != nil {
		return err
	}
	trace := replay.Generate(*seed)
	if *path != "" {
		if trace, err = replay.Open(*path); err != nil {
			return err
		}
	}
	report, err := replay.Run(ctx, replay.Options{
		Trace: trace, Speed: times, Workers: *workers, Cache: cfg,
		Open: func(ctx context.Context) (*store.Store, error) {
			return store.OpenTemporary(ctx, os.Getenv("DATABASE_URL"))
		},
		Progress: func(run string, answered, of int) {
			fmt.Fprintf(stderr, "%s: %d of %d messages\n", run, answered, of)
		},
	})
	if err != nil {
		return err
	}
	if err := report.Write(stdout); err != nil {
		return err
	}
	return report.Err()
}

// parseSpeed returns 0 for max.
func parseSpeed(s string) (float64, error) {
	if s == "max" {
		return 0, nil
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n > 0) || math.IsInf(n, 0) {
		return 0, fmt.Errorf("-speed %q: must be max or a number above 0", s)
	}
	return n, nil
}
