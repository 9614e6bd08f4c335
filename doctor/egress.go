package doctor

import (
	"context"
	"fmt"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"lambent/network"
)

// inNamespace has a child try something in a network namespace of its own, which goes with it.
func inNamespace(name string) func(*doctor, context.Context) finding {
	return func(d *doctor, ctx context.Context) finding {
		seen, err := d.inChild(ctx, syscall.CLONE_NEWNET, name)
		return tried(err, seen)
	}
}

func tryVeth([]string) (string, error) {
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "doctor0"}, PeerName: "doctor1"}
	if err := netlink.LinkAdd(link); err != nil {
		return "", err
	}
	if _, err := netlink.LinkByName("doctor1"); err != nil {
		return "", fmt.Errorf("it was made, and its peer is not there: %w", err)
	}
	return "a pair was made", nil
}

func tryBridge([]string) (string, error) {
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "doctor"}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return "", err
	}
	return "one was made", netlink.LinkSetUp(bridge)
}

// rules loads a table into the namespace.
func loadTable(build func(conn *nftables.Conn, table *nftables.Table) error) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	if err := build(conn, conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "doctor"})); err != nil {
		return err
	}
	return conn.Flush()
}

func tryNftables([]string) (string, error) {
	err := loadTable(func(conn *nftables.Conn, table *nftables.Table) error {
		set := &nftables.Set{Table: table, Name: "denied", KeyType: nftables.TypeIPAddr}
		if err := conn.AddSet(set, []nftables.SetElement{{Key: []byte{169, 254, 169, 254}}}); err != nil {
			return err
		}
		chain := conn.AddChain(&nftables.Chain{Table: table, Name: "forward", Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4},
			&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
			&expr.Verdict{Kind: expr.VerdictDrop},
		}})
		return nil
	})
	return "a table, a set and a rule were loaded", err
}

func tryMasquerade([]string) (string, error) {
	err := loadTable(func(conn *nftables.Conn, table *nftables.Table) error {
		chain := conn.AddChain(&nftables.Chain{Table: table, Name: "out", Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Masq{}}})
		return nil
	})
	return "a rule was loaded", err
}

func probeForwarding(d *doctor, _ context.Context) finding {
	const path = "/proc/sys/net/ipv4/ip_forward"
	switch {
	case readText(path) == "1":
		return ok("on")
	case d.root && writable(path):
		return ok("off; it is switched on when functions get a way out")
	}
	return weak("off")
}

// probeEgress asks the network itself, which tries all of it in namespaces.
func probeEgress(d *doctor, ctx context.Context) finding {
	if !d.root {
		return missing("it needs root").with("run it as root to see")
	}
	if lacks := network.Check(ctx); len(lacks) > 0 {
		return missing("%s", strings.Join(lacks, "; "))
	}
	return ok("a namespace was attached to a network, with its rules, and both removed")
}
