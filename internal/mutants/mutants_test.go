// Package mutants shows that the tests of the promise can fail: it breaks the
// code in many ways, one at a time, and runs the tests that must notice.
package mutants

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// mutant is one way to break the code: a text in a file that is replaced by
// another, and a test that fails then.
type mutant struct {
	name     string
	file     string
	old, new string
	pkg      string // of the test
	caught   string // by this test
}

const (
	engine = "./internal/coherence"
	cache  = "."
	tags   = "./internal/identity"
)

var mutants = []mutant{
	{
		name: "no fence before the write", file: "internal/coherence/write.go",
		old: "	e.fences.raise(s)\n	return &Write[K, V]{engine: e, scope: s}, e.kill(s)",
		new: "	return &Write[K, V]{engine: e}, 0",
		pkg: cache, caught: "TestScenario03OnceNewIsSeenNobodySeesOld",
	},
	{
		name: "nothing killed before the write", file: "internal/coherence/write.go",
		old: "scope: s}, e.kill(s)", new: "scope: s}, 0",
		pkg: cache, caught: "TestScenario03OnceNewIsSeenNobodySeesOld",
	},
	{
		name: "fences come down unnoticed", file: "internal/coherence/fence.go",
		old: "f.tags[t] = fence{up: x.up - 1, moved: f.clock}", new: "f.tags[t] = fence{up: x.up - 1, moved: x.moved}",
		pkg: engine, caught: "TestOverlapOfLoadAndWrite",
	},
	{
		name: "what a write turns out to have made is left alone", file: "internal/coherence/write.go",
		old: "	w.widen(also)\n", new: "",
		pkg: engine, caught: "TestTagsKnownAfterTheWrite",
	},
	{
		name: "stored without a look at the fences", file: "internal/coherence/load.go",
		old: "fit := c.returned && !e.fences.blocked(tags) && !e.fences.movedSince(c.since, tags)", new: "fit := c.returned",
		pkg: cache, caught: "TestScenario01LoadReadsOldWriteReturnsLoadFinishes",
	},
	{
		name: "stored under a fence that is up", file: "internal/coherence/load.go",
		old: "fit := c.returned && !e.fences.blocked(tags) &&", new: "fit := c.returned &&",
		pkg: engine, caught: "TestOverlapOfLoadAndWrite",
	},
	{
		name: "fences ignore the looked-up name", file: "internal/coherence/load.go",
		old: "distinct(append(slices.Clone(c.answer.Tags), c.tags...))", new: "distinct(slices.Clone(c.answer.Tags))",
		pkg: cache, caught: "TestScenario05CreateCommitsDuringALoadOfNobody",
	},
	{
		name: "fences ignore the answer's names", file: "internal/coherence/load.go",
		old: "distinct(append(slices.Clone(c.answer.Tags), c.tags...))", new: "slices.Clone(c.tags)",
		pkg: cache, caught: "TestScenario01LoadReadsOldWriteReturnsLoadFinishes",
	},
	{
		name: "joiners always share", file: "internal/coherence/load.go",
		old: "c.shared = fit && c.answer.Class != Private", new: "c.shared = c.returned && c.answer.Class != Private",
		pkg: engine, caught: "TestJoinersOfAnOvertakenLoadStartOver",
	},
	{
		name: "joining a load from before the write", file: "internal/coherence/load.go",
		old: "join && c != nil && !e.fences.movedSince(c.since, r.Tags)", new: "join && c != nil",
		pkg: cache, caught: "TestScenario02NoJoiningALoadFromBeforeTheWrite",
	},
	{
		name: "lookups during a write are loads", file: "internal/coherence/load.go",
		old: "if e.fences.blocked(r.Tags) {", new: "if false {",
		pkg: cache, caught: "TestScenario03OnceNewIsSeenNobodySeesOld",
	},
	{
		name: "fences forgotten too early", file: "internal/coherence/engine.go",
		old: "e.fences.forget(oldest.since)", new: "e.fences.forget(e.fences.clock)",
		pkg: cache, caught: "TestScenario06FencesSurviveEvictionAndFlush",
	},
	{
		name: "dead flag not checked", file: "internal/coherence/engine.go",
		old: "if en == nil || en.dead.Load() {", new: "if en == nil {",
		pkg: engine, caught: "TestDeadEntryIsNoHit",
	},
	{
		name: "TTL extended by hits", file: "internal/coherence/engine.go",
		old: "	en.touched.Store(now)\n	en.home.use(en)", new: "	en.touched.Store(now)\n	en.expires = now + int64(e.cfg.TTL)\n	en.home.use(en)",
		pkg: cache, caught: "TestScenario19ConstantHitsExpire",
	},
	{
		name: "TTL from the end of the load", file: "internal/coherence/engine.go",
		old: "expires := c.began + int64(ttl)", new: "expires := now + int64(ttl)",
		pkg: cache, caught: "TestScenario19ConstantHitsExpire",
	},
	{
		name: "hits share the value", file: "internal/coherence/engine.go",
		old: "Answer[V]{Value: e.cfg.Clone(en.value),", new: "Answer[V]{Value: en.value,",
		pkg: cache, caught: "TestScenario18Vandals",
	},
	{
		name: "a failed write is over at once", file: "internal/coherence/write.go",
		old: "if uncertain && e.cfg.Uncertainty > 0 {", new: "if false {",
		pkg: cache, caught: "TestScenario14CancelledCommitLandsLate",
	},
	{
		name: "the end of the window goes unnoticed", file: "internal/coherence/fence.go",
		old: "		f.lower(s)\n	}\n}\n\n// blocked", new: "		f.clock--\n		f.lower(s)\n	}\n}\n\n// blocked",
		pkg: engine, caught: "TestEndOfTheWindowIsALowering",
	},
	{
		name: "no fences while the cache is off", file: "internal/coherence/write.go",
		old: "	e.mu.Lock()\n	defer e.mu.Unlock()\n	e.fences.expire(e.now())\n	e.fences.raise(s)\n	return &Write[K, V]{engine: e, scope: s}, e.kill(s)",
		new: "	if !e.enabled {\n		e = New(e.cfg)\n	}\n	e.mu.Lock()\n	defer e.mu.Unlock()\n	e.fences.raise(s)\n	return &Write[K, V]{engine: e, scope: s}, e.kill(s)",
		pkg: cache, caught: "TestScenario22aEnabledDuringAWrite",
	},
	{
		name: "exact tags", file: "internal/identity/tags.go",
		old: "b = utf8.AppendRune(b, fold(r))", new: "b = utf8.AppendRune(b, r)",
		pkg: tags, caught: "TestSpellings",
	},
	{
		name: "exact tags, seen through the cache", file: "internal/identity/tags.go",
		old: "b = utf8.AppendRune(b, fold(r))", new: "b = utf8.AppendRune(b, r)",
		pkg: cache, caught: "TestScenario12Spellings",
	},
	{
		name: "write-through of the argument", file: "cached_repository.go",
		old: "		func(ctx context.Context) error { return c.repo.UpdateUser(ctx, user) })\n}",
		new: `		func(ctx context.Context) error {
			err := c.repo.UpdateUser(ctx, user)
			c.wrote.Store(c.schema.Identity(&user).UserID, &user)
			return err
		})
}

// GetUserByID returns what was written.
func (c *CachedRepository[U]) GetUserByID(ctx context.Context, userID string) (*U, error) {
	if u, ok := c.wrote.Load(userID); ok {
		return c.schema.Clone(u.(*U)), nil
	}
	return c.getUserByID(ctx, userID)
}

func (c *CachedRepository[U]) getUserByID(ctx context.Context, userID string) (*U, error) { return c.get(ctx, ByID(userID)) }`,
		pkg: cache, caught: "TestScenario10Rename",
	},
	{
		name: "not-found for IDs cached", file: "cached_repository.go",
		old: "if u == nil && l.kind != lookupID &&", new: "if u == nil &&",
		pkg: cache, caught: "TestNotFoundAnswers",
	},
	{
		name: "any error is nobody", file: "cached_repository.go",
		old: "!errors.Is(err, context.DeadlineExceeded) && c.notFound(err) {", new: "true {",
		pkg: cache, caught: "TestScenario13ErrorsAreNotNobody",
	},
	{
		name: "a cancelled load is shared", file: "cached_repository.go",
		old: "		a.Class = coherence.Private\n	case err != nil:", new: "	case err != nil:",
		pkg: cache, caught: "TestScenario13CancelledLoadIsNobodyElses",
	},
	{
		name: "a write leaves other usernames", file: "repository.go",
		old: "		if !preciseUsernames {\n			tags = append(tags, allUsernames)\n		}\n	}\n	return coherence.Scope{Tags: tags}", new: "	}\n	return coherence.Scope{Tags: tags}",
		pkg: cache, caught: "TestScenario08LinkingUnderAnotherNameThanGiven",
	},
	{
		name: "a merge leaves usernames that it does not name", file: "cached_repository.go",
		old: "precise := c.precise && op != opMerge", new: "precise := c.precise",
		pkg: cache, caught: "TestScenario09MergeChangesWhoComesFirst",
	},
	{
		name: "a merge names the primary alone", file: "cached_repository.go",
		old: "return []Identity{{UserID: primaryUserID}, {UserID: secondaryUserID}, c.schema.Identity(&merged)}",
		new: "return []Identity{{UserID: primaryUserID}, c.schema.Identity(&merged)}",
		pkg: cache, caught: "TestScenario09Merge",
	},
}

