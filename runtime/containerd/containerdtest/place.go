package containerdtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// places is how many environments may run at once on one machine.
const places = 40

// portsAt is where the host ports of the first place begin: below those that Drover gives by default and those that Linux
// gives to clients, so that neither another agent of a test nor a stranger has them.
const portsAt = 20000

// Each place has this many host ports.
const portsEach = 200

// takePlace answers the number of a place that no other environment of this machine has until the test ends. Bridge, subnet,
// cgroup and host ports are named by it: what a test that was killed has left is found and taken away by the next one in its
// place, and two at once share nothing, in whatever network they are. The lock on a file is the claim: it ends with its
// process.
func takePlace(t testing.TB) int {
	t.Helper()
	for n := range places {
		claim, err := os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprintf("drover-test-%d.lock", n)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		err = unix.Flock(int(claim.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = claim.Close()
			if err == nil {
				continue
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := claim.Close(); err != nil {
				t.Error(err)
			}
		})
		return n
	}
	t.Fatalf("%d environments run on this machine already", places)
	return 0
}
