package worker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"lambent/sandbox"
)

// tellTimeout is how long a runtime that was started ahead may take to read its environment.
const tellTimeout = time.Second

// warmRuntime is a runtime that was started before its function was known. It has loaded what it needs, has connected to the
// Runtime API's address, and reads there until it is told its environment.
type warmRuntime struct {
	process sandbox.Process
	conn    net.Conn
	watched context.CancelFunc
	ended   chan struct{} // closed when the process has ended
}

// startWarm starts a runtime in a ready-made sandbox and waits until it has connected. When it fails, the caller destroys the
// sandbox, which ends what is left of it here.
func startWarm(ctx context.Context, box sandbox.Sandbox, command sandbox.Command) (*warmRuntime, error) {
	process, err := box.Start(ctx, command)
	if err != nil {
		return nil, err
	}
	w := &warmRuntime{process: process, ended: make(chan struct{})}
	watching, cancel := context.WithCancel(context.Background())
	w.watched = cancel
	go func() {
		if _, err := process.Wait(watching); err == nil {
			close(w.ended)
		}
	}()
	connected, giveUp := accept(box.RuntimeAPI())
	select {
	case a := <-connected:
		w.conn, err = a.conn, a.err
	case <-w.ended:
		err = errors.New("it ended before it connected")
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		giveUp()
		w.release()
		return nil, err
	}
	return w, nil
}

// accepted is a connection, or why there is none.
type accepted struct {
	conn net.Conn
	err  error
}

// accept waits for a connection in the background, until the listener is closed. Whoever does not want it any more gives up.
func accept(listener net.Listener) (connected <-chan accepted, giveUp func()) {
	offer, unwanted := make(chan accepted), make(chan struct{})
	go func() {
		conn, err := listener.Accept()
		select {
		case offer <- accepted{conn, err}:
		case <-unwanted:
			if err == nil {
				conn.Close()
			}
		}
	}()
	return offer, func() { close(unwanted) }
}

// dead tells whether the runtime has ended while it waited.
func (w *warmRuntime) dead() bool {
	select {
	case <-w.ended:
		return true
	default:
		return false
	}
}

// tell gives the runtime its environment: variables that end with a zero byte each, and then the end of the connection. From then
// on it is what command would have started.
func (w *warmRuntime) tell(command sandbox.Command) error {
	defer w.watched()
	defer w.conn.Close()
	if err := w.conn.SetDeadline(time.Now().Add(tellTimeout)); err != nil {
		return fmt.Errorf("tell a runtime its environment: %w", err)
	}
	var text strings.Builder
	for _, variable := range command.Env {
		text.WriteString(variable)
		text.WriteByte(0)
	}
	if _, err := w.conn.Write([]byte(text.String())); err != nil {
		return fmt.Errorf("tell a runtime its environment: %w", err)
	}
	return nil
}

// release gives up what is held of a runtime that is not used. Its sandbox ends it.
func (w *warmRuntime) release() {
	w.watched()
	w.process.Output().Close()
	if w.conn != nil {
		w.conn.Close()
	}
}