// root is the directory of the module.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// overlay writes what tells the go command to compile the mutant.
func (m mutant) overlay(t *testing.T) string {
	t.Helper()
	path := filepath.Join(root(t), filepath.FromSlash(m.file))
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), m.old); n != 1 {
		t.Fatalf("%s holds %d times what the mutant replaces:\n%s", m.file, n, m.old)
	}
	broken := strings.Replace(string(source), m.old, m.new, 1)
	if strings.Contains(m.new, "c.wrote") { // a map to write through to, in place of the method
		broken = strings.Replace(broken, "	telemetry *telemetry\n", "	telemetry *telemetry\n	wrote     sync.Map\n", 1)
		broken = strings.Replace(broken, "import (\n", "import (\n	\"sync\"\n", 1)
		begin := strings.Index(broken, "func (c *CachedRepository[U]) GetUserByID")
		end := begin + strings.Index(broken[begin:], "\n}\n") + 3
		broken = broken[:begin] + broken[end:]
	}
	dir := t.TempDir()
	mutated := filepath.Join(dir, "mutant.go")
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{path: mutated}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{mutated: []byte(broken), filepath.Join(dir, "overlay.json"): list} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "overlay.json")
}

// verdict is what became of the mutants, once for each run of the binary: they
// do not change in between.
var verdict = sync.OnceValue(func() map[string]*result {
	all := make(map[string]*result)
	for _, m := range mutants {
		all[m.name] = new(result)
	}
	return all
})

