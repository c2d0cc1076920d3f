package auth

import (
	"net/http"
	"testing"
)

// BenchmarkRequest is what authentication adds to a look-up, by what the caller shows.
func BenchmarkRequest(b *testing.B) {
	s := newShop(b)
	for name, r := range map[string]*http.Request{
		"token":     look(irisPath, "X-Auth-Token", "s-t"),
		"code":      look(irisPath, "X-Apig-AppCode", "code"),
		"signature": s.signed(irisPath, "AK", "sk", now),
		"app":       s.signed(irisPath, "APP", "as", now),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.auth.Request(r, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
