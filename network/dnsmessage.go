package network

import (
	"encoding/binary"
	"errors"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	dnsHeaderBytes = 12
	// maxQueryBytes is the most that a query over UDP may have. They have some hundred at most.
	maxQueryBytes = 4096
	// maxAnswerBytes is the most that a message has at all.
	maxAnswerBytes = 1<<16 - 1
)

// query is what the forwarder knows of a query.
type query struct {
	id       uint16
	question dnsmessage.Question
}

// parseQuery reads a message from a sandbox. It takes only plain queries with one question; what else there is in the message
// is the resolver's to read.
func parseQuery(message []byte) (query, bool) {
	var parser dnsmessage.Parser
	header, err := parser.Start(message)
	if err != nil || header.Response || header.OpCode != 0 || binary.BigEndian.Uint16(message[4:]) != 1 {
		return query{}, false
	}
	question, err := parser.Question()
	if err != nil {
		return query{}, false
	}
	return query{id: header.ID, question: question}, true
}

// answers reports whether a message from a resolver answers the query that was sent under this ID. Anybody who guesses the
// socket's port can send there, hence the comparison of the question.
func (q query) answers(message []byte, id uint16) bool {
	var parser dnsmessage.Parser
	header, err := parser.Start(message)
	if err != nil || !header.Response || header.ID != id {
		return false
	}
	question, err := parser.Question()
	if errors.Is(err, dnsmessage.ErrSectionDone) {
		// Some servers leave the question out of errors, and of what is to be asked again over TCP.
		return header.RCode != dnsmessage.RCodeSuccess || header.Truncated
	}
	return err == nil && question.Type == q.question.Type && question.Class == q.question.Class &&
		strings.EqualFold(question.Name.String(), q.question.Name.String())
}

// failure is the answer when no resolver answers.
func (q query) failure() []byte {
	message := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: q.id, Response: true, RecursionDesired: true, RecursionAvailable: true, RCode: dnsmessage.RCodeServerFailure},
		Questions: []dnsmessage.Question{q.question},
	}
	packed, err := message.Pack()
	if err != nil {
		return nil // not for a question that was parsed
	}
	return packed
}

// setID writes a message's ID.
func setID(message []byte, id uint16) { binary.BigEndian.PutUint16(message, id) }
