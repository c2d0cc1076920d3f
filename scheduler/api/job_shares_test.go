package api

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
)

// TestShares: calls of one project leave room for others, wait for a while, and are refused then.
func TestShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShares()
		exhausted := func(project string) bool {
			t.Helper()
			began := time.Now()
			leave, err := s.enter(t.Context(), project)
			if err == nil {
				leave()
				return false
			}
			var e *Error
			if !errors.As(err, &e) || e.Code != codes.ResourceExhausted || time.Since(began) != lookingWait {
				t.Errorf("after %s: %v", time.Since(began), err)
			}
			return true
		}
		var leave func()
		for range lookingOfProject {
			var err error
			if leave, err = s.enter(t.Context(), "greedy"); err != nil {
				t.Fatal(err)
			}
		}
		if !exhausted("greedy") || exhausted("other") {
			t.Error("a project has more than its share, or another none")
		}
		go func() {
			time.Sleep(lookingWait / 2)
			leave()
		}()
		if exhausted("greedy") {
			t.Error("it doesn't wait for a call that ends")
		}
		for n := range lookingOfAll - lookingOfProject + 1 {
			if _, err := s.enter(t.Context(), "p"+strconv.Itoa(n)); err != nil {
				t.Fatal(err)
			}
		}
		if !exhausted("late") {
			t.Error("there are more calls than there may be")
		}
		<-s.all
		if exhausted("late") {
			t.Error("what was refused keeps its share")
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		s.of["full"] = make(chan struct{})
		if _, err := s.enter(ended, "full"); err == nil {
			t.Error("a call that has ended gets a share")
		}
	})
}