type result struct {
	once sync.Once
	out  string
	ok   bool // the test has passed
}

// Every mutant is caught by the test that is said to catch it.
func TestMutantsAreCaught(t *testing.T) {
	if names := slices.Compact(slices.Sorted(func(yield func(string) bool) {
		for _, m := range mutants {
			if !yield(m.name) {
				return
			}
		}
	})); len(names) != len(mutants) {
		t.Fatal("two mutants have one name")
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			r := verdict()[m.name]
			r.once.Do(func() { r.out, r.ok = m.run(t) })
			if r.ok {
				t.Errorf("%s does not notice", m.caught)
			} else if !strings.Contains(r.out, "--- FAIL: "+m.caught) {
				t.Errorf("%s has not failed, something else has:\n%s", m.caught, r.out)
			}
		})
	}
}

// run runs the test on the mutant and reports whether it has passed.
func (m mutant) run(t *testing.T) (out string, passed bool) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "go", "test", "-overlay="+m.overlay(t), "-count=1", "-timeout=1m", "-run=^"+m.caught+"$", m.pkg)
	c.Dir = root(t)
	var b bytes.Buffer
	c.Stdout, c.Stderr = &b, &b
	err := c.Run()
	if err == nil && strings.Contains(b.String(), "no tests to run") {
		return fmt.Sprintf("there is no test %s", m.caught), false
	}
	return b.String(), err == nil
}
