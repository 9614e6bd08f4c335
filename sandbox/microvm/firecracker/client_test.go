package firecracker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// schema is an object of the published description: its members, "*" behind the names of those that are required.
type schema map[string]any

// The kinds of members, beside other schemas.
const (
	text    = "string"
	integer = "integer"
	boolean = "boolean"
)

var (
	bucket      = schema{"size*": integer, "refill_time*": integer, "one_time_burst": integer}
	rateLimiter = schema{"bandwidth": bucket, "ops": bucket}
)

// choice is a string of a fixed set.
type choice []string

// request is a method and path of the description, and when it may be made.
type request struct {
	body schema
	when []string // states
	next string   // the state afterwards; empty: the same
}

const (
	fresh      = "Not started, nothing configured"
	configured = "Not started"
	running    = "Running"
	paused     = "Paused"
)

var before = []string{fresh, configured}

// description is what the client uses of the interface's description, version 1.17.
var description = map[string]request{
	"PUT /boot-source": {schema{"kernel_image_path*": text, "initrd_path": text, "boot_args": text}, before, configured},
	"PUT /machine-config": {schema{"vcpu_count*": integer, "mem_size_mib*": integer, "track_dirty_pages": boolean, "smt": boolean,
		"huge_pages": choice{"None", "Transparent", "2M"}}, before, configured},
	"PUT /drives/{drive_id}": {schema{"drive_id*": text, "is_root_device*": boolean, "is_read_only": boolean, "path_on_host": text,
		"partuuid": text, "cache_type": choice{"Unsafe", "Writeback"}, "io_engine": choice{"Sync", "Async"}, "rate_limiter": rateLimiter,
		"socket": text}, before, configured},
	"PATCH /drives/{drive_id}": {schema{"drive_id*": text, "path_on_host": text, "rate_limiter": rateLimiter}, []string{running, paused}, ""},
	"PUT /vsock":               {schema{"guest_cid*": integer, "uds_path*": text, "vsock_id": text}, before, configured},
	"PUT /network-interfaces/{iface_id}": {schema{"iface_id*": text, "host_dev_name*": text, "guest_mac": text, "mtu": integer,
		"rx_rate_limiter": rateLimiter, "tx_rate_limiter": rateLimiter}, before, configured},
	"PATCH /network-interfaces/{iface_id}": {schema{"iface_id*": text, "rx_rate_limiter": rateLimiter, "tx_rate_limiter": rateLimiter},
		[]string{running, paused}, ""},
	"PUT /logger": {schema{"level": choice{"Error", "Warning", "Info", "Debug", "Trace", "Off"}, "log_path": text, "show_level": boolean,
		"show_log_origin": boolean, "module": text}, []string{fresh, configured, running, paused}, ""},
	"PUT /metrics": {schema{"metrics_path*": text}, []string{fresh, configured, running, paused}, ""},
	"PUT /entropy": {schema{"rate_limiter": rateLimiter}, before, configured},
	"PUT /actions": {schema{"action_type*": choice{"FlushMetrics", "InstanceStart", "SendCtrlAltDel"}}, []string{configured, running, paused}, "act"},
	"PATCH /vm":    {schema{"state*": choice{"Paused", "Resumed"}}, []string{running, paused}, "state"},
	"PUT /snapshot/create": {schema{"mem_file_path*": text, "snapshot_path*": text, "snapshot_type": choice{"Full", "Diff"}},
		[]string{paused}, ""},
	"PUT /snapshot/load": {schema{"snapshot_path*": text, "mem_backend": schema{"backend_type*": choice{"File", "Uffd"}, "backend_path*": text},
		"mem_file_path": text, "resume_vm": boolean, "track_dirty_pages": boolean, "enable_diff_snapshots": boolean, "clock_realtime": boolean,
		"vsock_override": schema{"uds_path*": text}, "network_overrides": []any{schema{"iface_id*": text, "host_dev_name*": text}}}, []string{fresh}, "loaded"},
}

