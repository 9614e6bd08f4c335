package main

import (
	"bytes"
	"errors"
	"testing"

	"lambent/doctor"
)

// TestDoctorUsage checks that the command is there, and refuses what is not.
func TestDoctorUsage(t *testing.T) {
	var out, errs bytes.Buffer
	proc := &Process{Out: &out, Err: &errs, Getenv: func(string) string { return "" }}
	if status := run(t.Context(), []string{"doctor", "--kernel", "/nowhere/vmlinuz"}, proc); status != exitUsage {
		t.Errorf("the status is %d: %s", status, errs.String())
	}
}

// TestDoctorStatus checks what decides the exit status.
func TestDoctorStatus(t *testing.T) {
	for _, usable := range []bool{true, false} {
		var out bytes.Buffer
		report := &doctor.Report{Usable: []doctor.Usable{{Use: doctor.Native, Usable: usable}}}
		err := (&DoctorCmd{}).print(report, &Process{Out: &out})
		if (err == nil) != usable || errors.Is(err, errReported) || out.Len() == 0 {
			t.Errorf("native usable %t: %v", usable, err)
		}
	}
}
