// Package identity turns the names of users into tags: what a write may have
// changed and what an answer depends on meet in them.
//
// Databases differ in which spellings of a name they treat as one, and a write
// must reach every answer that it changes. A tag is therefore coarse: it is
// the same for all spellings that any common collation, or the parser of a
// UUID, holds to be equal. Where two names that differ share a tag, a write of
// one costs a load of the other.
//
// Tags are fixed functions of the names, the same in every process.
package identity

import (
	"hash/fnv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/osse101/usercache/internal/coherence"
)

// endOfPart ends each part of a name. It occurs in no UTF-8 text, so that the
// parts ("a", "bc") and ("ab", "c") differ.
const endOfPart = 0xFF

// Each kind of name has tags of its own.
const (
	userKind     = 'u'
	usernameKind = 'n'
	accountKind  = 'a'
)

// UserTag is the tag of a user ID in any spelling of a UUID: with or without
// urn:uuid:, braces and hyphens, in any case.
func UserTag(userID string) coherence.Tag {
	const urn = "urn:uuid:"
	if len(userID) >= len(urn) && strings.EqualFold(userID[:len(urn)], urn) {
		userID = userID[len(urn):]
	}
	bare := strings.Map(func(r rune) rune {
		if r == '{' || r == '}' || r == '-' {
			return -1
		}
		return r
	}, userID)
	return tag(userKind, bare)
}

// UsernameTag is the tag of a username on any platform.
func UsernameTag(username string) coherence.Tag { return tag(usernameKind, username) }

// AccountTag is the tag of an account on a platform.
func AccountTag(platform, platformID string) coherence.Tag {
	return tag(accountKind, platform, platformID)
}

func tag(kind byte, parts ...string) coherence.Tag {
	var space [128]byte
	b := append(space[:0], kind)
	for _, p := range parts {
		b = append(appendFolded(b, p), endOfPart)
	}
	h := fnv.New64a()
	_, _ = h.Write(b) // a hash.Hash never returns an error
	return coherence.Tag(h.Sum64())
}

// appendFolded appends s in the one form that all spellings of it share.
// Letters lose their case, whichever of several capital or small forms they
// stand in. The Turkish i with and without dot is an i, and a dot above that
// stands alone is dropped, since lower-casing İ yields either. Spaces at the
// end do not count, as in SQL's padded comparison. Every byte that is not
// UTF-8 is U+FFFD.
func appendFolded(b []byte, s string) []byte {
	const combiningDotAbove = '\u0307'
	for _, r := range strings.TrimRight(s, " ") {
		if r != combiningDotAbove {
			b = utf8.AppendRune(b, fold(r))
		}
	}
	return b
}

// fold maps all runes that differ in case alone to the least of them.
func fold(r rune) rune {
	switch {
	case 'a' <= r && r <= 'z':
		return r - 'a' + 'A'
	case r < utf8.RuneSelf:
		return r
	case r == 'İ' || r == 'ı':
		return 'I'
	}
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	return least
}
