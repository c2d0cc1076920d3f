package storage

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// A request that takes long to go out doesn't end the wait for its answer; silence does.
func TestIdleConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		c := &idleConn{near, 30 * time.Second}
		defer c.Close()
		answer := make(chan error)
		go func() {
			for range 2 {
				_, err := c.Read(make([]byte, 1))
				answer <- err
			}
		}()
		for range 10 {
			time.Sleep(20 * time.Second) // of the bubble
			go func() { _, _ = far.Read(make([]byte, 1)) }()
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(20 * time.Second)
		if _, err := far.Write([]byte("y")); err != nil {
			t.Fatal(err)
		}
		if err := <-answer; err != nil {
			t.Errorf("the answer to a long request: %v", err)
		}
		begin := time.Now()
		if err := <-answer; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != 30*time.Second {
			t.Errorf("silence: %v after %v", err, time.Since(begin))
		}
		begin = time.Now()
		if _, err := c.Write([]byte("nobody reads")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != 30*time.Second {
			t.Errorf("a peer that takes nothing: %v after %v", err, time.Since(begin))
		}
	})
}
