// Package firecracker speaks with Firecracker, the monitor of microVMs, through its REST interface on a Unix socket, and starts it
// in its jailer.
//
// The members of requests are those of the interface's published description. The tests run against a server that checks every
// request as the description says, in the order that it allows; no Firecracker takes part in them.
package firecracker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 1 << 20

// BootSource says what boots. Paths are as Firecracker sees them in its jail.
type BootSource struct {
	KernelImagePath string `json:"kernel_image_path"`
	InitrdPath      string `json:"initrd_path,omitempty"`
	BootArgs        string `json:"boot_args,omitempty"`
}

// MachineConfiguration is the machine's size.
type MachineConfiguration struct {
	VCPUCount       int  `json:"vcpu_count"` // 1 to 32
	MemSizeMiB      int  `json:"mem_size_mib"`
	TrackDirtyPages bool `json:"track_dirty_pages,omitempty"`
}

// TokenBucket is refilled with Size tokens in each RefillTime.
type TokenBucket struct {
	Size         int64 `json:"size"`
	RefillTime   int64 `json:"refill_time"` // milliseconds
	OneTimeBurst int64 `json:"one_time_burst,omitempty"`
}

// RateLimiter bounds a device.
type RateLimiter struct {
	Bandwidth *TokenBucket `json:"bandwidth,omitempty"` // bytes
	Ops       *TokenBucket `json:"ops,omitempty"`
}

// PerSecond returns a limiter, nil when nothing is limited.
func PerSecond(bytes, operations int64) *RateLimiter {
	limiter := &RateLimiter{}
	if bytes > 0 {
		limiter.Bandwidth = &TokenBucket{Size: bytes, RefillTime: 1000}
	}
	if operations > 0 {
		limiter.Ops = &TokenBucket{Size: operations, RefillTime: 1000}
	}
	if *limiter == (RateLimiter{}) {
		return nil
	}
	return limiter
}

// Drive is a disk. Its DriveID is its serial number in the guest too.
type Drive struct {
	DriveID      string       `json:"drive_id"`
	PathOnHost   string       `json:"path_on_host"`
	IsRootDevice bool         `json:"is_root_device"`
	IsReadOnly   bool         `json:"is_read_only"`
	CacheType    string       `json:"cache_type,omitempty"` // Unsafe or Writeback
	RateLimiter  *RateLimiter `json:"rate_limiter,omitempty"`
}

// PartialDrive changes a disk of a running machine.
type PartialDrive struct {
	DriveID     string       `json:"drive_id"`
	PathOnHost  string       `json:"path_on_host,omitempty"`
	RateLimiter *RateLimiter `json:"rate_limiter,omitempty"`
}

// Vsock is the machine's socket device.
type Vsock struct {
	GuestCID uint32 `json:"guest_cid"` // 3 or more
	UDSPath  string `json:"uds_path"`
}

// NetworkInterface is a network device behind a tap device of the host.
type NetworkInterface struct {
	InterfaceID string       `json:"iface_id"`
	HostDevName string       `json:"host_dev_name"`
	GuestMAC    string       `json:"guest_mac,omitempty"`
	RxLimiter   *RateLimiter `json:"rx_rate_limiter,omitempty"`
	TxLimiter   *RateLimiter `json:"tx_rate_limiter,omitempty"`
}

// PartialNetworkInterface changes the rates of a network device of a running machine.
type PartialNetworkInterface struct {
	InterfaceID string       `json:"iface_id"`
	RxLimiter   *RateLimiter `json:"rx_rate_limiter,omitempty"`
	TxLimiter   *RateLimiter `json:"tx_rate_limiter,omitempty"`
}

// Logger says what Firecracker logs, and where.
type Logger struct {
	LogPath    string `json:"log_path"`
	Level      string `json:"level,omitempty"` // Error, Warning, Info, Debug, Trace or Off
	ShowLevel  bool   `json:"show_level,omitempty"`
	ShowOrigin bool   `json:"show_log_origin,omitempty"`
}

