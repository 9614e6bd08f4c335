package gvisor

import (
	"encoding/json"
	"fmt"

	"lambent/sandbox"
	"lambent/sandbox/gvisor/initproc"
	"lambent/sandbox/identity"
)

// The part of the OCI runtime specification that the driver uses.
type (
	ociSpec struct {
		Version  string     `json:"ociVersion"`
		Process  ociProcess `json:"process"`
		Root     ociRoot    `json:"root"`
		Hostname string     `json:"hostname"`
		Mounts   []ociMount `json:"mounts"`
		Linux    ociLinux   `json:"linux"`
	}
	ociProcess struct {
		User         ociUser             `json:"user"`
		Args         []string            `json:"args"`
		Env          []string            `json:"env"`
		Cwd          string              `json:"cwd"`
		Capabilities map[string][]string `json:"capabilities"`
		Rlimits      []ociRlimit         `json:"rlimits"`
		OOMScoreAdj  int                 `json:"oomScoreAdj"`
	}
	ociUser struct {
		UID int `json:"uid"`
		GID int `json:"gid"`
	}
	ociRlimit struct {
		Type string `json:"type"`
		Hard uint64 `json:"hard"`
		Soft uint64 `json:"soft"`
	}
	ociRoot struct {
		Path     string `json:"path"`
		Readonly bool   `json:"readonly"`
	}
	ociMount struct {
		Destination string   `json:"destination"`
		Type        string   `json:"type"`
		Source      string   `json:"source"`
		Options     []string `json:"options"`
	}
	ociLinux struct {
		Namespaces  []ociNamespace `json:"namespaces"`
		UIDMappings []ociMapping   `json:"uidMappings"`
		GIDMappings []ociMapping   `json:"gidMappings"`
	}
	ociNamespace struct {
		Type string `json:"type"`
		Path string `json:"path,omitempty"`
	}
	ociMapping struct {
		ContainerID uint32 `json:"containerID"`
		HostID      uint32 `json:"hostID"`
		Size        uint32 `json:"size"`
	}
)

// initDescriptors is how many files the init may open: two for each connection to the Runtime API, and some.
const initDescriptors = 2048

// initCapabilities are the init's, towards the Sentry. On the host they mean nothing.
func initCapabilities() []string {
	return []string{"CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_NET_ADMIN", "CAP_MKNOD", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL",
		"CAP_SYS_RESOURCE", "CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER"}
}

// specification is the OCI specification of a sandbox whose exchange is at a path. Network is the path of its network namespace, ""
// for one of runsc's own. Base are the targets of the driver's base.
func specification(firstID uint32, exchange, network string, base []sandbox.Mount) ([]byte, error) {
	capabilities := initCapabilities()
	args := []string{initproc.InitName, sandbox.RuntimeAPIAddress}
	for _, mount := range base {
		args = append(args, mount.Target)
	}
	mapping := []ociMapping{{0, firstID, identity.RangeIDs}}
	spec := ociSpec{
		Version: "1.0.2",
		Process: ociProcess{
			Args: args, Env: []string{"GOMAXPROCS=1", "PATH=/"}, Cwd: "/",
			Capabilities: map[string][]string{"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
			Rlimits:      []ociRlimit{{"RLIMIT_NOFILE", initDescriptors, initDescriptors}},
			OOMScoreAdj:  1000,
		},
		Root:     ociRoot{Path: homePath + "/" + rootName, Readonly: true},
		Hostname: "sandbox",
		Mounts: []ociMount{
			{"/proc", "proc", "proc", nil},
			{initproc.Exchange, "bind", exchange, []string{"rbind", "rslave", "rw"}},
		},
		Linux: ociLinux{
			Namespaces: []ociNamespace{{Type: "user"}, {Type: "pid"}, {Type: "mount"}, {Type: "ipc"}, {Type: "uts"},
				{Type: "network", Path: network}},
			UIDMappings: mapping, GIDMappings: mapping,
		},
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("write the specification: %w", err)
	}
	return text, nil
}

// flags are runsc's own, before its command.
func (d *Driver) flags(log string, network bool) []string {
	kind := "none"
	if network {
		kind = "sandbox"
	}
	return []string{
		"--root=" + homePath + "/" + stateName, "--platform=" + d.options.Platform, "--network=" + kind, "--log=" + log, "--log-format=json",
		"--ignore-cgroups", "--overlay2=none", "--directfs=true",
		// The exchange has the sockets and pipes that lead outside. The function can neither see it nor bring any of its own.
		"--host-uds=open", "--host-fifo=open",
		// Nobody else changes what is inside, but for new names in the exchange.
		"--file-access=exclusive", "--file-access-mounts=exclusive",
		"--net-raw=false", "--gofer-network-namespace=new", "--host-settings=ignore", "--cpu-num-from-quota=false",
		"--net-disconnect-ok",
		// A restored sandbox has user IDs of its own, which gVisor takes for another specification.
		"--restore-spec-validation=ignore",
	}
}
