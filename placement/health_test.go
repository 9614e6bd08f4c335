package placement

import (
	"testing"
	"time"

	"lambent"
)

func TestHealth(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	const suspect, dead = time.Second, 3 * time.Second
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	later := now.Add(time.Hour)
	tests := map[string]struct {
		vitals vitals
		want   lambent.WorkerHealth
	}{
		"just heard":               {vitals{seen: now, leaseEnd: later}, lambent.WorkerHealthy},
		"not yet late":             {vitals{seen: ago(suspect - 1), leaseEnd: later}, lambent.WorkerHealthy},
		"late":                     {vitals{seen: ago(suspect), leaseEnd: later}, lambent.WorkerSuspect},
		"late and cordoned":        {vitals{seen: ago(suspect), leaseEnd: later, cordoned: true, draining: true}, lambent.WorkerSuspect},
		"too late":                 {vitals{seen: ago(dead), leaseEnd: later}, lambent.WorkerDead},
		"lease ended":              {vitals{seen: now, leaseEnd: now}, lambent.WorkerDead},
		"draining":                 {vitals{seen: now, leaseEnd: later, draining: true, cordoned: true}, lambent.WorkerDraining},
		"cordoned":                 {vitals{seen: now, leaseEnd: later, cordoned: true}, lambent.WorkerCordoned},
		"bad":                      {vitals{seen: now, leaseEnd: later, bad: true}, lambent.WorkerCordoned},
		"its clock is ahead of us": {vitals{seen: now.Add(time.Second), leaseEnd: later}, lambent.WorkerHealthy},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := health(test.vitals, now, suspect, dead); got != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
		})
	}
}

func TestIsBad(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	at := func(seconds, count int) failure { return failure{now.Add(time.Duration(seconds) * time.Second), count} }
	tests := map[string]struct {
		failures []failure
		want     bool
	}{
		"none":                     {nil, false},
		"few":                      {[]failure{at(-10, 2), at(-5, 2)}, false},
		"many":                     {[]failure{at(-10, 2), at(-5, 3)}, true},
		"many in one heartbeat":    {[]failure{at(0, 9)}, true},
		"many, far apart":          {[]failure{at(-250, 1), at(-189, 1), at(-128, 1), at(-67, 1), at(-6, 1)}, false},
		"many, a while ago":        {[]failure{at(-250, 9)}, true},
		"many, long ago":           {[]failure{at(-301, 9)}, false},
		"many, then a single late": {[]failure{at(-320, 4), at(-290, 1)}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := isBad(test.failures, now); got != test.want {
				t.Errorf("bad: %v, want %v", got, test.want)
			}
			if got := isBad(recentFailures(test.failures, now), now); got != test.want {
				t.Errorf("bad without what is forgotten: %v, want %v", got, test.want)
			}
		})
	}
}

func TestHeadroom(t *testing.T) {
	town := newTown()
	town.worker("a", "x", 10*gib, 1).add("f", small(2*gib), 1)
	if got := headroom(&town.region); got != (Headroom{CapacityMiB: 10 * gib, ExpectedMiB: 2 * gib}) {
		t.Errorf("one zone: %+v", got)
	}
	town.worker("b", "y", 4*gib, 1).resident = gib
	town.worker("c", "z", 4*gib, 1)
	if got := headroom(&town.region); got != (Headroom{CapacityMiB: 18 * gib, ExpectedMiB: 3 * gib, ZoneLossMiB: 5 * gib}) {
		t.Errorf("three zones: %+v", got)
	}
	town.hosts["a"].add("g", small(6*gib), 1)
	if got := headroom(&town.region).ZoneLossMiB; got != -gib {
		t.Errorf("without the largest zone %v MiB are left", got)
	}
}