// server implements the description strictly.
type server struct {
	mu         sync.Mutex
	state      string
	boot       bool
	metrics    bool
	drives     []string
	interfaces []string
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method == http.MethodGet && r.URL.Path == "/" {
		state := s.state
		if state == fresh {
			state = configured
		}
		json.NewEncoder(w).Encode(map[string]string{"app_name": "Firecracker", "id": "a", "state": state, "vmm_version": "1.17.0"})
		return
	}
	if err := s.handle(r); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]string{"fault_message": err.Error()})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) handle(r *http.Request) error {
	path, id := r.URL.Path, ""
	for prefix, parameter := range map[string]string{"/drives/": "drive_id", "/network-interfaces/": "iface_id"} {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			path, id = prefix+"{"+parameter+"}", rest
		}
	}
	known, ok := description[r.Method+" "+path]
	if !ok {
		return fmt.Errorf("Invalid request method and/or path: %s %s", r.Method, r.URL.Path)
	}
	if r.Header.Get("Content-Type") != "application/json" {
		return errors.New("the content is not application/json")
	}
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	var body map[string]any
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.UseNumber()
	if err := decoder.Decode(&body); err != nil {
		return err
	}
	if err := check(known.body, body); err != nil {
		return err
	}
	for _, name := range []string{"drive_id", "iface_id"} {
		if value, has := body[name]; has && value != id {
			return fmt.Errorf("The id from the path [%s] does not match the id from the body [%v]!", id, value)
		}
	}
	if !slices.Contains(known.when, s.state) {
		return fmt.Errorf("The requested operation is not supported in state %s", s.state)
	}
	return s.change(r, known, body, id)
}

// change carries a valid request out.
func (s *server) change(r *http.Request, known request, body map[string]any, id string) error {
	switch {
	case strings.HasPrefix(r.URL.Path, "/drives/") && r.Method == http.MethodPatch && !slices.Contains(s.drives, id):
		return errors.New("Invalid block device ID!")
	case strings.HasPrefix(r.URL.Path, "/drives/"):
		if body["path_on_host"] == nil && body["rate_limiter"] == nil {
			return errors.New("nothing to do")
		}
		s.drives = append(s.drives, id)
	case strings.HasPrefix(r.URL.Path, "/network-interfaces/") && r.Method == http.MethodPatch && !slices.Contains(s.interfaces, id):
		return errors.New("Invalid interface ID - not found")
	case strings.HasPrefix(r.URL.Path, "/network-interfaces/"):
		s.interfaces = append(s.interfaces, id)
	case r.URL.Path == "/metrics" && s.metrics:
		return errors.New("Reinitialization of metrics not allowed.")
	case r.URL.Path == "/metrics":
		s.metrics = true
	case r.URL.Path == "/boot-source":
		s.boot = true
	case r.URL.Path == "/actions":
		return s.act(body["action_type"])
	case r.URL.Path == "/vsock" && !atLeast(body["guest_cid"], 3):
		return errors.New("guest_cid is less than 3")
	case r.URL.Path == "/machine-config" && !atLeast(body["vcpu_count"], 1):
		return errors.New("The vCPU number is invalid!")
	case r.URL.Path == "/snapshot/load" && (body["mem_backend"] == nil) == (body["mem_file_path"] == nil):
		return errors.New("exactly one of mem_backend and mem_file_path")
	}
	switch known.next {
	case "":
	case "state":
		s.state = map[any]string{"Paused": paused, "Resumed": running}[body["state"]]
	case "loaded":
		s.state = paused
		if body["resume_vm"] == true {
			s.state = running
		}
	default:
		s.state = known.next
	}
	return nil
}

// act carries an action out.
func (s *server) act(kind any) error {
	switch {
	case kind != "InstanceStart" && s.state == configured:
		return fmt.Errorf("%v is not supported before starting the microVM.", kind)
	case kind == "FlushMetrics" && !s.metrics:
		return errors.New("Failed to flush metrics: they are not initialized")
	case kind == "InstanceStart" && s.state != configured:
		return errors.New("The requested operation is not supported after starting the microVM.")
	case kind == "InstanceStart" && !s.boot:
		return errors.New("Cannot start microvm without kernel configuration.")
	case kind == "InstanceStart":
		s.state = running
	}
	return nil
}

func atLeast(value any, least int64) bool {
	number, ok := value.(json.Number)
	n, err := number.Int64()
	return ok && err == nil && n >= least
}

