package devices

import (
	"fmt"
	"maps"
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// FewerThanDeclared begins each line of Shortfall.
const FewerThanDeclared = "fewer devices than declared"

// Shortfall answers a line for each vendor of which fewer devices are there than were declared, by vendor. Lost
// devices and slices don't count.
func Shortfall(declared map[string]int, all []Device) []string {
	there := map[string]int{}
	for _, d := range all {
		if d.ParentID == "" && d.Health != fleetv1.Lost {
			there[d.Vendor]++
		}
	}
	var lines []string
	for _, vendor := range slices.Sorted(maps.Keys(declared)) {
		if want, have := declared[vendor], there[vendor]; have < want {
			lines = append(lines, fmt.Sprintf("%s: %d of %s where %d are declared", FewerThanDeclared, have, vendor, want))
		}
	}
	return lines
}
