package identity

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := make(gate, 2)
		first, err := g.enter()
		must(t, err)
		_, err = g.enter() // a client that says nothing more
		must(t, err)
		var in atomic.Bool
		go func() {
			leave, err := g.enter()
			must(t, err)
			in.Store(true)
			leave()
		}()
		synctest.Wait()
		if in.Load() {
			t.Fatal("a third is computed at the same time")
		}
		first()
		first() // does no harm
		synctest.Wait()
		if !in.Load() {
			t.Fatal("the third doesn't get the turn of the first")
		}
		time.Sleep(gateTurn)
		synctest.Wait()
		if len(g) != 0 {
			t.Errorf("%d turns are taken after %v", len(g), gateTurn)
		}
	})
}

func TestGateIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := make(gate, 1)
		g <- struct{}{}
		start := time.Now()
		if _, err := g.enter(); !errors.Is(err, errBusy) || time.Since(start) != gateWait {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}
