package gossip

import (
	"testing"

	"go.uber.org/goleak"
)

// memberlist doesn't wait for a probe that is under way when it is shut down; the probe ends by itself a second later.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}
