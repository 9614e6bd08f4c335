package doctor

import "lambent/sandbox/microvm/kernel"

// probes is the table of all that is looked at, in the order in which it is shown.
func probes() []probe {
	all := []Use{Native, GVisor, MicroVM}
	const installGuest = "install QEMU, a guest's kernel and mkfs.erofs (apt-get install qemu-system-x86 erofs-utils, and " + kernel.Packages + ")"
	return []probe{
		{nameKernel, append(all, Rootless), "install Linux 5.14 or later", probeKernel},
		{nameRights, append(all, Egress), "run it as root", probeRights},
		{nameUserRange, []Use{Native, GVisor}, "set sysctl user.max_user_namespaces to 10000 or more", probeUserRange},
		{nameNamespaces, []Use{Native, GVisor, Rootless}, "use a kernel with CONFIG_NAMESPACES and all below it; in a container, --privileged", probeNamespaces},
		{nameCgroups, all, "mount cgroups with the controllers memory, cpu and pids; in a container, --privileged --cgroupns=host", probeCgroups},
		{"disk limits", all, "boot with cgroups v2 and the controller io", probeIOLimits},
		{nameFreezer, all, "use a kernel with cgroups v2, or with CONFIG_CGROUP_FREEZER", probeFreezer},
		{nameSeccomp, []Use{Native, GVisor, Rootless}, "use a kernel with CONFIG_SECCOMP_FILTER", probeSeccomp},
		{nameNoNewPrivs, []Use{Native, GVisor, Rootless}, "use Linux 3.5 or later", probeNoNewPrivs},
		{namePivotRoot, []Use{Native, GVisor, Rootless}, "in a container, --privileged", probePivotRoot},
		{nameLoop, []Use{Native, GVisor}, "load the module loop and give this process /dev/loop-control", probeLoop},
		{"overlayfs", nil, "load the module overlay; nothing needs it yet", probeOverlay},
		{"veth", []Use{Egress}, "load the module veth", inNamespace("veth")},
		{"tap device", []Use{MicroVM}, "load the modules tun, sch_ingress, cls_u32 and act_mirred; without them: lambent up --egress none", probeTap},
		{"bridge", nil, "load the module bridge; nothing needs it yet", inNamespace("bridge")},
		{"nftables", []Use{Egress}, "load the module nf_tables", inNamespace("nftables")},
		{"masquerade", []Use{Egress}, "load the modules nft_chain_nat and nft_masq", inNamespace("masquerade")},
		{"ip_forward", []Use{Egress}, "set sysctl net.ipv4.ip_forward=1", probeForwarding},
		{nameEgress, []Use{Egress}, "see what it says; without it: lambent up --egress none", probeEgress},
		{nameKVM, []Use{MicroVM}, "enable virtualisation in the firmware, or nested virtualisation on the host above, and load kvm_intel or kvm_amd", probeKVM},
		{nameKVMGuest, []Use{MicroVM}, "guests run by emulation: use a machine whose KVM can boot a kernel (bare metal, or nested virtualisation); " + installGuest, probeGuest("kvm")},
		{nameTCGGuest, []Use{MicroVM}, installGuest, probeGuest("tcg")},
		{nameMicroVM, []Use{MicroVM}, "see what it says", probeMicroVM},
		{"firecracker and jailer", []Use{MicroVM}, "nothing, as long as QEMU is used; else put both, of one release, beside lambent", probeFirecracker},
		{"vsock", []Use{MicroVM}, "load the modules vsock and vhost_vsock; without them a serial line is used", probeVsock},
		{nameRunsc, []Use{GVisor}, "build it with `make runsc` in Lambent's source tree, or put a release of gVisor's runsc beside lambent", probeRunsc},
		{nameSubordinate, []Use{Rootless}, "see what it says", probeSubordinate},
		{nameRootless, []Use{Rootless}, "see what it says", probeRootNamespace},
		{nameDelegation, []Use{Rootless}, "see what it says", probeDelegation},
		{"swap", all, "swapoff -a: functions' memory limits count no swap, and a host that swaps is slow for all", probeSwap},
		{"transparent huge pages", all, "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: with always, small functions use more memory", probeHugePages},
		{"data directory", all, "", probeDisk},
		{"open files", all, "raise LimitNOFILE of the service to 65536 or more: each sandbox takes about ten", probeDescriptors},
		{"inotify instances", []Use{Native}, "set sysctl fs.inotify.max_user_instances to 1024 or more", probeNumber("/proc/sys/fs/inotify/max_user_instances", 128)},
		{"process IDs", []Use{Native, GVisor}, "set sysctl kernel.pid_max to 4194304", probeNumber("/proc/sys/kernel/pid_max", 32768)},
		{"clock source", all, "use tsc or kvm-clock: with others every reading of the clock is a system call", probeClock},
		{"processors, memory", all, "", probeMemory},
		{"runtimes", []Use{Native, GVisor}, "", probeRuntimes},
	}
}
