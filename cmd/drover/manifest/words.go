package manifest

import (
	"fmt"
	"math"
	"math/big"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// units of ParseQuantity, as powers of 10 and of 2.
var units = map[string]int64{
	"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50,
}

// ParseQuantity reads a number of bytes: "512Mi" (powers of 1024), "80G" or "80GB" (powers of 1000),
// "1.5Gi", "1048576". The result is a whole number of bytes.
func ParseQuantity(s string) (int64, error) {
	bad := func(why string) (int64, error) {
		return 0, fmt.Errorf("%q is no size%s: want a number of bytes, with a unit if need be: 512Mi, 80G, 1.5Gi", s, why)
	}
	number := strings.TrimRight(s, "KMGTPkiB")
	unit := strings.TrimSuffix(s[len(number):], "B")
	factor, ok := units[unit]
	if !ok || number == "" || len(number) > 20 || strings.Trim(number, "-.0123456789") != "" {
		return bad("")
	}
	r, ok := new(big.Rat).SetString(number)
	if !ok {
		return bad("")
	}
	r.Mul(r, new(big.Rat).SetInt64(factor))
	if !r.IsInt() {
		return bad(" in whole bytes")
	}
	if !r.Num().IsInt64() || r.Num().Int64() == math.MinInt64 {
		return bad(" that fits 64 bits")
	}
	return r.Num().Int64(), nil
}

// elsewhere is where a field stands that people look for in another message, or nothing.
func elsewhere(message protoreflect.Name, field string) string {
	if message != "ServiceSpec" {
		return ""
	}
	switch field {
	case "priority", "preemptible", "placement":
		return "versions[]." + field
	case "spread", "required", "preferred", "anti_affinity":
		return "versions[].placement." + field
	}
	return ""
}

// didYouMean answers "; did you mean X?" for the nearest of names, or nothing when none is near.
func didYouMean(word string, names []string) string {
	best, distance := "", 1+max(1, len(word)/3)
	for _, name := range names {
		if d := editDistance(strings.ToLower(word), strings.ToLower(name)); d < distance {
			best, distance = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// editDistance counts insertions, deletions, replacements and swaps of neighbours.
func editDistance(a, b string) int {
	if len(a) > 100 || len(b) > 100 {
		return 100
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
