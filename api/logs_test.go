package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"lambent"
)

func (b *bench) logsCall(operation, body string) reply {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), "POST", "http://"+b.addr+"/", strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("X-Amz-Target", "Logs_20140328."+operation)
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	b.sign(req, []byte(body), "logs")
	return b.do(req)
}

func TestLogs(t *testing.T) {
	b := newBench(t)
	began := time.UnixMilli(1_700_000_000_000)
	for i := range 5 {
		b.logs.events = append(b.logs.events, lambent.LogEvent{ID: fmt.Sprintf("%03d", i), Account: account, Group: "/aws/lambda/f", Stream: fmt.Sprint("s", i%2),
			Time: began.Add(time.Duration(i) * time.Second), Message: fmt.Sprintf("line <%d>", i)})
	}
	var got struct {
		Events                      []struct{ Message, LogStreamName string }
		NextToken, NextForwardToken string
		LogGroups, LogStreams       []map[string]any
	}
	ask := func(operation, body string) {
		t.Helper()
		answer := b.logsCall(operation, body)
		got.Events, got.NextToken, got.NextForwardToken = nil, "", ""
		if err := json.Unmarshal([]byte(answer.body), &got); err != nil || answer.status != 200 {
			t.Fatalf("%+v, %v", answer, err)
		}
	}
	ask("FilterLogEvents", `{"logGroupName":"/aws/lambda/f","limit":3}`)
	if len(got.Events) != 3 || got.Events[1].Message != "line <1>" || got.Events[1].LogStreamName != "s1" || got.NextToken == "" {
		t.Errorf("first page: %+v", got)
	}
	ask("FilterLogEvents", `{"logGroupName":"/aws/lambda/f","limit":3,"nextToken":"`+got.NextToken+`"}`)
	if len(got.Events) != 2 || got.NextToken != "" {
		t.Errorf("second page: %+v", got)
	}
	ask("FilterLogEvents", `{"logGroupName":"/aws/lambda/f","filterPattern":"\"<3>\""}`)
	if len(got.Events) != 1 || got.Events[0].Message != "line <3>" {
		t.Errorf("filtered: %+v", got)
	}
	ask("GetLogEvents", `{"logGroupName":"/aws/lambda/f","logStreamName":"s0","startFromHead":true}`)
	if len(got.Events) != 3 {
		t.Errorf("stream: %+v", got)
	}
	ask("GetLogEvents", `{"logGroupName":"/aws/lambda/f","logStreamName":"s0","nextToken":"`+got.NextForwardToken+`"}`)
	if len(got.Events) != 0 {
		t.Errorf("end of the stream: %+v", got)
	}
	ask("DescribeLogGroups", `{"logGroupNamePrefix":"/aws/"}`)
	if len(got.LogGroups) != 1 || got.LogGroups[0]["logGroupName"] != "/aws/lambda/f" {
		t.Errorf("groups: %+v", got.LogGroups)
	}
	ask("DescribeLogStreams", `{"logGroupName":"/aws/lambda/f"}`)
	if len(got.LogStreams) != 2 {
		t.Errorf("streams: %+v", got.LogStreams)
	}
	if b.logs.query.Account != account {
		t.Errorf("of account %q", b.logs.query.Account)
	}
	for operation, want := range map[string]int{"PutLogEvents": 501, "": 501} {
		if answer := b.logsCall(operation, `{}`); answer.status != want {
			t.Errorf("%s: %+v", operation, answer)
		}
	}
	if answer := b.logsCall("FilterLogEvents", `{"limit":"x"}`); answer.status != 400 {
		t.Errorf("odd limit: %+v", answer)
	}
}

func TestCallerIdentity(t *testing.T) {
	b := newBench(t)
	ask := func(form string) reply {
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+b.addr+"/", strings.NewReader(form))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		b.sign(req, []byte(form), "sts")
		return b.do(req)
	}
	if got := ask("Action=GetCallerIdentity&Version=2011-06-15"); got.status != 200 || !strings.Contains(got.body, "<Account>"+account+"</Account>") {
		t.Errorf("got %+v", got)
	}
	if got := ask("Action=AssumeRole"); got.status != 404 {
		t.Errorf("got %+v", got)
	}
}