// SnapshotCreate says where a snapshot goes.
type SnapshotCreate struct {
	MemFilePath  string `json:"mem_file_path"`
	SnapshotPath string `json:"snapshot_path"`
	SnapshotType string `json:"snapshot_type,omitempty"` // Full or Diff
}

// MemoryBackend is where a restored machine's memory comes from.
type MemoryBackend struct {
	BackendType string `json:"backend_type"` // File or Uffd
	BackendPath string `json:"backend_path"`
}

// SnapshotLoad says where a snapshot comes from.
type SnapshotLoad struct {
	SnapshotPath  string         `json:"snapshot_path"`
	MemBackend    MemoryBackend  `json:"mem_backend"`
	ResumeVM      bool           `json:"resume_vm,omitempty"`
	VsockOverride *VsockOverride `json:"vsock_override,omitempty"`
	// NetworkOverrides give the machine's network devices other tap devices.
	NetworkOverrides []NetworkOverride `json:"network_overrides,omitempty"`
}

// NetworkOverride gives a restored machine's network device another tap device.
type NetworkOverride struct {
	InterfaceID string `json:"iface_id"`
	HostDevName string `json:"host_dev_name"`
}

// VsockOverride gives a restored machine's socket device another path.
type VsockOverride struct {
	UDSPath string `json:"uds_path"`
}

// Error is what Firecracker refused.
type Error struct {
	Request string // method and path
	Status  int    // of HTTP
	Message string
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("firecracker refused %s: %s (status %d)", e.Request, e.Message, e.Status)
}

// Client makes requests of one Firecracker. It is safe for use by many goroutines.
type Client struct {
	http *http.Client
}

