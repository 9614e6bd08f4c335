package api

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"lambent"
	"lambent/api/internal/wire"
)

// A part of CloudWatch Logs' API, as much as reading a function's log takes
// (https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference).

const logsPrefix = "Logs_20140328."

type logsInput struct {
	LogGroupName        string   `json:"logGroupName"`
	LogGroupIdentifier  string   `json:"logGroupIdentifier"`
	LogGroupNamePrefix  string   `json:"logGroupNamePrefix"`
	LogStreamName       string   `json:"logStreamName"`
	LogStreamNames      []string `json:"logStreamNames"`
	LogStreamNamePrefix string   `json:"logStreamNamePrefix"`
	StartTime           *int64   `json:"startTime"`
	EndTime             *int64   `json:"endTime"`
	NextToken           string   `json:"nextToken"`
	FilterPattern       string   `json:"filterPattern"`
	Limit               int      `json:"limit"`
	StartFromHead       bool     `json:"startFromHead"`
}

func (c *call) logsOperation(target string) error {
	if c.service != "logs" {
		return errUnknownOperation
	}
	var in logsInput
	if err := wire.Decode(c.body, &in); err != nil {
		return inputError(err)
	}
	if in.LogGroupName == "" && in.LogGroupIdentifier != "" {
		in.LogGroupName = in.LogGroupIdentifier[strings.LastIndex(in.LogGroupIdentifier, ":")+1:]
	}
	switch strings.TrimPrefix(target, logsPrefix) {
	case "FilterLogEvents":
		return c.filterLogEvents(&in)
	case "GetLogEvents":
		return c.getLogEvents(&in)
	case "DescribeLogGroups":
		return c.describe(&in, "logGroups", "logGroupName", func(e lambent.LogEvent) string { return e.Group }, in.LogGroupNamePrefix)
	case "DescribeLogStreams":
		return c.describe(&in, "logStreams", "logStreamName", func(e lambent.LogEvent) string { return e.Stream }, in.LogStreamNamePrefix)
	}
	return lambent.Errorf(lambent.NotImplemented, "Lambent does not support %s.", strings.TrimPrefix(target, logsPrefix))
}

// read returns a page of the events that the input selects.
func (c *call) read(in *logsInput) ([]lambent.LogEvent, error) {
	q := lambent.LogQuery{Account: c.who.Account, Group: in.LogGroupName, Stream: in.LogStreamName, After: in.NextToken, Limit: in.Limit}
	if in.StartTime != nil {
		q.Start = time.UnixMilli(*in.StartTime)
	}
	if in.EndTime != nil {
		q.End = time.UnixMilli(*in.EndTime)
	}
	return c.Logs(c.ctx, q)
}

func (c *call) filterLogEvents(in *logsInput) error {
	if strings.ContainsAny(in.FilterPattern, `{}[]?-%`) {
		return lambent.Errorf(lambent.NotImplemented, "Lambent supports filter patterns of plain words only.")
	}
	if in.Limit <= 0 || in.Limit > 10_000 {
		in.Limit = 10_000
	}
	events, err := c.read(in)
	if err != nil {
		return err
	}
	terms := strings.Fields(strings.ReplaceAll(in.FilterPattern, `"`, " "))
	list := []map[string]any{}
	for _, e := range events {
		wanted := len(in.LogStreamNames) == 0 || slices.Contains(in.LogStreamNames, e.Stream)
		wanted = wanted && strings.HasPrefix(e.Stream, in.LogStreamNamePrefix)
		for _, term := range terms {
			wanted = wanted && strings.Contains(e.Message, term)
		}
		if wanted {
			list = append(list, map[string]any{"logStreamName": e.Stream, "timestamp": e.Time.UnixMilli(), "message": e.Message,
				"ingestionTime": e.Time.UnixMilli(), "eventId": e.ID})
		}
	}
	body := map[string]any{"events": list, "searchedLogStreams": []any{}}
	if len(events) == in.Limit {
		body["nextToken"] = events[len(events)-1].ID
	}
	return c.json(body)
}

func (c *call) getLogEvents(in *logsInput) error {
	in.NextToken = strings.TrimPrefix(strings.TrimPrefix(in.NextToken, "f/"), "b/")
	events, err := c.read(in)
	if err != nil {
		return err
	}
	list := []map[string]any{}
	token := in.NextToken
	for _, e := range events {
		list = append(list, map[string]any{"timestamp": e.Time.UnixMilli(), "message": e.Message, "ingestionTime": e.Time.UnixMilli()})
		token = e.ID
	}
	return c.json(map[string]any{"events": list, "nextForwardToken": "f/" + token, "nextBackwardToken": "b/" + in.NextToken})
}

// describe lists the groups or streams that have events.
func (c *call) describe(in *logsInput, list, member string, name func(lambent.LogEvent) string, prefix string) error {
	in.NextToken = ""
	in.Limit = 0
	events, err := c.read(in)
	if err != nil {
		return err
	}
	found := map[string]map[string]any{}
	for _, e := range events {
		n := name(e)
		if !strings.HasPrefix(n, prefix) {
			continue
		}
		if found[n] == nil {
			found[n] = map[string]any{member: n, "creationTime": e.Time.UnixMilli(), "firstEventTimestamp": e.Time.UnixMilli(), "storedBytes": 0}
		}
		found[n]["lastEventTimestamp"] = e.Time.UnixMilli()
	}
	out := []map[string]any{}
	for _, f := range found {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b map[string]any) int { return cmp.Compare(a[member].(string), b[member].(string)) })
	return c.json(map[string]any{list: out})
}
