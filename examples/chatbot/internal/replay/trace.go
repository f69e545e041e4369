package replay

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"container/list"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Trace is who spoke when.
type Trace struct {
	Name   string
	Events []Event // in order of At
	Users  int     // how many spoke
}

// Event is one message.
type Event struct {
	At   time.Duration // since the start of the trace
	User int           // from 0, in order of first appearance
}

// Span is the time from the first message to the last.
func (t *Trace) Span() time.Duration {
	return t.Events[len(t.Events)-1].At - t.Events[0].At
}

// Open reads the trace in a file.
func Open(path string) (*Trace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	t, err := Read(filepath.Base(path), f)
	return t, errors.Join(err, f.Close())
}

// Read reads a trace: CSV, gzipped or not, with the header offset_ms,user and
// one line for each message, sorted by time. offset_ms is a whole number of
// milliseconds, user any name. Errors name the line.
func Read(name string, r io.Reader) (*Trace, error) {
	buffered := bufio.NewReader(r)
	r = buffered
	if magic, err := buffered.Peek(2); err == nil && bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unzipped, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, fmt.Errorf("trace %s: %w", name, err)
		}
		r = unzipped
	}
	t := &Trace{Name: name}
	c := csv.NewReader(r)
	c.FieldsPerRecord = 2
	c.ReuseRecord = true
	numbers := make(map[string]int)
	for first := true; ; first = false {
		fields, err := c.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil { // of package csv, which names the line
			return nil, fmt.Errorf("trace %s: %w", name, err)
		}
		if first {
			if fields[0] != "offset_ms" || fields[1] != "user" {
				return nil, fmt.Errorf("trace %s: line 1: the header is %q: must be offset_ms,user", name, fields)
			}
			continue
		}
		if err := t.add(fields[0], fields[1], numbers); err != nil {
			line, _ := c.FieldPos(0)
			return nil, fmt.Errorf("trace %s: line %d: %w", name, line, err)
		}
	}
	if len(t.Events) == 0 {
		return nil, fmt.Errorf("trace %s: no message in it", name)
	}
	return t, nil
}

// add appends the message of one line.
func (t *Trace) add(offset, user string, numbers map[string]int) error {
	const longest = math.MaxInt64 / int64(time.Millisecond)
	ms, err := strconv.ParseInt(offset, 10, 64)
	if err != nil || ms < 0 || ms > longest {
		return fmt.Errorf("offset_ms is %q: must be a whole number from 0 to %d", offset, longest)
	}
	at := time.Duration(ms) * time.Millisecond
	if n := len(t.Events); n > 0 && at < t.Events[n-1].At {
		return fmt.Errorf("offset_ms is %d, before the line above it: lines must be sorted by time", ms)
	}
	if user == "" {
		return errors.New("user is empty")
	}
	t.say(at, user, numbers)
	return nil
}

// say appends a message by a user, who gets a number on first appearance.
func (t *Trace) say(at time.Duration, user string, numbers map[string]int) {
	number, known := numbers[user]
	if !known {
		number = t.Users
		numbers[user] = number
		t.Users++
	}
	t.Events = append(t.Events, Event{At: at, User: number})
}

// compress returns the trace with every silence that is longer than the
// longest given cut to that.
func (t *Trace) compress(longest time.Duration) *Trace {
	c := *t
	c.Events = make([]Event, len(t.Events))
	var cut time.Duration
	for i, e := range t.Events {
		if i > 0 {
			cut += max(0, e.At-t.Events[i-1].At-longest)
		}
		c.Events[i] = Event{At: e.At - cut, User: e.User}
	}
	return &c
}

// ideal is the part of its messages that a perfect cache would answer from
// memory: it evicts the least recently used of its users when it is full, and
// forgets what is as old as the TTL.
func (t *Trace) ideal(size int, ttl time.Duration) float64 {
	type entry struct {
		user   int
		loaded time.Duration
	}
	var byUse list.List // the most recently used in front
	cached := make([]*list.Element, t.Users)
	hits := 0
	for _, e := range t.Events {
		if c := cached[e.User]; c != nil {
			byUse.MoveToFront(c)
			if known := c.Value.(*entry); e.At-known.loaded < ttl {
				hits++
			} else {
				known.loaded = e.At
			}
			continue
		}
		cached[e.User] = byUse.PushFront(&entry{e.User, e.At})
		if byUse.Len() > size {
			last := byUse.Back()
			cached[last.Value.(*entry).user] = nil
			byUse.Remove(last)
		}
	}
	return float64(hits) / float64(len(t.Events))
}
