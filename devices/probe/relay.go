package probe

import (
	"bufio"
	"errors"
	"log/slog"
	"os"
	"time"

	"golang.org/x/time/rate"
)

// What a child prints: so long lines, so many at once and a minute.
const (
	longestLine    = 4 << 10
	linesAtOnce    = 50
	linesPerMinute = 30
)

// relay logs what the child prints until all who could print have closed their end, and closes out.
func relay(out *os.File, log *slog.Logger) {
	defer out.Close()
	limit := rate.NewLimiter(rate.Every(time.Minute/linesPerMinute), linesAtOnce)
	dropped := 0
	r := bufio.NewReaderSize(out, longestLine)
	for {
		line, err := r.ReadSlice('\n')
		if n := len(line); n > 0 && line[n-1] == '\n' {
			line = line[:n-1]
		}
		switch {
		case len(line) == 0:
		case !limit.Allow():
			dropped++
		default:
			if dropped > 0 {
				log.Warn("device probe prints too much", "dropped_lines", dropped)
				dropped = 0
			}
			log.Info("device probe prints", "line", string(line))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if dropped > 0 {
				log.Warn("device probe printed too much", "dropped_lines", dropped)
			}
			return
		}
	}
}
