package api

import (
	"bytes"
	"errors"
	"io"
	"time"

	"lambent"
)

// Bounds of request bodies.
const (
	maxBody      = 70_167_211 // bytes; CreateFunction and UpdateFunctionCode, as Lambda says
	maxSmallBody = 1 << 20    // bytes
	middleBodies = 32         // bodies of up to lambent.MaxRequestBytes that are held at once
	largeBodies  = 4          // bodies over that
	bodyPatience = 20 * time.Second
)

// bodies are the places for bodies that are not small: clients whose signature is not yet verified cannot fill the memory.
type bodies struct{ middle, large chan struct{} }

func newBodies() bodies {
	return bodies{make(chan struct{}, middleBodies), make(chan struct{}, largeBodies)}
}

// limit is the size in bytes that the request's body may have.
func (c *call) limit() int64 {
	if c.work.maxBody > 0 {
		return c.work.maxBody
	}
	return maxSmallBody
}

// readBody reads the whole body. One that is not small waits for a place, which giveBack gives up.
func (c *call) readBody() error {
	length, limit := c.r.ContentLength, c.limit()
	switch {
	case length == 0:
		return nil
	case length > limit:
		return c.tooLarge(limit)
	case length > maxSmallBody:
		if err := c.place(length); err != nil {
			return err
		}
		fallthrough
	case length > 0:
		c.body = make([]byte, length)
		_, err := io.ReadFull(c.r.Body, c.body)
		return unread(err)
	}
	return c.readChunks(limit)
}

// readChunks reads a body of unknown length.
func (c *call) readChunks(limit int64) error {
	var buf bytes.Buffer
	n, err := io.CopyN(&buf, c.r.Body, min(limit, maxSmallBody)+1)
	if n > maxSmallBody && n <= limit {
		if err := c.place(limit); err != nil {
			return err
		}
		var more int64
		more, err = io.CopyN(&buf, c.r.Body, limit+1-n)
		n += more
	}
	if n > limit {
		return c.tooLarge(limit)
	}
	c.body = buf.Bytes()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return unread(err)
}

// place waits for a place for a body of up to size bytes.
func (c *call) place(size int64) error {
	places := c.bodies.middle
	if size > lambent.MaxRequestBytes {
		places = c.bodies.large
	}
	patience := time.NewTimer(bodyPatience)
	defer patience.Stop()
	select {
	case places <- struct{}{}:
		c.release = func() { <-places }
		return nil
	case <-patience.C:
	case <-c.ctx.Done():
	}
	return &lambent.Error{Code: lambent.Unavailable, Message: "Too many large requests are being received.", RetryAfter: time.Second}
}

func (c *call) giveBack() {
	if c.release != nil {
		c.release()
		c.release = nil
	}
}

func (c *call) tooLarge(limit int64) error {
	c.w.Header().Set("Connection", "close")
	name := ""
	switch {
	case c.op == nil:
	case c.op.Name == "Invoke":
		name = " for the InvokeFunction operation"
	default:
		name = " for the " + c.op.Name + " operation"
	}
	return lambent.Errorf(lambent.TooLarge, "Request must be smaller than %d bytes%s", limit, name)
}

func unread(err error) error {
	if err == nil {
		return nil
	}
	return lambent.Wrap(lambent.InvalidContent, err, "Could not read the request body.")
}
