package rpc

import (
	"net/http"

	"lambent/rpc/pki"
)

const (
	kib = 1 << 10
	mib = 1 << 20

	methodInvoke = "worker.invoke"
)

// method is what can be called.
type method struct {
	name  string
	roles []pki.Role // that may call it; nil: whoever comes, without a certificate too
	// The most bytes of a message each way. Streams have bounds of their own.
	request, response int64
	serve             func(*Server, http.ResponseWriter, *request)
}

// methods is the table of all that a host can be asked for, and by whom.
//
// A worker may call what concerns itself alone: its heartbeat, reports of its own sandboxes, and content whose digest it knows,
// which it has from a manager that started a sandbox there.
func methods() []method {
	return []method{
		{"catalog.watch", roles(pki.FrontEnd, pki.Counting, pki.Manager), kib, 0, serveWatch},
		{"catalog.revision", roles(pki.FrontEnd), kib, kib, unary(serveRevision)},

		{"manager.claim", roles(pki.FrontEnd), mib, 4 * kib, unary(serveClaim)},
		{"manager.abandon", roles(pki.FrontEnd), kib, kib, unary(serveAbandon)},
		{"manager.return", roles(pki.FrontEnd), mib, kib, unary(serveReturn)},
		{"manager.report", roles(pki.Worker, pki.Placement), 4 * mib, kib, unary(serveReport)},

		{"placement.place", roles(pki.Manager), mib, 4 * kib, unary(servePlace)},
		{"placement.free", roles(pki.Manager), kib, kib, unary(serveFree)},
		{"placement.heartbeat", roles(pki.Worker), 4 * mib, kib, unary(serveHeartbeat)},
		{"placement.workers", roles(pki.Manager, pki.FrontEnd, pki.Control), kib, 64 * mib, unary(serveWorkers)},

		{"worker.start", roles(pki.Manager), mib, kib, unary(serveStart)},
		{methodInvoke, roles(pki.FrontEnd), 0, 0, serveInvoke},
		{"worker.stop", roles(pki.Manager), kib, kib, unary(serveStop)},
		{"worker.list", roles(pki.Manager), kib, 16 * mib, unary(serveList)},
		{"worker.logs", roles(pki.Control), 4 * kib, 64 * mib, unary(serveLogs)},

		{"blobs.open", roles(pki.Worker), kib, 0, serveOpen},

		{"pki.join", nil, 16 * kib, 64 * kib, unary(serveJoin)},
		{"pki.renew", pki.Roles(), 16 * kib, 64 * kib, unary(serveRenew)},
		{"peer.ping", pki.Roles(), kib, kib, unary(servePing)},
	}
}

func roles(all ...pki.Role) []pki.Role { return all }

// table is the methods by their names.
func table() map[string]method {
	all := map[string]method{}
	for _, m := range methods() {
		all[m.name] = m
	}
	return all
}
