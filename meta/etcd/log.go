package etcd

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// harmless are the messages of a member that has not written its first snapshot yet, or that is being closed. etcd tries
// again by itself.
func harmless() []string {
	return []string{"Failed to detect schema version", "failed to update storage version", "failed to update cluster version"}
}

// zapLogger passes etcd's warnings and errors to a slog.Logger. Its debug and info lines are of use to etcd's developers
// only.
func zapLogger(log *slog.Logger) *zap.Logger {
	return zap.New(&bridge{log: log}, zap.WithPanicHook(panics{}))
}

// panics ends the process on what etcd holds for impossible, as zap does by itself, but for one message. A member that elects
// itself soon after its start may do so while it applies its log again, and has then cut from memory entries that Raft has
// not noted as applied. Raft looks through them for a change of the members, which one member alone does not have, and goes
// on.
type panics struct{}

// OnWrite implements zapcore.CheckWriteHook.
func (panics) OnWrite(entry *zapcore.CheckedEntry, _ []zapcore.Field) {
	if strings.HasPrefix(entry.Message, "error scanning unapplied entries") {
		return
	}
	panic(entry.Message)
}

type bridge struct {
	log *slog.Logger
}

func (b *bridge) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

func (b *bridge) With(fields []zapcore.Field) zapcore.Core {
	return &bridge{log: b.log.With(attributes(fields)...)}
}

func (b *bridge) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(entry.Level) && !slices.Contains(harmless(), entry.Message) {
		return checked.AddCore(entry, b)
	}
	return checked
}

func (b *bridge) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if entry.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	arguments := append([]any{"message", entry.Message}, attributes(fields)...)
	b.log.Log(context.Background(), level, "etcd", arguments...)
	return nil
}

func (b *bridge) Sync() error { return nil }

func attributes(fields []zapcore.Field) []any {
	encoder := zapcore.NewMapObjectEncoder()
	for _, field := range fields {
		field.AddTo(encoder)
	}
	attributes := make([]any, 0, len(encoder.Fields))
	for key, value := range encoder.Fields {
		attributes = append(attributes, slog.Any(key, value))
	}
	return attributes
}
