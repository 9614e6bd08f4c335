package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"text/tabwriter"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
)

// ListCmd lists the functions of the region.
type ListCmd struct{ ClientFlags }

// Run prints one line per function.
func (c *ListCmd) Run(ctx context.Context, proc *Process) error {
	client, err := c.Open(proc.Getenv)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(proc.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tRUNTIME\tHANDLER\tMEMORY\tTIMEOUT\tCODE\tMODIFIED")
	pages := lambda.NewListFunctionsPaginator(client.Lambda, &lambda.ListFunctionsInput{})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return client.explain(err)
		}
		for _, fn := range page.Functions {
			fmt.Fprintf(table, "%s\t%s\t%s\t%d MB\t%d s\t%s\t%s\n", aws.ToString(fn.FunctionName), fn.Runtime, aws.ToString(fn.Handler),
				aws.ToInt32(fn.MemorySize), aws.ToInt32(fn.Timeout), byteSize(fn.CodeSize), aws.ToString(fn.LastModified))
		}
	}
	return table.Flush()
}

// byteSize writes a number of bytes for people.
func byteSize(n int64) string {
	const kib, mib = 1 << 10, 1 << 20
	switch {
	case n < kib:
		return fmt.Sprintf("%d B", n)
	case n < mib:
		return fmt.Sprintf("%.1f KiB", float64(n)/kib)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/mib)
}

// DeleteCmd deletes a function.
type DeleteCmd struct {
	ClientFlags
	Name      string `arg:"" help:"Name or ARN of the function."`
	Qualifier string `help:"Delete only this version." placeholder:"N"`
}

// Run deletes the function with all its versions and aliases, or one version.
func (c *DeleteCmd) Run(ctx context.Context, proc *Process) error {
	client, err := c.Open(proc.Getenv)
	if err != nil {
		return err
	}
	_, err = client.Lambda.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: &c.Name, Qualifier: optional(c.Qualifier)})
	if err != nil {
		return client.explain(err)
	}
	_, err = fmt.Fprintln(proc.Err, c.Name, "is deleted")
	return err
}

// optional returns nil for the empty string.
func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// version is set by the linker (-X main.version=...); the build of a plain "go build" is called "dev".
var version = "dev"

// VersionCmd prints the version.
type VersionCmd struct{}

// Run prints the version of Lambent, of Go, and the platform.
func (c *VersionCmd) Run(proc *Process) error {
	commit := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				commit = " " + setting.Value
			}
		}
	}
	_, err := fmt.Fprintf(proc.Out, "lambent %s%s %s %s/%s\n", version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
