package usercache_test

import (
	"testing"

	"go.uber.org/goleak"
)

// No goroutine outlives the call that needed it, in any test.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
