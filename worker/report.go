package worker

import (
	"encoding/json"
	"math"
	"strconv"
	"time"

	"lambent"
)

// journal writes the platform's own log lines of one function version, as text or as JSON. Methods return nil for a line that
// the version's log level leaves out.
type journal struct {
	json   bool
	level  level  // JSON only
	tenant string // of the environment; empty for none. JSON only
}

type level int

const (
	debug level = iota
	info
	warn
)

func newJournal(logging lambent.Logging, tenant string) journal {
	levels := map[string]level{"DEBUG": debug, "WARN": warn}
	j := journal{json: logging.Format == lambent.LogJSON, level: info, tenant: tenant}
	if l, ok := levels[logging.SystemLevel]; ok {
		j.level = l
	}
	return j
}

// logTime is how times are written in logs.
const logTime = "2006-01-02T15:04:05.000Z"

// report is what the last line of an invoke says.
type report struct {
	requestID string
	duration  time.Duration
	billed    time.Duration
	init      time.Duration // 0: not this invoke's
	memoryMiB int
	maxMiB    int
	status    string // success, error, failure, timeout
	errorType string
}

// milliseconds rounds to what logs show.
func milliseconds(d time.Duration) float64 { return math.Round(d.Seconds()*1e5) / 100 }

func appendMilliseconds(out []byte, d time.Duration) []byte {
	return append(strconv.AppendFloat(out, milliseconds(d), 'f', 2, 64), " ms"...)
}

// start is written before an invoke.
func (j journal) start(out []byte, now time.Time, requestID, version string) []byte {
	if j.json {
		return j.event(now, info, "platform.start", j.of(requestID, map[string]any{"version": version}))
	}
	out = append(append(out, "START RequestId: "...), requestID...)
	return append(append(out, " Version: "...), version...)
}

// end is written after an invoke, text only.
func (j journal) end(out []byte, requestID string) []byte {
	if j.json {
		return nil
	}
	return append(append(out, "END RequestId: "...), requestID...)
}

// report is the last line of an invoke.
func (j journal) report(out []byte, now time.Time, r *report) []byte {
	if j.json {
		return j.reportJSON(now, r)
	}
	out = append(append(out, "REPORT RequestId: "...), r.requestID...)
	out = appendMilliseconds(append(out, "\tDuration: "...), r.duration)
	out = strconv.AppendInt(append(out, "\tBilled Duration: "...), r.billed.Milliseconds(), 10)
	out = strconv.AppendInt(append(out, " ms\tMemory Size: "...), int64(r.memoryMiB), 10)
	out = strconv.AppendInt(append(out, " MB\tMax Memory Used: "...), int64(r.maxMiB), 10)
	out = append(out, " MB\t"...)
	if r.init > 0 {
		out = appendMilliseconds(append(out, "Init Duration: "...), r.init)
		out = append(out, '\t')
	}
	return appendStatus(out, r.status, r.errorType)
}

// appendStatus names a failure of the platform's. What the function reported as its own error is none.
func appendStatus(out []byte, status, errorType string) []byte {
	if status != statusError && status != statusTimeout {
		return out
	}
	out = append(append(out, "Status: "...), status...)
	if errorType != "" {
		out = append(append(out, "\tError Type: "...), errorType...)
	}
	return out
}

func (j journal) reportJSON(now time.Time, r *report) []byte {
	metrics := map[string]any{"durationMs": milliseconds(r.duration), "billedDurationMs": r.billed.Milliseconds(),
		"memorySizeMB": r.memoryMiB, "maxMemoryUsedMB": r.maxMiB}
	if r.init > 0 {
		metrics["initDurationMs"] = milliseconds(r.init)
	}
	record := j.of(r.requestID, map[string]any{"metrics": metrics, "status": r.status})
	if r.errorType != "" && r.status != statusSuccess {
		record["errorType"] = r.errorType
	}
	l := info
	if r.status != statusSuccess {
		l = warn
	}
	return j.event(now, l, "platform.report", record)
}

// runtimeDone tells that the runtime has answered, JSON only.
func (j journal) runtimeDone(now time.Time, r *report, produced int) []byte {
	l := debug
	if r.status != statusSuccess {
		l = warn
	}
	if !j.json || l < j.level {
		return nil
	}
	record := j.of(r.requestID, map[string]any{"status": r.status,
		"metrics": map[string]any{"durationMs": milliseconds(r.duration), "producedBytes": produced}})
	if r.errorType != "" && r.status != statusSuccess {
		record["errorType"] = r.errorType
	}
	return j.event(now, l, "platform.runtimeDone", record)
}

// initStart is written before a runtime starts.
func (j journal) initStart(now time.Time, version *lambent.FunctionVersion, runtime, runtimeARN, stream string) []byte {
	if j.json {
		return j.event(now, info, "platform.initStart", map[string]any{"initializationType": "on-demand", "phase": "init",
			"runtimeVersion": runtime, "runtimeVersionArn": runtimeARN, "functionName": version.Name,
			"functionVersion": version.Key.Version, "instanceId": stream, "instanceMaxMemory": version.MemoryMiB << 20})
	}
	return []byte("INIT_START Runtime Version: " + runtime + "\tRuntime Version ARN: " + runtimeARN)
}

// initReport tells of a failed initialisation; of one that went well only debuggers of JSON logs read.
func (j journal) initReport(now time.Time, phase string, duration time.Duration, status, errorType string) []byte {
	l := warn
	if status == statusSuccess {
		l = debug
	}
	if j.json {
		record := map[string]any{"initializationType": "on-demand", "phase": phase, "status": status,
			"metrics": map[string]any{"durationMs": milliseconds(duration)}}
		if errorType != "" {
			record["errorType"] = errorType
		}
		return j.event(now, l, "platform.initReport", record)
	}
	if status == statusSuccess {
		return nil
	}
	out := appendMilliseconds([]byte("INIT_REPORT Init Duration: "), duration)
	out = append(append(append(out, "\tPhase: "...), phase...), '\t')
	return appendStatus(out, status, errorType)
}

// failure explains a failure of the platform's, text only: in JSON it is in the report.
func (j journal) failure(now time.Time, requestID string, f *fault) []byte {
	if j.json || f.plain == "" {
		return nil
	}
	if f.status == statusTimeout {
		return []byte(now.UTC().Format(logTime) + " " + requestID + " " + f.plain)
	}
	return []byte("RequestId: " + requestID + " Error: " + f.plain + "\n" + f.errorType)
}

// of says what request a record is about.
func (j journal) of(requestID string, record map[string]any) map[string]any {
	record["requestId"] = requestID
	if j.tenant != "" {
		record["tenantId"] = j.tenant
	}
	return record
}

// event makes a JSON line, if the level lets it through.
func (j journal) event(now time.Time, l level, kind string, record any) []byte {
	if l < j.level {
		return nil
	}
	line, err := json.Marshal(struct {
		Time   string `json:"time"`
		Type   string `json:"type"`
		Record any    `json:"record"`
	}{now.UTC().Format(logTime), kind, record})
	if err != nil { // strings and numbers only
		panic(err)
	}
	return line
}

func droppedJSON(now time.Time, records, size int) []byte {
	return journal{json: true}.event(now, warn, "platform.logsDropped", map[string]any{"droppedRecords": records,
		"droppedBytes": size, "reason": "they came faster than they could be stored"})
}

// billed rounds up to a millisecond.
func billed(d time.Duration) time.Duration {
	return (d + time.Millisecond - 1).Truncate(time.Millisecond)
}
