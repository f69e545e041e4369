package usercache_test

import (
	"strings"
	"testing"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/internal/identity"
)

// Two spellings that any of the collations calls equal have the same tags, as
// usernames and as either part of an account.
func FuzzSpellings(f *testing.F) {
	for _, s := range append(append(append([]string{}, oddNames...), oddAccounts...), "straße", "ﬁ", "ŉ", "ᾳ", strings.Repeat("İi̇", 50)) {
		f.Add(s, strings.ToUpper(s))
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		for name, fold := range collations {
			for _, c := range []string{b, fold(a), fold(b)} {
				if fold(a) != fold(c) {
					continue
				}
				if identity.UsernameTag(a) != identity.UsernameTag(c) || identity.AccountTag(a, "x") != identity.AccountTag(c, "x") || identity.AccountTag("x", a) != identity.AccountTag("x", c) {
					t.Errorf("%s holds %+q and %+q to be equal, their tags differ", name, a, c)
				}
			}
		}
	})
}

// Two lookups share a key only if they are the same.
func FuzzLookups(f *testing.F) {
	f.Add("a", "b:c", "a:b", "c")
	f.Add("a", "b", "a", "b")
	f.Add("", "ab", "ab", "")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		keys := map[usercache.Lookup][3]string{}
		for _, q := range [][3]string{
			{"id", "", a}, {"id", "", b}, {"id", "", c}, {"id", "", d},
			{"account", a, b}, {"account", c, d}, {"account", b, a}, {"account", a, d},
			{"name", a, b}, {"name", c, d}, {"name", b, a}, {"name", a, d},
		} {
			l := usercache.ByID(q[2])
			switch q[0] {
			case "account":
				l = usercache.ByPlatformID(q[1], q[2])
			case "name":
				l = usercache.ByPlatformUsername(q[1], q[2])
			}
			if other, ok := keys[l]; ok && other != q {
				t.Errorf("%q and %q share a key", q, other)
			}
			keys[l] = q
		}
	})
}
