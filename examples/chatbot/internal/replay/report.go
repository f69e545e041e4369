package replay

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/osse101/usercache"
)

// Report is what a replay has found.
type Report struct {
	Trace         *Trace
	Database      string
	Speed         float64
	Workers       int
	Cache         usercache.Config
	Ideal         float64 // part of the messages
	Without, With *Result
}

// Result is what one run has found.
type Result struct {
	P50, P95, P99 time.Duration // of /message/handle, as its client sees it
	ReadingP95    time.Duration // of the messages that changed nothing
	Took          time.Duration
	Changed       int   // messages that registered a user or renamed one
	Reads, Writes int64 // calls that reached the repository
	Stats         usercache.Stats
	Stale         int64 // answers
	StaleAtEnd    int   // users
}

func (r *Result) calls() int64 { return r.Reads + r.Writes }

// timing is how long one message took.
type timing struct {
	took    time.Duration
	changed bool // it registered a user or renamed one
}

func newResult(timings []timing, all time.Duration, stale int64) *Result {
	slices.SortFunc(timings, func(a, b timing) int { return cmp.Compare(a.took, b.took) })
	reading := slices.DeleteFunc(slices.Clone(timings), func(t timing) bool { return t.changed })
	return &Result{
		P50: percentile(timings, 50), P95: percentile(timings, 95), P99: percentile(timings, 99),
		ReadingP95: percentile(reading, 95), Changed: len(timings) - len(reading),
		Took: all, Stale: stale,
	}
}

// percentile is that of the nearest rank; 0 of nothing.
func percentile(sorted []timing, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)*percent+99)/100-1].took
}

// HitRate is the part of the messages whose sender was found in memory. Every
// message begins with one lookup; those that follow a write always go to the
// repository.
func (r *Report) HitRate() float64 {
	return float64(r.With.Stats.TotalHits()) / float64(len(r.Trace.Events))
}

// CallsSaved is the part of all calls to the repository, lookups and writes,
// that the cache spares it.
func (r *Report) CallsSaved() float64 {
	return 1 - float64(r.With.calls())/float64(r.Without.calls())
}

// Stale is how many answers, and lookups of users at the end, were stale, in
// either run.
func (r *Report) Stale() int64 {
	return r.Without.Stale + r.With.Stale + int64(r.Without.StaleAtEnd+r.With.StaleAtEnd)
}

// Err returns an error if anything was stale.
func (r *Report) Err() error {
	if n := r.Stale(); n > 0 {
		return fmt.Errorf("%d stale answers", n)
	}
	return nil
}

// Write writes the report for a person to read.
func (r *Report) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	n := len(r.Trace.Events)
	line := func(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) } // t keeps errors for Flush
	change := func(what string, without, with any, ratio float64) {
		line("%s\t%v\t%v\t%+.1f %%", what, without, with, 100*(ratio-1))
	}
	count := func(what string, without, with int64) {
		change(what, without, with, float64(with)/float64(without))
	}
	latency := func(what string, without, with time.Duration) {
		change(what, without.Round(time.Microsecond), with.Round(time.Microsecond), float64(with)/float64(without))
	}
	line("trace\t%s: %d messages by %d users in %v", r.Trace.Name, n, r.Trace.Users, r.Trace.Span().Round(time.Second))
	line("\t%d of them register a user or rename one", r.With.Changed)
	line("database\t%s", r.Database)
	line("cache\t%d answers, TTL %v", r.Cache.Size, r.Cache.TTL)
	line("speed\t%s", r.speed())
	line("workers\t%d", r.Workers)
	line("")
	line("\twithout cache\twith cache\tchange")
	count("repository lookups", r.Without.Reads, r.With.Reads)
	count("repository writes", r.Without.Writes, r.With.Writes)
	count("repository calls", r.Without.calls(), r.With.calls())
	latency("/message/handle P50", r.Without.P50, r.With.P50)
	latency("/message/handle P95", r.Without.P95, r.With.P95)
	latency("/message/handle P99", r.Without.P99, r.With.P99)
	latency("P95 of what changed nothing", r.Without.ReadingP95, r.With.ReadingP95)
	count("messages per second", perSecond(n, r.Without.Took), perSecond(n, r.With.Took))
	line("stale answers\t%d\t%d", r.Without.Stale, r.With.Stale)
	line("stale users at the end\t%d\t%d", r.Without.StaleAtEnd, r.With.StaleAtEnd)
	line("")
	line("hit rate\t%.1f %% of messages (an ideal LRU: %.1f %%)", 100*r.HitRate(), 100*r.Ideal)
	line("repository calls saved\t%.1f %%", 100*r.CallsSaved())
	line("stale answers\t%d", r.Stale())
	return t.Flush()
}

func perSecond(n int, took time.Duration) int64 { return int64(float64(n) / took.Seconds()) }

// speed says how time passed, and what became of the TTL.
func (r *Report) speed() string {
	if r.Speed == 0 {
		return "max: messages are not paced, and answers do not expire by the clock; each is invalidated once its load is a TTL of the trace's time old"
	}
	return fmt.Sprintf("%v times: the TTLs are divided by it; silences are cut to the TTL and a second", r.Speed)
}