// check compares an object with its schema.
func check(want schema, got map[string]any) error {
	for member, kind := range want {
		name, required := strings.CutSuffix(member, "*")
		value, has := got[name]
		if !has {
			if required {
				return fmt.Errorf("missing field `%s`", name)
			}
			continue
		}
		if err := checkKind(kind, value); err != nil {
			return fmt.Errorf("field `%s`: %w", name, err)
		}
	}
	for name := range got {
		if want[name] == nil && want[name+"*"] == nil {
			return fmt.Errorf("unknown field `%s`", name)
		}
	}
	return nil
}

func checkKind(kind, value any) error {
	ok := false
	switch kind := kind.(type) {
	case schema:
		object, isObject := value.(map[string]any)
		if isObject {
			return check(kind, object)
		}
	case choice:
		name, isText := value.(string)
		ok = isText && slices.Contains(kind, name)
	case []any:
		list, isList := value.([]any)
		for _, element := range list {
			if err := checkKind(kind[0], element); err != nil {
				return err
			}
		}
		ok = isList
	case string:
		switch kind {
		case text:
			_, ok = value.(string)
		case boolean:
			_, ok = value.(bool)
		case integer:
			number, isNumber := value.(json.Number)
			_, err := number.Int64()
			ok = isNumber && err == nil
		}
	}
	if !ok {
		return fmt.Errorf("%v is no %v", value, kind)
	}
	return nil
}

// newServer serves the interface, and returns a client of it.
func newServer(t *testing.T) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "api.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: &server{state: fresh}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		web.Serve(listener)
	}()
	client := New(socket)
	t.Cleanup(func() {
		client.Close()
		web.Close()
		<-done
	})
	return client
}

