//go:build bench

package bench

import (
	"fmt"
	"os"
	"testing"

	"github.com/drover-fleet/drover/test/machine"
)

// TestMain is the bare server as well: the measurement starts its own binary again for it.
func TestMain(m *testing.M) {
	if path := os.Getenv(bareVariable); path != "" {
		if err := serveBare(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(machine.Main(m))
}
