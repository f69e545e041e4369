package replay

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// Generate invents the chat of a middling channel: twenty streams, two days
// apart, with a thousand messages each, by a few hundred viewers who mostly
// answer somebody who has just spoken. The same seed yields the same chat.
func Generate(seed uint64) *Trace {
	const (
		streams, perStream = 20, 1000
		viewers            = 500
		between            = 48 * time.Hour
		meanGap            = 6 * time.Second
		answers            = 0.65 // of the messages answer a recent one
		within             = 10   // speakers
	)
	random := rand.New(rand.NewPCG(seed, 0))
	// A few speak much, most speak little: a Zipf law.
	zipf := rand.NewZipf(random, 1.6, 4, viewers-1)
	t := &Trace{Name: fmt.Sprintf("generated (seed %d)", seed)}
	numbers := make(map[string]int)
	for stream := range streams {
		at := time.Duration(stream) * between
		var recent []uint64
		for range perStream {
			var who uint64
			if len(recent) > 0 && random.Float64() < answers {
				who = recent[random.IntN(len(recent))]
			} else {
				who = zipf.Uint64()
			}
			recent = slices.DeleteFunc(recent, func(r uint64) bool { return r == who })
			recent = append(recent, who)
			if len(recent) > within {
				recent = recent[1:]
			}
			t.say(at, strconv.FormatUint(who, 10), numbers)
			gap := -math.Log(1-random.Float64()) * float64(meanGap)
			at += time.Duration(gap).Truncate(time.Millisecond)
		}
	}
	return t
}
