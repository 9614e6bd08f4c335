package counting

import (
	"time"

	"lambent"
)

// Pool is what concurrency is taken from: a function's reservation, or, with an empty Function, what reservations leave of
// an account's limit.
type Pool struct {
	Account  string
	Function lambent.FunctionID `json:",omitempty"`
}

// Limit is the reserved concurrency of a function. None: it has no reservation, and draws from its account's pool.
type Limit struct {
	Pool     Pool
	Reserved int  `json:",omitempty"`
	None     bool `json:",omitempty"`
}

// Address is a party of the protocol: a front end's session, or, when Session is empty, the replica in a seat.
type Address struct {
	Seat    int
	Session string
}

// Transport carries messages between replicas and sessions. It may lose, repeat and reorder them, and never blocks.
// Messages are values that belong to nobody once they are sent: neither side writes to them.
type Transport interface {
	Send(m Message)
	// Listen says who takes the messages for an address; nil: nobody. deliver does not block.
	Listen(a Address, deliver func(Message))
}

// Message is all that passes between the parties. One of its last five members is set.
type Message struct {
	From, To Address
	Group    uint64 // the group's number: a group that was rebuilt after the loss of its quorum has a higher one
	Raft     []byte `json:",omitempty"` // a raftpb.Message, between replicas
	Join     uint64 `json:",omitempty"` // the ID of a replica that wants to become a member
	Ask      *Ask   `json:",omitempty"`
	Answer   *Answer
	Notice   *Notice
}

// Ask is a session's side of one exchange. A session has one exchange under way at a time; it repeats it, unchanged, until
// it is answered, and the group applies it once.
type Ask struct {
	Session string
	Seq     uint64
	Open    bool      `json:",omitempty"` // begins the session
	Adopt   bool      `json:",omitempty"` // with Open: the session was known to the group before its quorum was lost
	Close   bool      `json:",omitempty"` // ends the session
	Version int64     `json:",omitempty"` // of the limits that the session has in force
	Lines   []AskLine `json:",omitempty"`
}

// AskLine is what a session says of one pool.
type AskLine struct {
	Pool     Pool
	Hold     int   `json:",omitempty"` // credits that the session still has, in use or idle
	Want     int   `json:",omitempty"` // acquires that wait
	Round    int64 `json:",omitempty"` // of the recall that they wait for; 0: none yet
	Answered int64 `json:",omitempty"` // the session has given back its idle credits for the recalls up to this
	Permits  int   `json:",omitempty"` // requests that the session would like to let through
}

// Status is what became of an Ask.
type Status int

// What becomes of an Ask.
const (
	Done      Status = iota + 1
	NotLeader        // ask the replica in seat Leader
	Unknown          // the group does not know the session, or not any more
)

// Answer is the group's side of an exchange.
type Answer struct {
	Session string
	Seq     uint64
	Status  Status
	Leader  int   `json:",omitempty"` // NotLeader: a seat, -1 when there is no leader
	Version int64 `json:",omitempty"` // of the limits; the Ask's while the group does not know them
	Account int   `json:",omitempty"` // limit of each account
	Full    bool  `json:",omitempty"` // Limits is all there is; else what changed since the Ask's Version
	Limits  []Limit
	Lines   []AnswerLine
}

// AnswerLine is what the group says of one pool.
type AnswerLine struct {
	Pool     Pool
	Granted  int           `json:",omitempty"` // credits that the session has in addition
	Full     bool          `json:",omitempty"` // nobody had a credit to spare
	Account  bool          `json:",omitempty"` // with Full: it is the account that has reached its limit, not the pool
	Round    int64         `json:",omitempty"` // a recall is under way: ask again
	Debt     int           `json:",omitempty"` // credits that the pool lends beyond its limit: do not use them again
	Ahead    int           `json:",omitempty"` // credits beyond need that the group can spare for one session
	Scarce   bool          `json:",omitempty"` // keep no idle credits
	Permits  int           `json:",omitempty"`
	PermitIn time.Duration `json:",omitempty"` // no permit was left, and there will be none before this
}

// Notice is a hint to a session. It may be lost: all that it says is also found by asking.
type Notice struct {
	Version int64    // of the limits
	Recalls []Recall `json:",omitempty"`
	Again   bool     `json:",omitempty"` // what the session waits for may be there
}

// Recall asks a session for the idle credits of a pool.
type Recall struct {
	Pool  Pool
	Round int64
}
