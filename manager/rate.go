package manager

import (
	"sync"
	"time"
)

// bucket limits how often something is done: so many in a window of time. It is refilled continuously, and never holds more
// than one window's worth.
type bucket struct {
	size   float64
	window time.Duration

	mu     sync.Mutex
	tokens float64
	at     time.Time
}

func newBucket(size int, window time.Duration, now time.Time) *bucket {
	return &bucket{size: float64(size), window: window, tokens: float64(size), at: now}
}

// take takes one token. Without one, it says after how long there will be.
func (b *bucket) take(now time.Time) (wait time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fillLocked(now)
	if b.tokens >= 1 {
		b.tokens--
		return 0, true
	}
	return time.Duration((1 - b.tokens) / b.size * float64(b.window)), false
}

// giveBack returns a token that was taken for nothing.
func (b *bucket) giveBack() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(b.size, b.tokens+1)
}

func (b *bucket) full(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fillLocked(now)
	return b.tokens >= b.size
}

func (b *bucket) fillLocked(now time.Time) {
	if passed := now.Sub(b.at); passed > 0 {
		b.tokens = min(b.size, b.tokens+b.size*passed.Seconds()/b.window.Seconds())
		b.at = now
	}
}
