package histories

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
)

// Check looks for an order of the calls that explains every answer. If there
// is none it returns an error, which lists a smaller history that has none
// either, and names a file with a picture of it that a browser shows.
func (h History) Check() error {
	if porcupine.CheckOperations(model, operations(h.events)) {
		return nil
	}
	events := shrink(h.events)
	_, info := porcupine.CheckOperationsVerbose(model, operations(events), 0)
	picture := "no picture"
	if f, err := os.CreateTemp("", "history-*.html"); err == nil {
		if err := errorsJoinClose(porcupine.Visualize(model, info, f), f); err == nil {
			picture = "a picture: " + f.Name()
		}
	}
	return fmt.Errorf("history %d has no order that explains it (%s):\n%s", h.seed, picture, list(events))
}

func errorsJoinClose(err error, f *os.File) error {
	if closing := f.Close(); err == nil {
		return closing
	}
	return err
}

// shrink leaves out what the rest is incoherent without: lookups, then what
// began after all of those had ended, then writes. A write stays if without it
// the answers of the lookups were never right, not even too late: then it is
// what they saw.
func shrink(events []event) []event {
	legal := func(events []event) bool { return porcupine.CheckOperations(model, operations(events)) }
	events = slices.Clone(events)
	slices.SortFunc(events, func(a, b event) int { return cmp.Compare(b.began, a.began) }) // the last first
	leaveOut := func(may func(event) bool, still func([]event) bool) {
		for i := 0; i < len(events); {
			if fewer := slices.Delete(slices.Clone(events), i, i+1); may(events[i]) && still(fewer) {
				events = fewer
				continue
			}
			i++
		}
	}
	leaveOut(func(e event) bool { return e.call.reads() }, func(fewer []event) bool { return !legal(fewer) })
	last := int64(0)
	for _, e := range events {
		if e.call.reads() {
			last = max(last, e.ended)
		}
	}
	if fewer := slices.DeleteFunc(slices.Clone(events), func(e event) bool { return e.began > last }); !legal(fewer) {
		events = fewer
	}
	leaveOut(func(e event) bool { return !e.call.reads() }, func(fewer []event) bool { return !legal(fewer) && legal(aged(fewer)) })
	slices.Reverse(events)
	return events
}

// aged are the events with lookups that may be as old as the history.
func aged(events []event) []event {
	events = slices.Clone(events)
	for i, e := range events {
		if e.call.reads() {
			events[i].began = 0
		}
	}
	return events
}

// list is one line for each event, in the order in which they began.
func list(events []event) string {
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintf(&b, "%6d to %-6s worker %d: %s: %s\n", e.began, ending(e), e.worker, e.call, e.result())
	}
	return b.String()
}

func ending(e event) string {
	if e.fate == unknown {
		return "?"
	}
	return fmt.Sprint(e.ended)
}

// result says what came of the call.
func (e event) result() string {
	fates := map[fate]string{applied: " (but was applied)", dropped: " (and was not applied)", unknown: " (and may be applied)"}
	switch {
	case e.outcome != done:
		return e.errorText + fates[e.fate]
	case e.call.reads():
		return e.found.String()
	case e.call.method == upsert:
		return "ok " + short(e.created)
	default:
		return "ok"
	}
}

func operations(events []event) []porcupine.Operation {
	ops := make([]porcupine.Operation, len(events))
	for i, e := range events {
		ops[i] = porcupine.Operation{ClientId: e.worker, Input: e.call, Call: e.began, Output: e, Return: e.ended}
	}
	return ops
}

// model is a repository that does one thing at a time. A write whose fate is
// unknown leads to two states.
var model = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{state(nil)} },
	Step: func(s, input, output any) []any {
		before, c, e := s.(state), input.(call), output.(event)
		if c.reads() {
			if p, found := before.read(c); found != (e.outcome == done) || p != e.found {
				return nil
			}
			return []any{before}
		}
		after, ok := before.write(c, e.created)
		switch {
		case e.outcome != failed:
			if ok != (e.outcome == done) {
				return nil
			}
			return []any{after}
		case e.fate == dropped:
			return []any{before}
		case e.fate == applied:
			if !ok {
				return nil
			}
			return []any{after}
		default:
			return []any{before, after}
		}
	},
	Equal: func(a, b any) bool { return slices.Equal(a.(state), b.(state)) },
	DescribeOperation: func(input, output any) string {
		return fmt.Sprintf("%v: %s", input, output.(event).result())
	},
	DescribeState: func(s any) string { return fmt.Sprint(s) },
}).ToModel()
