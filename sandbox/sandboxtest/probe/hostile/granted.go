package hostile

// Granted returns why a driver of a kind ("native", "gvisor", "microvm") may let an attempt succeed: because it then gets
// nothing of the host's. An attempt that is not in the list has to be held.
func Granted(kind, name string) (reason string, ok bool) {
	reason, ok = grants()[kind][name]
	return reason, ok
}

// grants are the reasons by driver and attempt.
func grants() map[string]map[string]string {
	const init = "process 1 is the sandbox's own init, started with nothing but the Runtime API's address and names in its root"
	const users = "user namespaces are the Sentry's own and give no rights over the host"
	return map[string]map[string]string{
		"gvisor": {
			"oom-score":             "the score is the Sentry's own, which the host does not see",
			"unshare-user":          users,
			"clone-user":            users,
			"clone3-user":           users,
			"unshare-others":        "the Sentry has no time namespaces and ignores the wish",
			"drop-filter":           "it has none: what reaches the host are the Sentry's calls, which are filtered",
			"keyctl-keyrings":       "key rings are the Sentry's own",
			"nice":                  "priorities are numbers that the Sentry only remembers",
			"memory-policy":         "policies are numbers that the Sentry only remembers",
			"netlink-uevent":        "the Sentry has no events of devices",
			"forced-options":        "the network stack and its memory are the sandbox's own",
			"see-processes":         init,
			"environment-of-others": init,
			"raise-capabilities":    "the Sentry takes the wish for CAP_NET_RAW and grants nothing: the sets stay empty",
			"memory-page-cache":     "the Sentry says of every page that it is in memory; those that are count against the limit",
			"huge-pages":            "the Sentry takes the wish for huge pages, and gives ordinary ones",
		},
	}
}
