// Package cgroup is the control groups of sandboxes, version 1, version 2 and hosts that have both: a Tree for each driver, and in
// it a Group for each sandbox, with its limits, meters and freezer. Whatever a driver that was killed has left is found from its
// state directory.
package cgroup
