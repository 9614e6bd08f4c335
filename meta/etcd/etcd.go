// Package etcd is the metadata store over an embedded etcd of one member. It opens no port and no socket: the member has no
// peers, and its only client is in this process.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/features"
	"go.uber.org/zap"

	"lambent/meta"
)

// ErrLocked: another process, or another Store of this one, has the directory open.
var ErrLocked = errors.New("the directory is locked")

// Options of a Store.
type Options struct {
	// Dir is the data directory; it is created with mode 0700 where it does not exist.
	Dir string
	// QuotaBytes bounds the size of the database; 0: 2 GiB. Beyond it only deletes are accepted.
	QuotaBytes int64
	// WatchBacklog is how many commits a watch may fall behind before it ends; 0: 10,000.
	WatchBacklog int
	Logger       *slog.Logger // warnings and errors of etcd; nil: logs nothing
}

// One member elects itself: the shorter its election, the sooner it serves. The tick is also its idle wake-up, so it is not
// shorter than it must be.
const (
	tick          = 50 * time.Millisecond
	electionTicks = 2
	memberName    = "lambent"
	// compactAfter is how long the history for watches is kept.
	compactAfter = 10 * time.Minute
	// snapshotEvery bounds the log that a start reads through, in commits.
	snapshotEvery = 1000
	maxOps        = 1024
)

// Open starts the store and returns when it can serve. A directory that is in use gives ErrLocked at once. A write that
// was acknowledged is on disk.
func Open(ctx context.Context, options Options) (*Store, error) {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.WatchBacklog == 0 {
		options.WatchBacklog = 10_000
	}
	if err := os.MkdirAll(options.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("meta/etcd: make the data directory: %w", err)
	}
	lock, err := lockDir(options.Dir)
	if err != nil {
		return nil, err
	}
	server, err := startServer(ctx, options)
	if err != nil {
		lock.Close()
		return nil, err
	}
	s := &Store{server: server, client: v3client.New(server), lock: lock, backlog: options.WatchBacklog}
	s.watching, s.stopWatches = context.WithCancel(context.Background())
	return s, nil
}

func startServer(ctx context.Context, options Options) (*etcdserver.EtcdServer, error) {
	cfg, err := serverConfig(options, zapLogger(options.Logger))
	if err != nil {
		return nil, fmt.Errorf("meta/etcd: %w", err)
	}
	server, err := etcdserver.NewServer(cfg)
	if err != nil {
		return nil, fmt.Errorf("meta/etcd: open %s: %w", options.Dir, err)
	}
	server.Start()
	select {
	case <-server.ReadyNotify():
		return server, nil
	case <-server.StopNotify():
		return nil, fmt.Errorf("meta/etcd: the member in %s stopped while it started", options.Dir)
	case <-ctx.Done():
		server.HardStop()
		return nil, fmt.Errorf("meta/etcd: start in %s: %w", options.Dir, ctx.Err())
	}
}

// serverConfig is that of embed's defaults, without its listeners.
func serverConfig(options Options, log *zap.Logger) (config.ServerConfig, error) {
	// The member needs an address to be known by; nothing listens there, and nobody calls it.
	urls, err := types.NewURLs([]string{"unix://" + memberName + ":0"})
	if err != nil {
		return config.ServerConfig{}, err
	}
	defaults := embed.NewConfig()
	return config.ServerConfig{
		Name:                        memberName,
		DataDir:                     filepath.Join(options.Dir, "etcd"),
		ClientURLs:                  urls,
		PeerURLs:                    urls,
		InitialPeerURLsMap:          types.URLsMap{memberName: urls},
		InitialClusterToken:         memberName,
		NewCluster:                  true,
		TickMs:                      uint(tick / time.Millisecond),
		ElectionTicks:               electionTicks,
		SnapshotCount:               snapshotEvery,
		SnapshotCatchUpEntries:      snapshotEvery, // there is no follower to catch up
		MaxSnapFiles:                defaults.MaxSnapFiles,
		MaxWALFiles:                 defaults.MaxWalFiles,
		BackendFreelistType:         bolt.FreelistMapType,
		AutoCompactionMode:          embed.CompactorModePeriodic,
		AutoCompactionRetention:     compactAfter,
		QuotaBackendBytes:           options.QuotaBytes,
		MaxTxnOps:                   maxOps,
		MaxRequestBytes:             defaults.MaxRequestBytes,
		MaxConcurrentStreams:        defaults.MaxConcurrentStreams,
		WarningApplyDuration:        time.Second,
		WarningUnaryRequestDuration: time.Second,
		AuthToken:                   "", // no client can come from outside
		BcryptCost:                  defaults.BcryptCost,
		PreVote:                     false, // there is nobody to ask
		StrictReconfigCheck:         defaults.StrictReconfigCheck,
		CompactHashCheckTime:        defaults.CompactHashCheckTime,
		DowngradeCheckTime:          defaults.DowngradeCheckTime,
		MaxLearners:                 defaults.MaxLearners,
		V2Deprecation:               defaults.V2DeprecationEffective(),
		ServerFeatureGate:           features.NewDefaultServerFeatureGate(memberName, log),
		Metrics:                     defaults.Metrics,
		Logger:                      log,
	}, nil
}

