package network

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The ports that the host's peers see sandboxes at.
const (
	lowestPort  = 0x8000
	highestPort = 0xffff
)

// masqueradePorts adds rules to a chain, for TCP and UDP: what matches gets the host's address, and a port that no service of
// the host has and that cannot be foreseen. A sandbox that could choose the port would be sent what a peer of its choice sends
// to the host's service there. The library sends a range of ports without the flag that puts it in force, hence the message of our own.
func masqueradePorts(own, namespace *os.File, table *nftables.Table, chain *nftables.Chain, matching []expr.Any) error {
	b := &batch{}
	b.bare(unix.NFNL_MSG_BATCH_BEGIN, []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES})
	for _, transport := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		b.request(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, []byte{unix.AF_INET, unix.NFNETLINK_V0, 0, 0})
		b.text(unix.NFTA_RULE_TABLE, table.Name)
		b.text(unix.NFTA_RULE_CHAIN, chain.Name)
		expressions := append(append([]expr.Any(nil), matching...), protocol(transport)...)
		expressions = append(expressions,
			&expr.Immediate{Register: unix.NFT_REG_1, Data: binary.BigEndian.AppendUint16(nil, lowestPort)},
			&expr.Immediate{Register: unix.NFT_REG_2, Data: binary.BigEndian.AppendUint16(nil, highestPort)})
		var err error
		b.nest(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, nil, func() {
			for _, one := range expressions {
				marshalled, failed := expr.Marshal(unix.AF_INET, one)
				if failed != nil {
					err = failed
				}
				b.attribute(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, marshalled)
			}
			b.nest(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, nil, func() { masqueradeExpression(b) })
		})
		if err != nil {
			return fmt.Errorf("write a rule: %w", err)
		}
	}
	b.bare(unix.NFNL_MSG_BATCH_END, []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES})
	return inNamespace(own, namespace, func() error {
		kernel, err := dialKernel(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer kernel.close()
		if err := kernel.all(b); err != nil {
			return fmt.Errorf("load the rules that translate addresses: %w", err)
		}
		return nil
	})
}

// masqueradeExpression takes the range of ports from registers 1 and 2.
func masqueradeExpression(b *batch) {
	const (
		portsGiven  = 1 << 1 // NF_NAT_RANGE_PROTO_SPECIFIED
		fullyRandom = 1 << 4 // NF_NAT_RANGE_PROTO_RANDOM_FULLY
	)
	number := func(kind uint16, value uint32) { b.attribute(kind, binary.BigEndian.AppendUint32(nil, value)) }
	b.text(unix.NFTA_EXPR_NAME, "masq")
	b.nest(unix.NFTA_EXPR_DATA|unix.NLA_F_NESTED, nil, func() {
		number(unix.NFTA_MASQ_FLAGS, portsGiven|fullyRandom)
		number(unix.NFTA_MASQ_REG_PROTO_MIN, unix.NFT_REG_1)
		number(unix.NFTA_MASQ_REG_PROTO_MAX, unix.NFT_REG_2)
	})
}
