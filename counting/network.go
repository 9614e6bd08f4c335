package counting

import (
	"maps"
	"sync"
	"sync/atomic"
)

// network is the transport between replicas and sessions of one process.
type network struct {
	routes atomic.Pointer[map[Address]func(Message)]

	mu sync.Mutex // held to change routes
}

func newNetwork() *network {
	n := &network{}
	n.routes.Store(&map[Address]func(Message){})
	return n
}

// Send implements Transport.
func (n *network) Send(m Message) {
	if deliver := (*n.routes.Load())[m.To]; deliver != nil {
		deliver(m)
	}
}

// Listen implements Transport.
func (n *network) Listen(a Address, deliver func(Message)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	routes := maps.Clone(*n.routes.Load())
	if deliver == nil {
		delete(routes, a)
	} else {
		routes[a] = deliver
	}
	n.routes.Store(&routes)
}
