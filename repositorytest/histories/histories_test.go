package histories

import (
	"context"
	"math"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/repositorytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type repository = usercache.Repository[usercache.User]

func options(seed uint64) Options {
	return Options{Seed: seed, Workers: 6, Calls: 30, Writes: 0.2, Rejected: repositorytest.Rejected}
}

func record(t *testing.T, seed uint64, faults Fault, over func(repository) repository) History {
	t.Helper()
	chaos := NewChaos(repositorytest.NewMemory(), seed)
	chaos.Faults, chaos.FaultRate = faults, 0.2
	h, err := Record(t.Context(), over(chaos), options(seed))
	if err != nil {
		t.Fatal(err)
	}
	if h.Len() != 3+6*30 {
		t.Errorf("%d calls are recorded", h.Len())
	}
	return h
}

// A repository that does one thing at a time passes, whatever becomes of its
// answers.
func TestLinearizableRepositoryPasses(t *testing.T) {
	for _, faults := range []Fault{0, Applied, Dropped, Late, Applied | Dropped | Late} {
		for seed := range uint64(50) {
			h := record(t, seed, faults, func(r repository) repository { return r })
			if err := h.Check(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// naive is the cache that comes to mind first: a map, and every write clears
// it when it has been made.
type naive struct {
	repository
	writeThrough bool
	answers      sync.Map
}

func (n *naive) lookup(c call, ask func() (*usercache.User, error)) (*usercache.User, error) {
	if u, ok := n.answers.Load(c); ok {
		return u.(*usercache.User), nil
	}
	u, err := ask()
	if err == nil {
		n.answers.Store(c, u)
	}
	return u, err
}

func (n *naive) GetUserByID(ctx context.Context, id string) (*usercache.User, error) {
	return n.lookup(call{method: getByID, id: id}, func() (*usercache.User, error) { return n.repository.GetUserByID(ctx, id) })
}

func (n *naive) GetUserByPlatformID(ctx context.Context, platform, id string) (*usercache.User, error) {
	return n.lookup(call{method: getByAccount, platform: platform, name: id}, func() (*usercache.User, error) {
		return n.repository.GetUserByPlatformID(ctx, platform, id)
	})
}

func (n *naive) UpsertUser(ctx context.Context, u *usercache.User) error {
	defer n.answers.Clear()
	return n.repository.UpsertUser(ctx, u)
}

func (n *naive) UpdateUser(ctx context.Context, u usercache.User) error {
	err := n.repository.UpdateUser(ctx, u)
	n.answers.Clear()
	if n.writeThrough {
		n.answers.Store(call{method: getByID, id: u.ID}, &u)
	}
	return err
}

func (n *naive) DeleteUser(ctx context.Context, id string) error {
	defer n.answers.Clear()
	return n.repository.DeleteUser(ctx, id)
}

func (n *naive) MergeUsers(ctx context.Context, primary, secondary string, merged usercache.User) error {
	defer n.answers.Clear()
	return n.repository.MergeUsers(ctx, primary, secondary, merged)
}

// forgetful never clears anything.
type forgetful struct{ *naive }

func (f forgetful) UpdateUser(ctx context.Context, u usercache.User) error {
	return f.repository.UpdateUser(ctx, u)
}

// The check is worth nothing if it passes a cache that is not coherent. It
// reports a smaller history, and draws a picture of it.
func TestIncoherentCachesAreCaught(t *testing.T) {
	picture := regexp.MustCompile(`a picture: (\S+\.html)`)
	for name, over := range map[string]func(repository) repository{
		"cleared after the write": func(r repository) repository { return &naive{repository: r} },
		"written through":         func(r repository) repository { return &naive{repository: r, writeThrough: true} },
		"never cleared by update": func(r repository) repository { return forgetful{&naive{repository: r}} },
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(500) {
				h := record(t, seed, 0, over)
				err := h.Check()
				if err == nil {
					continue
				}
				text := err.Error()
				if calls := strings.Count(text, " worker "); !strings.Contains(text, "has no order that explains it") || calls > h.Len()/2 {
					t.Errorf("of %d calls the report holds %d: %s", h.Len(), calls, text)
				}
				file := picture.FindStringSubmatch(text)
				if file == nil {
					t.Fatalf("no picture: %s", text)
				}
				html, err := os.ReadFile(file[1])
				if err != nil || !strings.Contains(string(html), "upsert") {
					t.Errorf("the picture: %d bytes, %v", len(html), err)
				}
				if err := os.Remove(file[1]); err != nil {
					t.Error(err)
				}
				return
			}
			t.Error("500 histories are all explained")
		})
	}
}

// Writes whose answer was lost are explained by what has become of them, as
// far as that is known.
func TestFates(t *testing.T) {
	ann := person{id: "1", name: "ann", accounts: [2]account{{}, {"1", "ann"}}}
	ben := ann
	ben.name = "ben"
	created := event{call: call{method: upsert, user: ann}, began: 1, ended: 2, created: "1"}
	created.call.user.id = ""
	renaming := event{call: call{method: update, user: ben}, began: 3, ended: 4, outcome: failed}
	reads := func(at int64, p person) event {
		return event{call: call{method: getByID, id: "1"}, began: at, ended: at + 1, found: p}
	}
	for name, c := range map[string]struct {
		fate  fate
		ended int64
		reads []event
		legal bool
	}{
		"applied, and seen":                 {applied, 4, []event{reads(5, ben)}, true},
		"applied, and not seen":             {applied, 4, []event{reads(5, ann)}, false},
		"dropped, and not seen":             {dropped, 4, []event{reads(5, ann)}, true},
		"dropped, and seen":                 {dropped, 4, []event{reads(5, ben)}, false},
		"applied late, and seen late":       {applied, 9, []event{reads(5, ann), reads(7, ben)}, true},
		"applied late, and seen no more":    {applied, 9, []event{reads(5, ben), reads(7, ann)}, false},
		"applied late, not seen after that": {applied, 6, []event{reads(7, ann)}, false},
		"unknown, seen":                     {unknown, math.MaxInt64, []event{reads(5, ann), reads(7, ben)}, true},
		"unknown, never seen":               {unknown, math.MaxInt64, []event{reads(5, ann), reads(7, ann)}, true},
		"unknown, seen no more":             {unknown, math.MaxInt64, []event{reads(5, ben), reads(7, ann)}, false},
	} {
		w := renaming
		w.fate, w.ended = c.fate, c.ended
		err := History{events: append([]event{created, w}, c.reads...)}.Check()
		if (err == nil) != c.legal {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			if file := regexp.MustCompile(`\S+\.html`).FindString(err.Error()); os.Remove(file) != nil {
				t.Errorf("no picture %q", file)
			}
		}
	}
}

// A lookup that fails for no reason that the check understands, or returns
// what nobody has stored, is an error of the recording.
func TestRecordErrors(t *testing.T) {
	for says, answer := range map[string]func() (*usercache.User, error){
		"the answer was lost": func() (*usercache.User, error) { return nil, ErrLost },
		"nobody has stored": func() (*usercache.User, error) {
			return &usercache.User{Accounts: []usercache.Account{{Platform: "xx"}}}, nil
		},
	} {
		_, err := Record(t.Context(), wrong{repositorytest.NewMemory(), answer}, options(1))
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %q", err, says)
		}
	}
}

// wrong answers lookups by ID as it is told.
type wrong struct {
	repository
	answer func() (*usercache.User, error)
}

func (w wrong) GetUserByID(context.Context, string) (*usercache.User, error) { return w.answer() }
