package identity

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/osse101/usercache/internal/coherence"
)

// Tags are the same in every process and every version: instances of different
// versions may tell each other by them what has changed. The values are those
// of another implementation of FNV-1a.
func TestTagsAreFixed(t *testing.T) {
	for name, c := range map[string]struct{ got, want coherence.Tag }{
		"user":     {UserTag("01234567-89ab-cdef-0123-456789abcdef"), 0xf26e2a8cf44327cd},
		"username": {UsernameTag("Ärger"), 0x2296d5d9b96a9faf},
		"account":  {AccountTag("twitch", "12345"), 0xf5fc8a2e7acef4b0},
		"nothing":  {UsernameTag(""), 0x8b3c907b559594a},
	} {
		if c.got != c.want {
			t.Errorf("%s: %#x, want %#x", name, uint64(c.got), uint64(c.want))
		}
	}
}

// same fails if two spellings of a name have different tags, as a username and
// as either part of an account.
func same(t *testing.T, a, b string) {
	t.Helper()
	if UsernameTag(a) != UsernameTag(b) || AccountTag(a, "x") != AccountTag(b, "x") || AccountTag("x", a) != AccountTag("x", b) {
		t.Errorf("%+q and %+q differ", a, b)
	}
}

// Every letter shares its tag with all that it may become when its case is
// changed, by any rule of Unicode's tables, alone and amid others.
func TestCaseDoesNotMatter(t *testing.T) {
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if !utf8.ValidRune(r) {
			continue
		}
		s := string(r)
		for _, other := range []rune{
			unicode.ToUpper(r), unicode.ToLower(r), unicode.ToTitle(r), unicode.SimpleFold(r),
			unicode.TurkishCase.ToUpper(r), unicode.TurkishCase.ToLower(r),
		} {
			if other != r && UsernameTag("a"+s+"b") != UsernameTag("a"+string(other)+"b") {
				t.Errorf("%U and %U differ", r, other)
			}
		}
		if other := strings.ToLower(s); other != s && UsernameTag(s) != UsernameTag(other) {
			t.Errorf("%U and %+q differ", r, other)
		}
	}
}

func TestSpellings(t *testing.T) {
	for _, names := range [][]string{
		{"alice", "Alice", "ALICE", "aLiCe", "alice ", "ALICE   "},
		{"éa", "ÉA"},
		{"İstanbul", "istanbul", "ISTANBUL", "ıstanbul", "i̇stanbul"},
		{"ΑΣ", "ας", "ασ"},
		{"\u212A", "k", "K"}, // the Kelvin sign
		{"ſ", "s", "S"},
		{"ẞ", "ß"},
		{"ǅ", "Ǆ", "ǆ"},
		{"a\xff", "a\xfe", "A\uFFFD"},
		{"\x00A", "\x00a"},
		{"", " ", "   "},
	} {
		for _, name := range names {
			same(t, names[0], name)
		}
	}
}

// The ways to write a UUID share a tag.
func TestUserIDs(t *testing.T) {
	const id = "01234567-89ab-cdef-0123-456789abcdef"
	for _, spelling := range []string{
		strings.ToUpper(id), strings.ReplaceAll(id, "-", ""), "{" + id + "}", "urn:uuid:" + id, "URN:UUID:" + strings.ToUpper(id),
		"01234567-89AB-cdef-01234567-89abcdef", "0123-4567-89ab-cdef-0123-4567-89ab-cdef", id + " ",
	} {
		if UserTag(spelling) != UserTag(id) {
			t.Errorf("%q differs", spelling)
		}
	}
	for _, other := range []string{"", "x" + id, id[1:], "urn:uuid", "urn:oid:" + id} {
		if UserTag(other) == UserTag(id) {
			t.Errorf("%q is the same", other)
		}
	}
}

// Names that no database holds to be one have tags of their own: a write to
// one leaves the answers to the other.
func TestDifferentNamesDiffer(t *testing.T) {
	tags := map[coherence.Tag]string{}
	add := func(name string, tag coherence.Tag) {
		if other, ok := tags[tag]; ok {
			t.Errorf("%s and %s share a tag", name, other)
		}
		if tag == coherence.Broad {
			t.Errorf("%s has the tag that is shared by all", name)
		}
		tags[tag] = name
	}
	for _, name := range []string{"", "a", "b", "ab", "ba", "a b", "a\x00", "é", "e", "a-b", "1", "11"} {
		add("username "+name, UsernameTag(name))
	}
	for _, id := range []string{"", "a", "ab", "b", "1"} {
		add("user "+id, UserTag(id))
	}
	for _, a := range [][2]string{{"", ""}, {"a", ""}, {"", "a"}, {"a", "b"}, {"ab", ""}, {"", "ab"}, {"a", "bc"}, {"ab", "c"}, {"a:b", "c"}, {"a", "b:c"}} {
		add("account "+a[0]+"/"+a[1], AccountTag(a[0], a[1]))
	}
}

// However a name is spelled, its tags are those of all its spellings.
func FuzzTags(f *testing.F) {
	for _, s := range []string{"", "Alice", "İ", "ΑΣ", "\u212A", "a\xff\x00 ", "urn:uuid:{01234567}", strings.Repeat("ǅ", 300)} {
		f.Add(s, "x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, spelling := range []string{strings.ToUpper(a), strings.ToLower(a), strings.ToTitle(a), strings.ToValidUTF8(a, "\uFFFD"), a + " "} {
			// A run of bytes that are not UTF-8 may become one replacement, which
			// is another name to every database.
			if !utf8.ValidString(a) && utf8.RuneCountInString(spelling) < utf8.RuneCountInString(a) {
				continue
			}
			same(t, a, spelling)
			if UserTag(a) != UserTag(spelling) {
				t.Errorf("as user IDs, %+q and %+q differ", a, spelling)
			}
		}
		if strings.EqualFold(a, b) {
			same(t, a, b)
		}
	})
}
