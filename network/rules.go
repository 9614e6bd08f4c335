package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// uplinkName is the router's end of the link to the host.
const uplinkName = "uplink"

// idle is how long a sandbox's place in a rate limit is kept after its last packet.
const idle = 10 * time.Second

// ruleset builds one table. The connection sends it to the kernel as one transaction.
type ruleset struct {
	conn  *nftables.Conn
	table *nftables.Table
	err   error
}

// newRuleset begins a table in a namespace; one of that name is replaced in the same transaction.
func newRuleset(namespace *os.File, family nftables.TableFamily, name string) (*ruleset, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(int(namespace.Fd())))
	if err != nil {
		return nil, fmt.Errorf("reach nftables: %w", err)
	}
	table := &nftables.Table{Family: family, Name: name}
	conn.AddTable(table)
	conn.DelTable(table)
	return &ruleset{conn: conn, table: conn.AddTable(table)}, nil
}

func (r *ruleset) flush() error {
	if r.err != nil {
		return r.err
	}
	if err := r.conn.Flush(); err != nil {
		return fmt.Errorf("load the nftables table %s: %w", r.table.Name, err)
	}
	return nil
}

func (r *ruleset) chain(kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority, policy nftables.ChainPolicy, name string) *nftables.Chain {
	return r.conn.AddChain(&nftables.Chain{Table: r.table, Name: name, Type: kind, Hooknum: hook, Priority: priority, Policy: &policy})
}

func (r *ruleset) rule(chain *nftables.Chain, parts ...[]expr.Any) {
	var whole []expr.Any
	for _, part := range parts {
		whole = append(whole, part...)
	}
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: chain, Exprs: whole})
}

func (r *ruleset) set(set *nftables.Set, elements []nftables.SetElement) *nftables.Set {
	set.Table = r.table
	if err := r.conn.AddSet(set, elements); err != nil && r.err == nil {
		r.err = fmt.Errorf("make the nftables set %s: %w", set.Name, err)
	}
	return set
}

// ranges makes a set of addresses.
func (r *ruleset) ranges(name string, ranges []addressRange) *nftables.Set {
	var elements []nftables.SetElement
	for _, one := range ranges {
		elements = append(elements, nftables.SetElement{Key: fromNumber(one.first).AsSlice()})
		if one.last != ^uint32(0) {
			elements = append(elements, nftables.SetElement{Key: fromNumber(one.last + 1).AsSlice(), IntervalEnd: true})
		}
	}
	return r.set(&nftables.Set{Name: name, KeyType: nftables.TypeIPAddr, Interval: true}, elements)
}

// each applies an expression with a state of its own for each key, which is in register 1. Rates are forgotten after a while
// without use.
func (r *ruleset) each(name string, key nftables.SetDatatype, state expr.Any) []expr.Any {
	set := &nftables.Set{Name: name, KeyType: key, Dynamic: true, Size: 1 << 16}
	operation := &expr.Dynset{SrcRegKey: 1, Operation: unix.NFT_DYNSET_OP_ADD, Exprs: []expr.Any{state}}
	if _, rate := state.(*expr.Limit); rate {
		set.HasTimeout = true
		operation.Operation, operation.Timeout = unix.NFT_DYNSET_OP_UPDATE, idle
	}
	r.set(set, nil)
	operation.SetName, operation.SetID = set.Name, set.ID
	return []expr.Any{operation}
}

// over is true for what comes faster than the rate, in packets or bytes per second, once the burst is used up.
func over(kind expr.LimitType, rate uint64, burst uint32) expr.Any {
	return &expr.Limit{Type: kind, Rate: rate, Over: true, Unit: expr.LimitTimeSecond, Burst: burst}
}

// meta compares a property of the packet that is not in it.
func meta(key expr.MetaKey, op expr.CmpOp, value []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: value}}
}

func interfaceName(key expr.MetaKey, op expr.CmpOp, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return meta(key, op, padded)
}

func protocol(number byte) []expr.Any {
	return meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{number})
}

func loadMeta(key expr.MetaKey) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}}
}

// Where things are in IPv4 headers, and in those of TCP, UDP and ICMP.
const (
	fragmentOffset    = 6
	sourceOffset      = 12
	destinationOffset = 16
	sourcePort        = 0
	destinationPort   = 2
	tcpFlagsOffset    = 13
	icmpTypeOffset    = 0
)

func ipField(at, length uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: length}}
}

func transportField(at uint32, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: at, Len: uint32(len(value))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value},
	}
}

func port(at uint32, number uint16) []expr.Any {
	return transportField(at, binary.BigEndian.AppendUint16(nil, number))
}

func address(at uint32, op expr.CmpOp, is netip.Addr) []expr.Any {
	return append(ipField(at, 4), &expr.Cmp{Op: op, Register: 1, Data: is.AsSlice()})
}

func within(at uint32, op expr.CmpOp, prefix netip.Prefix) []expr.Any {
	mask := binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-prefix.Bits()))
	return append(ipField(at, 4), masked(mask, op, prefix.Addr().AsSlice())...)
}

// masked compares some bits of register 1.
func masked(mask []byte, op expr.CmpOp, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))},
		&expr.Cmp{Op: op, Register: 1, Data: value},
	}
}

func inSet(set *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID}}
}

// connection compares bits of a property that connection tracking keeps, with none of them set.
func connection(key expr.CtKey, bits uint32, op expr.CmpOp) []expr.Any {
	load := []expr.Any{&expr.Ct{Key: key, Register: 1}}
	return append(load, masked(binaryutil.NativeEndian.PutUint32(bits), op, make([]byte, 4))...)
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func accept() []expr.Any { return verdict(expr.VerdictAccept) }
func drop() []expr.Any   { return verdict(expr.VerdictDrop) }

// reject answers that the destination is prohibited, so that programs fail at once instead of waiting.
func reject() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpProhibited}}
}

const icmpProhibited = 13
