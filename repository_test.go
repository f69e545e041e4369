package usercache_test

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/repositorytest"
)

// A user that holds a reference must come with a Clone; the error says where
// the reference is. Strings and times cannot be changed through a copy.
func TestCloneIsRequired(t *testing.T) {
	type deep struct {
		Name  string
		inner struct{ table [2]struct{ m map[string]int } } //nolint:unused // what reflection must find
	}
	type plain struct {
		ID     string
		At     time.Time
		N      [3]float64
		Nested struct{ OK bool }
		Phase  complex128
	}
	newWithoutClone[plain](t, "")
	newWithoutClone[string](t, "")
	newWithoutClone[time.Time](t, "")
	newWithoutClone[struct{ Friends []string }](t, "Friends is a slice")
	newWithoutClone[struct{ m map[string]int }](t, "m is a map")
	newWithoutClone[struct{ Next *plain }](t, "Next is a ptr")
	newWithoutClone[struct{ C chan int }](t, "C is a chan")
	newWithoutClone[struct{ F func() }](t, "F is a func")
	newWithoutClone[struct{ V any }](t, "V is a interface")
	newWithoutClone[struct{ E error }](t, "E is a interface")
	newWithoutClone[struct{ P unsafe.Pointer }](t, "P is a unsafe.Pointer")
	newWithoutClone[struct{ A [4]*int }](t, "A is a ptr")
	newWithoutClone[struct{ time.Location }](t, "Location zone is a slice")
	newWithoutClone[deep](t, "inner table m is a map")
	newWithoutClone[map[string]string](t, "is a map")
	newWithoutClone[[]byte](t, "is a slice")
}

func newWithoutClone[U any](t *testing.T, reference string) {
	t.Helper()
	schema := usercache.Schema[U]{Identity: func(*U) usercache.Identity { return usercache.Identity{UserID: "1"} }}
	c, err := usercache.New(repositoryOf[U]{}, schema)
	switch {
	case reference == "" && err != nil:
		t.Errorf("%T: %v", *new(U), err)
	case reference == "":
		defer c.Close()
		if _, err := c.GetUserByID(t.Context(), "1"); err != nil {
			t.Error(err)
		}
		a, err := c.GetUserByID(t.Context(), "1")
		if err != nil {
			t.Error(err)
		}
		b, err := c.GetUserByID(t.Context(), "1")
		if err != nil || a == b || c.Stats().TotalHits() != 2 {
			t.Errorf("%T: two hits share one copy, or are none: %+v, %v", *a, c.Stats(), err)
		}
	case err == nil || !strings.HasSuffix(err.Error(), "holds no reference: "+reference) || !strings.HasPrefix(err.Error(), "usercache: New: Schema.Clone is nil"):
		t.Errorf("%T: %v, want %q", *new(U), err, reference)
	}
}

// repositoryOf is a repository of one user.
type repositoryOf[U any] struct{ usercache.Repository[U] }

func (repositoryOf[U]) GetUserByID(context.Context, string) (*U, error) { return new(U), nil }

func TestNewErrors(t *testing.T) {
	if c, err := usercache.New(nil, usercache.UserSchema()); c != nil || err == nil || err.Error() != "usercache: New: the repository is nil" {
		t.Errorf("no repository: %v, %v", c, err)
	}
	schema := usercache.UserSchema()
	schema.Identity = nil
	if c, err := usercache.New(repositorytest.NewMemory(), schema); c != nil || err == nil || !strings.Contains(err.Error(), "Schema.Identity is nil") {
		t.Errorf("no Identity: %v, %v", c, err)
	}
}

// The shipped schema names every name of a user, and copies the user whole.
func TestUserSchema(t *testing.T) {
	u := user{
		ID: "1", Username: "ann", CreatedAt: time.Unix(1, 0), UpdatedAt: time.Unix(2, 0),
		Accounts: []usercache.Account{{Platform: "twitch", ID: "10", Username: "ann_tv"}, {Platform: "discord", ID: "20"}},
	}
	s := usercache.UserSchema()
	want := usercache.Identity{UserID: "1", Usernames: []string{"ann"}, Accounts: u.Accounts}
	if got := s.Identity(&u); !reflect.DeepEqual(got, want) {
		t.Errorf("the identity is %+v", got)
	}
	c := s.Clone(&u)
	if !reflect.DeepEqual(*c, u) || c == &u {
		t.Errorf("the clone is %+v", c)
	}
	c.Accounts[0].ID = "changed"
	if u.Accounts[0].ID != "10" {
		t.Error("the clone shares its accounts")
	}
	if c := s.Clone(&user{}); c.Accounts != nil {
		t.Error("a clone of no accounts has some")
	}
}

// Two lookups are equal only if method and arguments are.
func TestLookupsDiffer(t *testing.T) {
	lookups := []usercache.Lookup{
		usercache.ByID(""), usercache.ByID("a"), usercache.ByID("A"), usercache.ByID("a:b"), usercache.ByID("a\x00b"),
		usercache.ByPlatformID("", "a"), usercache.ByPlatformID("a", ""), usercache.ByPlatformID("a", "b"),
		usercache.ByPlatformID("a", "b:c"), usercache.ByPlatformID("a:b", "c"), usercache.ByPlatformID("ab", "c"),
		usercache.ByPlatformUsername("", "a"), usercache.ByPlatformUsername("a", "b"), usercache.ByPlatformUsername("a", "B"),
	}
	seen := map[usercache.Lookup]int{}
	for i, l := range lookups {
		if j, ok := seen[l]; ok {
			t.Errorf("lookups %d and %d are equal", i, j)
		}
		seen[l] = i
	}
	if _, ok := seen[usercache.ByPlatformID("a", "b:c")]; !ok {
		t.Error("equal lookups differ")
	}
	if (usercache.Lookup{}) != usercache.ByID("") {
		t.Error("the zero Lookup is not that of the empty ID")
	}
}

// The JSON of a user is part of what services answer with.
func TestUserJSON(t *testing.T) {
	u := user{
		ID: "1", Username: "ann", CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), UpdatedAt: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC),
		Accounts: []usercache.Account{{Platform: "twitch", ID: "10", Username: "ann_tv"}, {Platform: "discord", ID: "20"}},
	}
	got, err := json.Marshal(u)
	const want = `{"id":"1","username":"ann","accounts":[{"platform":"twitch","id":"10","username":"ann_tv"},{"platform":"discord","id":"20"}],` +
		`"created_at":"2026-01-02T03:04:05Z","updated_at":"2026-01-02T03:04:06Z"}`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	var back user
	if err := json.Unmarshal(got, &back); err != nil || fmt.Sprint(back) != fmt.Sprint(u) {
		t.Errorf("%v, %v", back, err)
	}
}
