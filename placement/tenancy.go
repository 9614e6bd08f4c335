package placement

import (
	"slices"

	"lambent"
)

// tenancy is whose sandboxes a worker may hold: those that are granted, and those that the worker itself has told of, which
// may be in grants that are not known any more.
//
// Invariant: if any sandbox is under an isolation that does not hold between accounts, all of the worker are of one account.
type tenancy struct {
	shared    []lambent.Isolation // that hold between accounts
	all       map[string]int      // granted sandboxes by account
	apart     map[string]int      // those of them under isolations that do not hold between accounts
	residents []lambent.Resident  // by the last heartbeat
	offers    []lambent.Isolation // that the worker has drivers for
}

func newTenancy(shared []lambent.Isolation) tenancy {
	return tenancy{shared: shared, all: make(map[string]int), apart: make(map[string]int)}
}

// accepts tells whether a sandbox may come to the worker.
func (t *tenancy) accepts(who lambent.Resident) bool {
	return slices.Contains(t.offers, who.Isolation) && t.beside(who)
}

// beside tells whether a sandbox may be beside those that are there.
func (t *tenancy) beside(who lambent.Resident) bool {
	others := t.apart // that keep it away
	if !slices.Contains(t.shared, who.Isolation) {
		others = t.all
	}
	if own := others[who.Account]; len(others) > 1 || len(others) == 1 && own == 0 {
		return false
	}
	for _, there := range t.residents {
		if there.Account != who.Account && !lambent.MayShareHost(there.Isolation, who.Isolation, t.shared) {
			return false
		}
	}
	return true
}

// hold notes n more granted sandboxes. n may be negative.
func (t *tenancy) hold(who lambent.Resident, n int) {
	change(t.all, who.Account, n)
	if !slices.Contains(t.shared, who.Isolation) {
		change(t.apart, who.Account, n)
	}
}

func change(counts map[string]int, account string, n int) {
	if counts[account] += n; counts[account] <= 0 {
		delete(counts, account)
	}
}

// clear forgets what is granted.
func (t *tenancy) clear() {
	clear(t.all)
	clear(t.apart)
}
