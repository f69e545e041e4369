// Package examples_test compares what the README shows with what compiles.
package examples_test

import (
	"os"
	"strings"
	"testing"
)

// Every Go snippet of the README stands in an example that the compiler has
// seen.
func TestREADMESnippetsCompile(t *testing.T) {
	read := func(path string) string {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	examples := read("../example_test.go") + read("../postgres/example_test.go")
	snippets := strings.Split(read("../README.md"), "\n```go\n")[1:]
	if len(snippets) < 3 {
		t.Fatalf("the README has %d Go snippets", len(snippets))
	}
	for _, s := range snippets {
		code, _, closed := strings.Cut(s, "```")
		if !closed || !strings.Contains(examples, "\n"+code) {
			t.Errorf("not in an example:\n%s", code)
		}
	}
}
