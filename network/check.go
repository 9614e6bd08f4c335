package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Check returns what this process and host lack to connect sandboxes, one sentence for each with what to do about it, and
// nothing when all is there. It tries it out: it makes a namespace in the place of the host's, a network in that, attaches
// another namespace, and removes all again. Of the host itself it only reads.
func Check(ctx context.Context) []string {
	if os.Geteuid() != 0 {
		return []string{"it needs to run as root, for network namespaces and nftables"}
	}
	var missing []string
	if err := tryOut(ctx); err != nil {
		missing = append(missing, advice(err))
	}
	if forwards, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err != nil || strings.TrimSpace(string(forwards)) != "1" && unix.Access("/proc/sys/net/ipv4/ip_forward", unix.W_OK) != nil {
		missing = append(missing, "the host does not forward packets, and that cannot be switched on from here: set sysctl net.ipv4.ip_forward=1")
	}
	if most, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max"); err == nil {
		if number, err := strconv.Atoi(strings.TrimSpace(string(most))); err == nil && number < wantedConnections {
			missing = append(missing, fmt.Sprintf("the host tracks at most %d connections, which some dozens of sandboxes can use up: set sysctl net.netfilter.nf_conntrack_max=%d", number, 4*wantedConnections))
		}
	}
	own, err := ownNamespace()
	if err != nil {
		return append(missing, err.Error())
	}
	defer own.Close()
	droppers, err := forwardDroppers(own)
	if err != nil {
		missing = append(missing, err.Error())
	}
	for _, chain := range droppers {
		missing = append(missing, fmt.Sprintf("the nftables chain %q drops forwarded packets unless told otherwise: "+
			"have it accept those from and to interfaces lamb-* (with Docker: iptables -I DOCKER-USER -i lamb-+ -j ACCEPT, and the same with -o)", chain))
	}
	return missing
}

// wantedConnections is what a host must be able to track: 64 sandboxes at their limit.
const wantedConnections = 1 << 16

// tryOut makes and removes a network whose host is a new namespace.
func tryOut(ctx context.Context) (err error) {
	state, err := os.MkdirTemp("", "lambent-network-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(state)) }()
	host, err := newNamespace()
	if err != nil {
		return err
	}
	defer host.Close()
	inside, err := newNamespace()
	if err != nil {
		return err
	}
	defer inside.Close()
	n, err := Open(ctx, Options{StateDir: state, Policy: Internet, Host: host, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	_, err = n.Attach(ctx, "check", inside)
	return err
}

// advice adds to an error what the operator can do about it.
func advice(err error) string {
	for _, known := range []struct {
		is  error
		say string
	}{
		{unix.EPERM, "run as root with CAP_NET_ADMIN and CAP_SYS_ADMIN (in a container: --privileged)"},
		{unix.EROFS, "in a container, have /proc/sys mounted for writing (--privileged)"},
		{unix.ENOENT, "the kernel lacks part of nftables: it needs CONFIG_NF_TABLES_IPV4, CONFIG_NFT_{CT,MASQ,LIMIT,CONNLIMIT,FIB_IPV4,REJECT_IPV4}"},
		{unix.EPROTONOSUPPORT, "the kernel lacks nftables: load nf_tables or enable CONFIG_NF_TABLES"},
		{unix.EOPNOTSUPP, "the kernel lacks virtual links or nftables: it needs CONFIG_VETH and CONFIG_NF_TABLES"},
	} {
		if errors.Is(err, known.is) {
			return err.Error() + ": " + known.say
		}
	}
	return err.Error()
}
