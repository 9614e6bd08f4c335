package doctor

import "slices"

// need is a list of checks of which one has to be there.
type need []string

// rule is what a use needs: one of each need.
type rule struct {
	use   Use
	needs []need
	note  string // for one that is usable
	// notes are for those that are usable, by the check that is not OK.
	notes map[string]string
}

// The names of checks that rules speak of.
const (
	nameKernel      = "kernel"
	nameRights      = "rights"
	nameUserRange   = "user namespace, ID range"
	nameNamespaces  = "namespaces"
	nameCgroups     = "cgroups"
	nameFreezer     = "freezer"
	nameSeccomp     = "seccomp filter"
	nameNoNewPrivs  = "no_new_privs"
	namePivotRoot   = "pivot_root"
	nameLoop        = "ext4 on a loop device"
	nameEgress      = "egress, the whole"
	nameKVM         = "KVM, minimal guest"
	nameKVMGuest    = "KVM, Linux guest"
	nameTCGGuest    = "QEMU without KVM, Linux guest"
	nameMicroVM     = "microvm driver"
	nameRunsc       = "runsc"
	nameDelegation  = "rootless: delegated cgroup"
	nameSubordinate = "rootless: subordinate IDs"
	nameRootless    = "rootless: root of a namespace"
)

func rules() []rule {
	native := []need{{nameKernel}, {nameRights}, {nameUserRange}, {nameNamespaces}, {nameCgroups}, {nameFreezer}, {nameSeccomp},
		{nameNoNewPrivs}, {namePivotRoot}, {nameLoop}}
	return []rule{
		{use: Native, needs: native},
		// That runsc runs shows what it needs itself: namespaces, filters.
		{use: GVisor, needs: []need{{nameRunsc}, {nameKernel}, {nameRights}, {nameUserRange}, {nameCgroups}, {nameFreezer}, {nameLoop}}},
		{use: MicroVM, needs: []need{{nameRights}, {nameCgroups}, {nameMicroVM}, {nameKVMGuest, nameTCGGuest}},
			notes: map[string]string{nameKVMGuest: "by emulation: for development and tests, not for load"}},
		{use: Egress, needs: []need{{nameRights}, {nameEgress}}},
		{use: Rootless, needs: []need{{nameKernel}, {nameNamespaces}, {nameSeccomp}, {nameNoNewPrivs}, {namePivotRoot}, {nameSubordinate},
			{nameRootless}, {nameDelegation}}, note: "native sandboxes only; weaker, see docs/isolation.md#rootless"},
	}
}

// judge says what can be used with what the checks found.
func judge(checks []Check) []Usable {
	results := map[string]Result{}
	for _, check := range checks {
		results[check.Name] = check.Result
	}
	there := func(name string) bool { return results[name] == OK || results[name] == Weak }
	var all []Usable
	for _, rule := range rules() {
		u := Usable{Use: rule.use, Usable: true}
		for _, need := range rule.needs {
			if !slices.ContainsFunc(need, there) {
				u.Usable = false
				u.Lacks = append(u.Lacks, need...)
			}
		}
		if u.Usable {
			u.Note = rule.note
		}
		for name, note := range rule.notes {
			if u.Usable && !there(name) {
				u.Note = note
			}
		}
		all = append(all, u)
	}
	return all
}
