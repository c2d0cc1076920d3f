//go:build cgo && linux

package nvidia

import (
	"fmt"
	"math"
	"regexp"
	"strings"
)

const mib, gib = 1 << 20, 1 << 30

// modelName makes "H100-80GB" of the driver's name of a GPU and its memory: see the package's comment.
func modelName(driver string, memory int64) string {
	noise := regexp.MustCompile(`(?i)^(nvidia|tesla|quadro|geforce|sxm\d*|pcie|hbm\d*e?|nvl|generation|gpu|\d+gb)$`)
	words := strings.FieldsFunc(driver, func(r rune) bool { return r == ' ' || r == '-' })
	kept := words[:0:0]
	for _, w := range words {
		if !noise.MatchString(w) {
			kept = append(kept, w)
		}
	}
	if len(kept) == 0 {
		kept = []string{"GPU"}
	}
	if memory > 0 {
		kept = append(kept, fmt.Sprintf("%dGB", soldSize(memory)))
	}
	return strings.Join(kept, "-")
}

// soldSize is the size under which a GPU with this memory is sold: a part of it is taken by ECC and the
// driver before NVML tells it.
func soldSize(memory int64) int {
	size := int(math.Ceil(float64(memory) / gib))
	for _, sold := range []int{2, 4, 6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 64, 72, 80, 94, 96, 141, 144, 180, 192, 288} {
		if size <= sold && float64(sold-size) <= 0.08*float64(sold)+1 {
			return sold
		}
	}
	return size
}

// profileOf is the name of a slice's profile: the driver's, or else what the attributes say.
func profileOf(name string, parent, slice int64, gpuSlices, computeSlices uint32) string {
	if _, profile, found := strings.Cut(name, " MIG "); found {
		return profile
	}
	if gpuSlices == 0 {
		return ""
	}
	// Memory is cut into eighths; the names round the size of a slice.
	size := int64(math.Ceil(float64(slice) / gib))
	if parent > 0 {
		eighths := math.Round(float64(slice) / float64(parent) * 8)
		size = int64(math.Round(eighths / 8 * math.Ceil(float64(parent)/gib)))
	}
	profile := fmt.Sprintf("%dg.%dgb", gpuSlices, size)
	if computeSlices != 0 && computeSlices != gpuSlices {
		profile = fmt.Sprintf("%dc.%s", computeSlices, profile)
	}
	return profile
}
