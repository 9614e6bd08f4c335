package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lambent/runtimes"
)

func writable(path string) bool { return unix.Access(path, unix.W_OK) == nil }

func probeSwap(*doctor, context.Context) finding {
	if lines := strings.Count(readText("/proc/swaps"), "\n"); lines > 0 {
		return weak("%d swap areas are on", lines)
	}
	return ok("off")
}

func probeHugePages(*doctor, context.Context) finding {
	text := readText("/sys/kernel/mm/transparent_hugepage/enabled")
	_, chosen, _ := strings.Cut(text, "[")
	chosen, _, _ = strings.Cut(chosen, "]")
	switch chosen {
	case "always":
		return weak("always")
	case "":
		return ok("the kernel has none")
	}
	return ok("%s", chosen)
}

// fileSystemName names those that data directories are on.
func fileSystemName(magic int64) (name string, fit bool) {
	switch magic {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", true
	case unix.XFS_SUPER_MAGIC:
		return "xfs", true
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", true
	case unix.TMPFS_MAGIC:
		return "tmpfs", false
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs", false
	case unix.NFS_SUPER_MAGIC:
		return "nfs", false
	}
	return fmt.Sprintf("file system %#x", magic), true
}

// slowSync is a latency of fdatasync above which writes to the journal are felt.
const slowSync = 10 * time.Millisecond

func probeDisk(d *doctor, ctx context.Context) finding {
	var stat unix.Statfs_t
	if err := unix.Statfs(d.dir, &stat); err != nil {
		return missing("%v", err)
	}
	took, err := syncLatency(ctx, filepath.Join(d.dir, "sync"))
	if err != nil {
		return missing("%v", err)
	}
	name, fit := fileSystemName(stat.Type)
	free := int64(stat.Bavail) * stat.Bsize >> 30
	seen := fmt.Sprintf("%s at %s: %d GiB free, fdatasync of 4 KiB p50 %v", name, filepath.Dir(d.dir), free, took.Round(time.Microsecond))
	switch {
	case !fit:
		return weak("%s", seen).with("put the data directory on ext4 or xfs of a local disk")
	case free < 10:
		return weak("%s", seen).with("give it 10 GiB or more: code, images and every /tmp are kept there")
	case took > slowSync:
		return weak("%s", seen).with("use a faster disk: every write of metadata and of the queue waits for it")
	}
	return ok("%s", seen)
}

// syncLatency appends to a file and syncs it, several times.
func syncLatency(ctx context.Context, path string) (time.Duration, error) {
	file, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	var all []time.Duration
	for range 50 {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		began := time.Now()
		if _, err := file.Write(make([]byte, 4096)); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(file.Fd())); err != nil {
			return 0, err
		}
		all = append(all, time.Since(began))
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}

func probeDescriptors(*doctor, context.Context) finding {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return missing("%v", err)
	}
	seen := fmt.Sprintf("%d, at most %d; host %s", limit.Cur, limit.Max, readText("/proc/sys/fs/file-max"))
	if limit.Max < 65536 {
		return weak("%s", seen)
	}
	return ok("%s", seen)
}

// probeNumber reads a limit of the kernel's.
func probeNumber(path string, least int64) func(*doctor, context.Context) finding {
	return func(*doctor, context.Context) finding {
		n, err := strconv.ParseInt(readText(path), 10, 64)
		switch {
		case err != nil:
			return weak("%s cannot be read", path)
		case n < least:
			return weak("%d", n)
		}
		return ok("%d", n)
	}
}

func probeClock(*doctor, context.Context) finding {
	source := readText("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	if slices.Contains([]string{"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"}, source) {
		return ok("%s", source)
	}
	return weak("%q", source)
}

func probeMemory(*doctor, context.Context) finding {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return missing("%v", err)
	}
	mib := info.Totalram * uint64(info.Unit) >> 20
	seen := fmt.Sprintf("%d processors, %d MiB", runtime.NumCPU(), mib)
	if mib < 2048 {
		return weak("%s", seen).with("give it 2 GiB or more: the service itself takes about 300 MiB, and a function up to 10 GiB")
	}
	return ok("%s", seen)
}

func probeVsock(*doctor, context.Context) finding {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return weak("%v", err)
	}
	unix.Close(fd)
	vhost, err := unix.Open("/dev/vhost-vsock", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return weak("sockets, and /dev/vhost-vsock: %v", err)
	}
	unix.Close(vhost)
	return ok("sockets, and /dev/vhost-vsock opens")
}

// probeRuntimes looks for interpreters as a region does.
func probeRuntimes(d *doctor, _ context.Context) finding {
	registry, err := runtimes.Open(runtimes.Options{Dir: filepath.Join(d.dir, "runtimes")})
	if err != nil {
		return missing("%v", err)
	}
	var names []string
	for _, available := range registry.Available() {
		names = append(names, available.Name)
	}
	var advice []string
	for _, language := range []struct{ name, install string }{
		{"python", "Python (Debian: apt-get install python3)"}, {"nodejs", "Node.js (Debian: apt-get install nodejs)"},
	} {
		if !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, language.name) }) {
			advice = append(advice, language.install)
		}
	}
	seen := strings.Join(names, ", ")
	if len(advice) > 0 {
		return weak("%s", seen).with("for its runtimes install " + strings.Join(advice, " and ") + "; version managers and several versions are found too")
	}
	return ok("%s", seen)
}
