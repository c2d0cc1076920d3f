package health

import (
	"strconv"
	"strings"
	"time"

	"github.com/drover-fleet/drover/devices"
)

// examine compares what a sample shows with what stands. An absent figure says nothing.
func (j *Judge) examine(r *record, s devices.Sample) {
	j.flag(r, s.RemapPending, signRemapPending, s.Time)
	j.flag(r, s.RemapFailed, signRemapFailed, s.Time)
	if grown(r.counters.ECCUncorrectedVolatile, s.ECCUncorrectedVolatile) || grown(r.counters.ECCUncorrectedAggregate, s.ECCUncorrectedAggregate) {
		j.raise(r, sourceMemory, signUncorrected, "", s.Time, false)
	}
	if s.RecoveryAction != nil {
		j.only(r, sourceRecovery, *s.RecoveryAction, s.Time)
	}
	if s.HealthCode != nil {
		j.only(r, sourceHealth, number(*s.HealthCode), s.Time)
	}
	if s.ErrorCodes != nil || s.HealthCode != nil && *s.HealthCode == 0 {
		var codes []string
		for _, c := range s.ErrorCodes {
			codes = append(codes, hexadecimal(c))
		}
		j.only(r, sourceErrorCode, strings.Join(codes, " "), s.Time)
	}
}

func (j *Judge) flag(r *record, shown *bool, sign string, at time.Time) {
	switch {
	case shown == nil:
	case *shown:
		j.raise(r, sourceMemory, sign, "", at, true)
	default:
		r.withdraw(sourceMemory, sign, at)
	}
}

// only notes that of all signs of a source these are shown, separated by spaces.
func (j *Judge) only(r *record, from source, signs string, at time.Time) {
	shown := map[string]bool{}
	for sign := range strings.FieldsSeq(signs) {
		shown[sign] = true
		j.raise(r, from, sign, "", at, true)
	}
	for key := range r.faults {
		if key[0] == string(from) && !shown[key[1]] {
			r.withdraw(from, key[1], at)
		}
	}
}

func grown(before, now *int64) bool { return before != nil && now != nil && *now > *before }

// startedAnew tells whether a counter that only grows while the driver is loaded and the device isn't reset
// fell.
func startedAnew(before, now devices.Sample) bool {
	fell := func(a, b *int64) bool { return a != nil && b != nil && *b < *a }
	return fell(before.ECCUncorrectedVolatile, now.ECCUncorrectedVolatile) || fell(before.ECCCorrectedVolatile, now.ECCCorrectedVolatile)
}

// recoveryOf answers the action that a line of XID 154 tells of.
func recoveryOf(s devices.Signal) (action string, told bool) {
	if s.Code != 154 {
		return "", false
	}
	_, to, _ := strings.Cut(s.Text, " to ")
	for _, w := range recoveryWords {
		if strings.Contains(to, w.words) {
			return w.action, true
		}
	}
	return "", false
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

// hexadecimal is how Ascend writes its codes.
func hexadecimal(n int64) string { return strings.ToUpper(strconv.FormatInt(n, 16)) }
