package replay

import (
	"bytes"
	"compress/gzip"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func zipped(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(t *testing.T, lines ...string) *Trace {
	t.Helper()
	trace, err := Read("test", strings.NewReader("offset_ms,user\n"+strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return trace
}

func TestReadTrace(t *testing.T) {
	const text = "offset_ms,user\n0,17\n1500,3\n1500,17\n86400000,x\n"
	want := &Trace{Name: "chat.csv.gz", Users: 3, Events: []Event{
		{0, 0}, {1500 * time.Millisecond, 1}, {1500 * time.Millisecond, 0}, {24 * time.Hour, 2},
	}}
	path := filepath.Join(t.TempDir(), "chat.csv.gz")
	for name, content := range map[string][]byte{"gzipped": zipped(t, text), "plain": []byte(text)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) || got.Span() != 24*time.Hour {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

func TestReadTraceErrors(t *testing.T) {
	for says, text := range map[string]string{
		"no message":                       "offset_ms,user\n",
		"line 1: the header":               "time,who\n0,1\n",
		"line 2: offset_ms is \"soon\"":    "offset_ms,user\nsoon,1\n",
		"line 3: offset_ms is \"-1\"":      "offset_ms,user\n0,1\n-1,1\n",
		"line 2: offset_ms is \"99999999":  "offset_ms,user\n99999999999999999,1\n",
		"line 4: offset_ms is 1, before":   "offset_ms,user\n0,1\n2,1\n1,2\n",
		"line 2: user is empty":            "offset_ms,user\n0,\n",
		"line 3: wrong number of fields":   "offset_ms,user\n0,1\n0,1,2\n",
		"trace test: gzip: invalid header": "\x1f\x8b nonsense that is long enough to be a header",
		"trace test: unexpected EOF":       string(zipped(t, "offset_ms,user\n0,1\n")[:20]),
	} {
		if got, err := Read("test", strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, %v; want an error with %q", got, err, says)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none.csv")); err == nil || !strings.Contains(err.Error(), "none.csv") {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestGenerate(t *testing.T) {
	a, b, c := Generate(1), Generate(1), Generate(2)
	if !reflect.DeepEqual(a, b) {
		t.Error("the same seed yields different chats")
	}
	if reflect.DeepEqual(a.Events, c.Events) {
		t.Error("another seed yields the same chat")
	}
	if len(a.Events) != 20_000 || a.Users < 200 || a.Users > 500 {
		t.Errorf("%d messages by %d users", len(a.Events), a.Users)
	}
	seen := 0
	for i, e := range a.Events {
		if i > 0 && e.At < a.Events[i-1].At {
			t.Fatalf("message %d is before the one above it", i)
		}
		if e.User > seen {
			t.Fatalf("user %d appears before user %d", e.User, seen)
		}
		if e.User == seen {
			seen++
		}
	}
	if seen != a.Users {
		t.Errorf("%d users speak, Users is %d", seen, a.Users)
	}
	if rate := a.ideal(1000, 5*time.Minute); rate < .7 || rate > .85 {
		t.Errorf("an ideal cache answers %.3f of it: not like a chat", rate)
	}
}

func TestIdeal(t *testing.T) {
	trace := read(t, "0,a", "1000,b", "2000,a", "3000,c", "4000,b", "10000,c", "10001,c")
	for _, c := range []struct {
		size int
		ttl  time.Duration
		hits float64
	}{
		{3, time.Hour, 4},
		{3, 7 * time.Second, 3},                    // c is 7 s old at 10 000, and new at 10 001
		{3, 7*time.Second + time.Millisecond, 3},   // c is young enough, then too old, at 10 001
		{3, 7*time.Second + 2*time.Millisecond, 4}, // and young enough at both
		{2, time.Hour, 3},                          // c evicts b
		{1, time.Hour, 1},                          // c, c
	} {
		if got, want := trace.ideal(c.size, c.ttl), c.hits/7; math.Abs(got-want) > 1e-9 {
			t.Errorf("size %d, TTL %v: %v of 7 hits, want %v", c.size, c.ttl, got*7, c.hits)
		}
	}
}

func TestClock(t *testing.T) {
	trace := read(t, "60000,a", "61000,b", "3661000,a", "3662000,a")
	c, err := newClock(trace, 0, time.Minute)
	if err != nil || c.due(3) != 0 || c.trace != trace {
		t.Errorf("without a speed: due after %v, %v", c.due(3), err)
	}
	c, err = newClock(trace, 2, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	// The hour of silence is cut to 61 s, then all is twice as fast.
	for i, want := range []time.Duration{0, 500 * time.Millisecond, 31 * time.Second, 31500 * time.Millisecond} {
		if got := c.due(i); got != want {
			t.Errorf("message %d is due after %v, want %v", i, got, want)
		}
	}
	if trace.Events[2].At != 3661*time.Second {
		t.Error("the trace itself is changed")
	}
	if _, err := newClock(trace, 1e6, time.Minute); err == nil || !strings.Contains(err.Error(), "-speed") {
		t.Errorf("a speed that leaves no TTL: %v", err)
	}
}
