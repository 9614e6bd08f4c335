package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lambent/doctor"
)

// DoctorCmd finds out what this host offers for sandboxes.
type DoctorCmd struct {
	DataFlag
	Runsc   string        `help:"gVisor's runsc (default: beside lambent, or in the PATH)." type:"existingfile"`
	Kernel  string        `help:"Image of the kernel that guests boot (default: the newest in /boot, those for clouds first)." type:"existingfile"`
	Timeout time.Duration `help:"Time for each probe." default:"60s"`
	JSON    bool          `help:"Print JSON." name:"json"`
}

// Run probes and prints. It fails when native sandboxes can be used neither by root nor without.
func (c *DoctorCmd) Run(ctx context.Context, proc *Process) error {
	data, err := c.Dir(proc.Getenv)
	if err != nil {
		return err
	}
	report, err := doctor.Run(ctx, doctor.Options{Data: data, Runsc: c.Runsc, Kernel: c.Kernel, Timeout: c.Timeout})
	if err != nil {
		return err
	}
	return c.print(report, proc)
}

func (c *DoctorCmd) print(report *doctor.Report, proc *Process) error {
	printed := report.Table
	if c.JSON {
		printed = report.JSON
	}
	if err := printed(proc.Out); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	if !report.Offers(doctor.Native) && !report.Offers(doctor.Rootless) {
		return errors.New("this host cannot run native sandboxes as it is; the checks say what to do")
	}
	return nil
}
