// Package wire is Lambda's REST protocol as data: the operations with their routes, the structures of requests and answers,
// and the constraints that requests have to meet. Most of it is generated from the service's model; the rest reads it.
package wire

//go:generate go run lambent/api/internal/gen -model=$LAMBENT_AWS_MODEL

// Op is one of Lambda's.
type Op struct {
	Name    string
	Method  string
	URI     string // labels stand as {Name}
	Success int    // status of an answer
	// New returns a pointer to the structure of the operation's input; nil when it has none.
	New   func() any
	input int // in shapes
}

// Ops returns all operations, in the order of their URIs. They are shared and not to be written to.
func Ops() []Op { return operations[:] }

// kind is what a shape is made of.
type kind uint8

const (
	kindString kind = iota + 1
	kindInteger
	kindFloat
	kindBoolean
	kindTimestamp
	kindBlob
	kindList
	kindMap
	kindStructure
)

// place is where a member travels.
type place uint8

const (
	inBody place = iota
	inLabel
	inQuery
	inHeader
	inPayload
	inStatus
)

// shape is a type of the model with the constraints that it puts on values. Elem and key are indexes in shapes.
type shape struct {
	kind           kind
	sensitive      bool // values are not repeated in messages
	hasMin, hasMax bool
	min, max       float64 // of the length in UTF-16 units or items, or of the value
	pattern        int     // in patterns; 0: none
	enum           []string
	elem, key      int
	fields         []field // in the order of the Go structure's
}

// field is a member of a structure.
type field struct {
	name     string
	in       place
	key      string // under which it travels, unless in the body
	required bool
	own      *bounds // instead of the shape's
	shape    int
}

type bounds struct {
	hasMin, hasMax bool
	min, max       float64
}

// pattern is a regular expression for whole strings: as Lambda shows it, and, where that needs more than RE2 has, an
// expression that accepts the same.
type pattern struct{ shown, meaning string }
