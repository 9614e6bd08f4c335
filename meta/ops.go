package meta

import "fmt"

// CheckOps returns an error when a commit's ops are not ones that every store can apply at once: an empty key, or two ops
// on one key, whose order would matter.
func CheckOps(ops []Op) error {
	seen := make(map[string]struct{}, len(ops))
	for _, op := range ops {
		if op.Key == "" {
			return fmt.Errorf("meta: an op without a key")
		}
		if _, twice := seen[op.Key]; twice {
			return fmt.Errorf("meta: two ops on the key %q in one commit", op.Key)
		}
		seen[op.Key] = struct{}{}
	}
	return nil
}
