package systemd

import (
	"context"
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// statusInterval is how often the status is looked at when the unit has no watchdog.
const statusInterval = 10 * time.Second

// Notify tells the service manager that the daemon is ready, and then keeps it informed until ctx ends:
// the status line whenever it changed, a watchdog beat at half of the unit's WatchdogSec as long as
// healthy returns nil, and STOPPING at the end. It returns nil at once when no service manager listens
// (NOTIFY_SOCKET is unset). Call it once the daemon serves; healthy and status are called from the
// caller's goroutine and must not block. An error means that the service manager couldn't be told: it
// will restart the daemon if the unit has a watchdog.
func Notify(ctx context.Context, healthy func() error, status func() string) error {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read the watchdog's interval: %w", err)
	}
	n := notifier{
		send: func(state string) (bool, error) { return daemon.SdNotify(false, state) },
		// Half of WatchdogSec, as sd_watchdog_enabled(3) asks for: one late beat is no restart.
		watchdog: watchdog / 2,
		healthy:  healthy,
		status:   status,
	}
	return n.run(ctx)
}

// notifier is Notify with its socket and interval given.
type notifier struct {
	send     func(state string) (sent bool, err error)
	watchdog time.Duration // between two beats; 0: the unit has no watchdog
	healthy  func() error
	status   func() string

	lastStatus string
}

func (n *notifier) run(ctx context.Context) error {
	line, _ := n.look()
	n.lastStatus = line
	sent, err := n.send(daemon.SdNotifyReady + "\nSTATUS=" + line)
	if err != nil {
		return fmt.Errorf("tell the service manager that the daemon is ready: %w", err)
	}
	if !sent {
		return nil
	}
	interval := n.watchdog
	if interval <= 0 {
		interval = statusInterval
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			if _, err := n.send(daemon.SdNotifyStopping); err != nil {
				return fmt.Errorf("tell the service manager that the daemon stops: %w", err)
			}
			return nil
		case <-ticker.C:
			if err := n.beat(); err != nil {
				return fmt.Errorf("tell the service manager the daemon's status: %w", err)
			}
		}
	}
}

// beat sends what there is to say now, in one message, or nothing.
func (n *notifier) beat() error {
	line, alive := n.look()
	var message string
	if line != n.lastStatus {
		message = "STATUS=" + line
	}
	if alive && n.watchdog > 0 {
		if message != "" {
			message += "\n"
		}
		message += daemon.SdNotifyWatchdog
	}
	if message == "" {
		return nil
	}
	n.lastStatus = line
	_, err := n.send(message)
	return err
}

// look returns the status line, and whether the daemon is healthy. A message of sd_notify(3) is made of
// lines, so the status is cut to its first.
func (n *notifier) look() (line string, alive bool) {
	if err := n.healthy(); err != nil {
		return firstLine("unhealthy: " + err.Error()), false
	}
	return firstLine(n.status()), true
}

func firstLine(s string) string {
	for i, r := range s {
		if r == '\n' || r == '\r' {
			return s[:i]
		}
	}
	return s
}