// New makes a client of the Firecracker that listens on a Unix socket. Close releases its connections.
func New(socket string) *Client {
	dialer := &net.Dialer{}
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Close closes connections that no request uses.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// SetBootSource says what boots; before Start.
func (c *Client) SetBootSource(ctx context.Context, source BootSource) error {
	return c.send(ctx, http.MethodPut, "/boot-source", source)
}

// SetMachine sets the machine's size; before Start.
func (c *Client) SetMachine(ctx context.Context, machine MachineConfiguration) error {
	return c.send(ctx, http.MethodPut, "/machine-config", machine)
}

// AddDrive adds a disk; before Start.
func (c *Client) AddDrive(ctx context.Context, drive Drive) error {
	return c.send(ctx, http.MethodPut, "/drives/"+url.PathEscape(drive.DriveID), drive)
}

// ChangeDrive gives a disk of a started machine another content or rate. The guest is told.
func (c *Client) ChangeDrive(ctx context.Context, drive PartialDrive) error {
	return c.send(ctx, http.MethodPatch, "/drives/"+url.PathEscape(drive.DriveID), drive)
}

// SetVsock adds the socket device; before Start.
func (c *Client) SetVsock(ctx context.Context, vsock Vsock) error {
	return c.send(ctx, http.MethodPut, "/vsock", vsock)
}

// AddInterface adds a network device; before Start.
func (c *Client) AddInterface(ctx context.Context, network NetworkInterface) error {
	return c.send(ctx, http.MethodPut, "/network-interfaces/"+url.PathEscape(network.InterfaceID), network)
}

// ChangeInterface changes the rates of a network device of a started machine.
func (c *Client) ChangeInterface(ctx context.Context, network PartialNetworkInterface) error {
	return c.send(ctx, http.MethodPatch, "/network-interfaces/"+url.PathEscape(network.InterfaceID), network)
}

// AddEntropy adds a source of random numbers, which a nil limiter does not bound; before Start.
func (c *Client) AddEntropy(ctx context.Context, limiter *RateLimiter) error {
	return c.send(ctx, http.MethodPut, "/entropy", struct {
		RateLimiter *RateLimiter `json:"rate_limiter,omitempty"`
	}{limiter})
}

// SetLogger begins the log; once, at any time.
func (c *Client) SetLogger(ctx context.Context, logger Logger) error {
	return c.send(ctx, http.MethodPut, "/logger", logger)
}

// SetMetrics has meters written to a file or named pipe, as lines of JSON; once.
func (c *Client) SetMetrics(ctx context.Context, path string) error {
	return c.send(ctx, http.MethodPut, "/metrics", map[string]string{"metrics_path": path})
}

// FlushMetrics has the meters written now.
func (c *Client) FlushMetrics(ctx context.Context) error {
	return c.send(ctx, http.MethodPut, "/actions", map[string]string{"action_type": "FlushMetrics"})
}

// Start boots the machine.
func (c *Client) Start(ctx context.Context) error {
	return c.send(ctx, http.MethodPut, "/actions", map[string]string{"action_type": "InstanceStart"})
}

// Pause stops the machine's processors, Resume lets them go on.
func (c *Client) Pause(ctx context.Context) error { return c.setState(ctx, "Paused") }

// Resume lets a paused or restored machine go on.
func (c *Client) Resume(ctx context.Context) error { return c.setState(ctx, "Resumed") }

func (c *Client) setState(ctx context.Context, state string) error {
	return c.send(ctx, http.MethodPatch, "/vm", map[string]string{"state": state})
}

// CreateSnapshot saves a paused machine.
func (c *Client) CreateSnapshot(ctx context.Context, snapshot SnapshotCreate) error {
	return c.send(ctx, http.MethodPut, "/snapshot/create", snapshot)
}

// LoadSnapshot restores a machine in a Firecracker that has none yet.
func (c *Client) LoadSnapshot(ctx context.Context, snapshot SnapshotLoad) error {
	return c.send(ctx, http.MethodPut, "/snapshot/load", snapshot)
}

// State returns "Not started", "Running" or "Paused".
func (c *Client) State(ctx context.Context) (string, error) {
	var info struct {
		State string `json:"state"`
	}
	err := c.do(ctx, http.MethodGet, "/", nil, &info)
	return info.State, err
}

func (c *Client) send(ctx context.Context, method, path string, body any) error {
	return c.do(ctx, method, path, body, nil)
}

func (c *Client) do(ctx context.Context, method, path string, body, result any) error {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, content)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("firecracker, %s %s: %w", method, path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("firecracker, %s %s: %w", method, path, err)
	}
	if response.StatusCode/100 != 2 {
		refusal := &Error{Request: method + " " + path, Status: response.StatusCode}
		var fault struct {
			Message string `json:"fault_message"`
		}
		if refusal.Message = "it gave no reason"; json.Unmarshal(text, &fault) == nil && fault.Message != "" {
			refusal.Message = fault.Message
		}
		return refusal
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(text, result); err != nil {
		return fmt.Errorf("firecracker, %s %s: %w", method, path, err)
	}
	return nil
}

// DialVsock connects to a port of the guest through the Unix socket of its socket device.
func DialVsock(ctx context.Context, socket string, port uint32) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("connect to port %d of a guest: %w", port, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err = askVsock(conn, port)
	if !stop() {
		err = errors.Join(err, ctx.Err())
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to port %d of a guest: %w", port, err)
	}
	return conn, nil
}

// askVsock asks for a port, and reads the answer without reading beyond it.
func askVsock(conn net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	line, err := readAnswer(conn)
	if err != nil {
		return err
	}
	return checkAnswer(line)
}

// readAnswer reads byte by byte: what follows the line is the guest's.
func readAnswer(r io.Reader) (string, error) {
	one := bufio.NewReaderSize(io.LimitReader(oneByte{r}, 32), 16)
	return one.ReadString('\n')
}

// oneByte never reads more than a byte at once.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

// checkAnswer accepts "OK PORT\n".
func checkAnswer(line string) error {
	number, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "OK ")
	if _, err := strconv.ParseUint(number, 10, 32); !ok || err != nil {
		return fmt.Errorf("the answer is %q", line)
	}
	return nil
}
