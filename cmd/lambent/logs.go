package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
)

// followEvery is how often "logs -f" asks for new events.
const followEvery = 500 * time.Millisecond

// LogsCmd prints a function's log.
type LogsCmd struct {
	ClientFlags
	Name   string        `arg:"" help:"Name or ARN of the function."`
	Follow bool          `short:"f" help:"Go on with new lines, until interrupted."`
	Since  time.Duration `default:"1h" help:"How far to look back, such as 90s, 10m or 24h."`
}

// Run prints the lines of the function's log group, oldest first.
func (c *LogsCmd) Run(ctx context.Context, proc *Process) error {
	client, err := c.Open(proc.Getenv)
	if err != nil {
		return err
	}
	fn, err := client.Lambda.GetFunctionConfiguration(ctx, &lambda.GetFunctionConfigurationInput{FunctionName: &c.Name})
	if err != nil {
		return client.explain(err)
	}
	group := "/aws/lambda/" + aws.ToString(fn.FunctionName)
	if fn.LoggingConfig != nil && aws.ToString(fn.LoggingConfig.LogGroup) != "" {
		group = *fn.LoggingConfig.LogGroup
	}
	reader := &logReader{client: client, group: group, from: time.Now().Add(-c.Since).UnixMilli(), seen: map[string]int64{}}
	if err := reader.copyTo(ctx, proc.Out); err != nil || !c.Follow {
		return client.explain(err)
	}
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil // interrupting is how a person ends it
		case <-ticker.C:
			if err := reader.copyTo(ctx, proc.Out); err != nil && ctx.Err() == nil {
				return client.explain(err)
			}
		}
	}
}

// lateBy is how long after its time an event may still turn up: hosts ship their lines behind the invokes, each at its own
// pace.
const lateBy = 10 * time.Second

// logReader reads a log group from a time on, each event once, late ones included.
type logReader struct {
	client *Client
	group  string
	from   int64            // ms since 1970: where the next reading begins
	seen   map[string]int64 // times of the events since from that were written, by ID
}

type filterLogEventsInput struct {
	LogGroupName string `json:"logGroupName"`
	StartTime    int64  `json:"startTime"`
	NextToken    string `json:"nextToken,omitempty"`
}

type filterLogEventsOutput struct {
	Events    []logEvent `json:"events"`
	NextToken string     `json:"nextToken"`
}

type logEvent struct {
	EventID   string `json:"eventId"`
	Timestamp int64  `json:"timestamp"`
	Message   string `json:"message"`
}

// copyTo writes all events that are there and were not written before.
func (r *logReader) copyTo(ctx context.Context, w io.Writer) error {
	in := filterLogEventsInput{LogGroupName: r.group, StartTime: r.from}
	for {
		var out filterLogEventsOutput
		err := r.client.CallJSON(ctx, "logs", "Logs_20140328.FilterLogEvents", in, &out)
		if notFound(err) {
			return nil // the group comes to be with the function's first line
		}
		if err != nil {
			return err
		}
		for _, event := range r.fresh(out.Events) {
			if _, err := fmt.Fprintln(w, strings.TrimRight(event.Message, "\n")); err != nil {
				return err
			}
		}
		if out.NextToken == "" {
			r.advance()
			return nil
		}
		in.NextToken = out.NextToken
	}
}

// fresh returns the events that were not written before, and takes note of them.
func (r *logReader) fresh(events []logEvent) []logEvent {
	var fresh []logEvent
	for _, event := range events {
		if _, ok := r.seen[event.EventID]; !ok {
			r.seen[event.EventID] = event.Timestamp
			fresh = append(fresh, event)
		}
	}
	return fresh
}

// advance moves the beginning of the next reading to lateBy before the newest event.
func (r *logReader) advance() {
	for _, at := range r.seen {
		r.from = max(r.from, at-lateBy.Milliseconds())
	}
	maps.DeleteFunc(r.seen, func(_ string, at int64) bool { return at < r.from })
}
