package microvm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxQMPLine bounds what QEMU is let say at once.
const maxQMPLine = 1 << 20

// qmpPatience bounds how long QEMU may take for a command. All of them are done at once.
const qmpPatience = 30 * time.Second

// qmp is QEMU's control connection. It is safe for use by many goroutines.
type qmp struct {
	conn *net.UnixConn
	gone chan struct{} // closed when nothing more is received

	asking  sync.Mutex // one command at a time
	answers chan qmpMessage
}

// qmpMessage is whatever QEMU says.
type qmpMessage struct {
	Greeting json.RawMessage `json:"QMP"`
	Event    string          `json:"event"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class       string `json:"class"`
		Description string `json:"desc"`
	} `json:"error"`
}

func parseQMP(line []byte) (m qmpMessage, err error) {
	if err := json.Unmarshal(line, &m); err != nil {
		return m, fmt.Errorf("QEMU said %.80q: %w", line, err)
	}
	return m, nil
}

// dialQMP takes a connection over, and has QEMU take commands.
func dialQMP(conn *net.UnixConn) (*qmp, error) {
	q := &qmp{conn: conn, gone: make(chan struct{}), answers: make(chan qmpMessage, 1)}
	go q.receive()
	if err := q.ask("qmp_capabilities", nil, nil); err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

// receive passes answers on. Greetings and events say nothing that is not asked for.
func (q *qmp) receive() {
	defer close(q.gone)
	scanner := bufio.NewScanner(q.conn)
	scanner.Buffer(nil, maxQMPLine)
	for scanner.Scan() {
		m, err := parseQMP(scanner.Bytes())
		if err != nil {
			return
		}
		if m.Return == nil && m.Error == nil {
			continue
		}
		select {
		case q.answers <- m:
		default:
			return // an answer to nothing
		}
	}
}

// ask has a command carried out. What it returns is stored in result, unless that is nil.
func (q *qmp) ask(command string, arguments, result any) error {
	return q.askWith(command, arguments, result, nil)
}

// askWith passes a file along.
func (q *qmp) askWith(command string, arguments, result any, file *os.File) error {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	var rights []byte
	if file != nil {
		rights = unix.UnixRights(int(file.Fd()))
	}
	q.asking.Lock()
	defer q.asking.Unlock()
	if _, _, err := q.conn.WriteMsgUnix(append(text, '\n'), rights, nil); err != nil {
		return fmt.Errorf("QEMU, %s: %w", command, err)
	}
	timer := time.NewTimer(qmpPatience)
	defer timer.Stop()
	select {
	case m := <-q.answers:
		switch {
		case m.Error != nil:
			return fmt.Errorf("QEMU, %s: %s", command, m.Error.Description)
		case result == nil:
			return nil
		}
		return json.Unmarshal(m.Return, result)
	case <-q.gone:
		return fmt.Errorf("QEMU, %s: %w", command, errMachineGone)
	case <-timer.C:
		q.conn.Close() // a late answer would be taken for another's
		return fmt.Errorf("QEMU, %s: no answer within %v", command, qmpPatience)
	}
}

// errMachineGone says that the virtual machine has ended.
var errMachineGone = errors.New("the virtual machine is gone")

// addFile gives QEMU a file, and returns the name that it has there.
func (q *qmp) addFile(set int, file *os.File) (string, error) {
	if err := q.askWith("add-fd", map[string]any{"fdset-id": set}, nil, file); err != nil {
		return "", err
	}
	return fmt.Sprintf("/dev/fdset/%d", set), nil
}

// migrate writes or reads the machine's state, and waits for the end of that.
func (q *qmp) migrate(ctx context.Context, command string, file *os.File) error {
	// The state goes through a pipe where QEMU is asked to give it, and this process copies nothing: it is the file itself.
	if err := q.askWith("getfd", map[string]any{"fdname": "state"}, nil, file); err != nil {
		return err
	}
	if err := q.ask(command, map[string]any{"uri": "fd:state"}, nil); err != nil {
		return err
	}
	ticker := time.NewTicker(3 * time.Millisecond) // QEMU sends events of it only when asked to, and not for what comes in
	defer ticker.Stop()
	for {
		var state struct {
			Status      string `json:"status"`
			Description string `json:"error-desc"`
		}
		if err := q.ask("query-migrate", nil, &state); err != nil {
			return err
		}
		switch state.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("QEMU, %s: %s %s", command, state.Status, state.Description)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("QEMU, %s: %w", command, ctx.Err())
		}
	}
}

// close ends the connection, and waits until nothing more is received.
func (q *qmp) close() {
	q.conn.Close()
	<-q.gone
}
