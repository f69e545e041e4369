package usercache_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// docs/consistency.md lists every scenario's test, and no test that is not
// there.
func TestScenariosAreListed(t *testing.T) {
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var tests []string
	for _, name := range files {
		source, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((Test|Benchmark)\w+)\(`).FindAllStringSubmatch(string(source), -1) {
			tests = append(tests, m[1])
		}
	}
	doc, err := os.ReadFile("docs/consistency.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(doc), "| Scenario | Test |")
	listed := regexp.MustCompile("`((?:Test|Benchmark)\\w+)`").FindAllStringSubmatch(table, -1)
	for _, m := range listed {
		if !slices.Contains(tests, m[1]) {
			t.Errorf("%s is listed, and is no test", m[1])
		}
	}
	for _, name := range tests {
		if strings.HasPrefix(name, "TestScenario") && name != "TestScenariosAreListed" && !strings.Contains(table, "`"+name+"`") {
			t.Errorf("%s is not listed", name)
		}
	}
	for n := 1; n <= 23; n++ {
		if !strings.Contains(table, "\n| "+strconv.Itoa(n)+" ") {
			t.Errorf("scenario %d is missing", n)
		}
	}
}