// Store is a meta.Store over one embedded etcd member.
type Store struct {
	server      *etcdserver.EtcdServer
	client      *clientv3.Client
	lock        *os.File
	backlog     int
	watching    context.Context
	stopWatches context.CancelFunc
	watches     watchGroup
}

var _ meta.Store = (*Store)(nil)

// Get implements meta.Store.
func (s *Store) Get(ctx context.Context, key string) (meta.Item, bool, error) {
	if key == "" {
		return meta.Item{}, false, nil
	}
	response, err := s.client.Get(ctx, key)
	if err != nil {
		return meta.Item{}, false, fmt.Errorf("meta/etcd: read %q: %w", key, err)
	}
	if len(response.Kvs) == 0 {
		return meta.Item{}, false, nil
	}
	kv := response.Kvs[0]
	return meta.Item{Key: key, Value: kv.Value, Revision: kv.ModRevision}, true, nil
}

// List implements meta.Store.
func (s *Store) List(ctx context.Context, prefix, from string, limit int) ([]meta.Item, int64, error) {
	start, end := max(prefix, from), clientv3.GetPrefixRangeEnd(prefix)
	if start == "" {
		start = "\x00"
	}
	if prefix == "" {
		end = "\x00"
	}
	if end != "\x00" && start >= end {
		revision, err := s.Revision(ctx)
		return nil, revision, err
	}
	response, err := s.client.Get(ctx, start, clientv3.WithRange(end), clientv3.WithLimit(int64(limit)),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
	if err != nil {
		return nil, 0, fmt.Errorf("meta/etcd: list %q: %w", prefix, err)
	}
	items := make([]meta.Item, len(response.Kvs))
	for i, kv := range response.Kvs {
		items[i] = meta.Item{Key: string(kv.Key), Value: kv.Value, Revision: kv.ModRevision}
	}
	return items, response.Header.Revision, nil
}

// Commit implements meta.Store. An error other than ErrConflict leaves open whether the commit happened.
func (s *Store) Commit(ctx context.Context, conditions []meta.Condition, ops []meta.Op) (int64, error) {
	if err := meta.CheckOps(ops); err != nil {
		return 0, err
	}
	compares := make([]clientv3.Cmp, len(conditions))
	for i, condition := range conditions {
		compares[i] = clientv3.Compare(clientv3.ModRevision(condition.Key), "=", condition.Revision)
	}
	changes := make([]clientv3.Op, len(ops))
	for i, op := range ops {
		changes[i] = clientv3.OpPut(op.Key, string(op.Value))
		if op.Delete {
			changes[i] = clientv3.OpDelete(op.Key)
		}
	}
	response, err := s.client.Txn(ctx).If(compares...).Then(changes...).Commit()
	if err != nil {
		return 0, fmt.Errorf("meta/etcd: commit: %w", err)
	}
	if !response.Succeeded {
		return 0, meta.ErrConflict
	}
	return response.Header.Revision, nil
}

// Revision implements meta.Store.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	// Any linearizable read carries the revision; the key need not exist.
	response, err := s.client.Get(ctx, "revision", clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("meta/etcd: read the revision: %w", err)
	}
	return response.Header.Revision, nil
}

// Close implements meta.Store. It ends all watches; requests under way fail.
func (s *Store) Close() error {
	if !s.watches.close() {
		return nil
	}
	s.stopWatches()
	s.watches.wait()
	err := s.client.Close()
	s.server.Stop()
	if closing := s.lock.Close(); err == nil || errors.Is(err, context.Canceled) {
		err = closing
	}
	if err != nil {
		return fmt.Errorf("meta/etcd: close: %w", err)
	}
	return nil
}