func TestLife(t *testing.T) {
	c, ctx := newServer(t), t.Context()
	for i, step := range []error{
		c.SetBootSource(ctx, BootSource{KernelImagePath: "/kernel", InitrdPath: "/initramfs", BootArgs: "quiet"}),
		c.SetMachine(ctx, MachineConfiguration{VCPUCount: 2, MemSizeMiB: 1024}),
		c.AddDrive(ctx, Drive{DriveID: "root", PathOnHost: "/root.erofs", IsReadOnly: true, RateLimiter: PerSecond(1<<20, 100)}),
		c.AddDrive(ctx, Drive{DriveID: "tmp", PathOnHost: "/tmp.img", CacheType: "Unsafe"}),
		c.AddInterface(ctx, NetworkInterface{InterfaceID: "eth0", HostDevName: "tap0", GuestMAC: "06:00:00:00:00:01", RxLimiter: PerSecond(1<<20, 0)}),
		c.SetVsock(ctx, Vsock{GuestCID: 3, UDSPath: "/v.sock"}),
		c.AddEntropy(ctx, nil),
		c.AddEntropy(ctx, PerSecond(1<<16, 0)),
		c.SetLogger(ctx, Logger{LogPath: "/log", Level: "Warning", ShowLevel: true}),
		c.SetMetrics(ctx, "/metrics"),
		c.Start(ctx),
		c.FlushMetrics(ctx),
		c.ChangeInterface(ctx, PartialNetworkInterface{InterfaceID: "eth0", TxLimiter: PerSecond(0, 1000)}),
		c.ChangeDrive(ctx, PartialDrive{DriveID: "tmp", PathOnHost: "/larger.img"}),
		c.Pause(ctx),
		c.CreateSnapshot(ctx, SnapshotCreate{MemFilePath: "/memory", SnapshotPath: "/state", SnapshotType: "Full"}),
		c.Resume(ctx),
	} {
		if step != nil {
			t.Errorf("step %d: %v", i, step)
		}
	}
	if state, err := c.State(ctx); err != nil || state != "Running" {
		t.Errorf("the state is %q, %v", state, err)
	}
	restored := newServer(t)
	load := SnapshotLoad{SnapshotPath: "/state", MemBackend: MemoryBackend{BackendType: "File", BackendPath: "/memory"},
		VsockOverride: &VsockOverride{UDSPath: "/w.sock"}, NetworkOverrides: []NetworkOverride{{InterfaceID: "eth0", HostDevName: "tap1"}}}
	if err := restored.LoadSnapshot(ctx, load); err != nil {
		t.Error(err)
	}
	if err := restored.Resume(ctx); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	c, ctx := newServer(t), t.Context()
	for name, err := range map[string]error{
		"start without a kernel":  c.Start(ctx),
		"snapshot while running":  c.CreateSnapshot(ctx, SnapshotCreate{MemFilePath: "/m", SnapshotPath: "/s"}),
		"pause before the start":  c.Pause(ctx),
		"a low CID":               c.SetVsock(ctx, Vsock{GuestCID: 2, UDSPath: "/v"}),
		"meters before the start": c.FlushMetrics(ctx),
		"an unknown interface":    c.ChangeInterface(ctx, PartialNetworkInterface{InterfaceID: "eth7"}),
		"an odd level":            c.SetLogger(ctx, Logger{LogPath: "/log", Level: "Odd"}),
		"no processor":            c.SetMachine(ctx, MachineConfiguration{MemSizeMiB: 128}),
		"an odd cache":            c.AddDrive(ctx, Drive{DriveID: "a", PathOnHost: "/a", CacheType: "Odd"}),
	} {
		var refusal *Error
		if !errors.As(err, &refusal) || refusal.Status != http.StatusBadRequest || refusal.Message == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestJailerArguments(t *testing.T) {
	jail := Jail{Jailer: "/bin/jailer", Firecracker: "/bin/firecracker", ID: "a-1", UID: 7, GID: 8, ChrootBase: "/srv/jails", CgroupVersion: 2,
		ParentCgroup: "lambent/x", Cgroups: []string{"memory.max=1"}, NetNS: "/run/netns/a", MaxFileBytes: 5, MaxFiles: 9}
	args, err := jail.Args()
	want := "/bin/jailer --id a-1 --exec-file /bin/firecracker --uid 7 --gid 8 --chroot-base-dir /srv/jails --cgroup-version 2 --new-pid-ns " +
		"--parent-cgroup lambent/x --cgroup memory.max=1 --netns /run/netns/a --resource-limit fsize=5 --resource-limit no-file=9 " +
		"-- --api-sock /run/firecracker.socket"
	if got := strings.Join(args, " "); err != nil || got != want {
		t.Errorf("%v\n%s\n%s", err, got, want)
	}
	if jail.Socket() != "/srv/jails/firecracker/a-1/root/run/firecracker.socket" {
		t.Error(jail.Socket())
	}
	for name, change := range map[string]func(*Jail){
		"a path as ID": func(j *Jail) { j.ID = "../a" },
		"root":         func(j *Jail) { j.UID = 0 },
		"cgroups v3":   func(j *Jail) { j.CgroupVersion = 3 },
	} {
		other := jail
		change(&other)
		if _, err := other.Args(); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestDialVsock(t *testing.T) {
	for answer, good := range map[string]bool{"OK 1073741824\nhello": true, "": false, "NO\n": false, "OK x\n": false, strings.Repeat("O", 99): false} {
		socket := filepath.Join(t.TempDir(), "v.sock")
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		asked := make(chan string, 1)
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			line := make([]byte, len("CONNECT 52\n"))
			io.ReadFull(conn, line)
			asked <- string(line)
			io.WriteString(conn, answer)
		}()
		conn, err := DialVsock(t.Context(), socket, 52)
		if got := <-asked; got != "CONNECT 52\n" {
			t.Errorf("it asked %q", got)
		}
		if (err == nil) != good {
			t.Errorf("answer %q: %v", answer, err)
		}
		if err == nil {
			if rest, _ := io.ReadAll(conn); string(rest) != "hello" {
				t.Errorf("the guest's first bytes are %q", rest)
			}
			conn.Close()
		}
		listener.Close()
	}
}

// FuzzVsockAnswer feeds what a socket may answer.
func FuzzVsockAnswer(f *testing.F) {
	f.Add("OK 12\n")
	f.Fuzz(func(t *testing.T, line string) {
		answer, err := readAnswer(strings.NewReader(line))
		if err == nil && checkAnswer(answer) == nil && !strings.HasPrefix(line, "OK ") {
			t.Errorf("%q was accepted", line)
		}
	})
}
