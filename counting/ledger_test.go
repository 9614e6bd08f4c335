package counting

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lambent"
)

// TestLedger drives a ledger with sessions that follow the protocol, in any order, with repeats, and with limits that change.
// After each command its books balance, no grant passes a limit, and a copy that began with a snapshot agrees.
func TestLedger(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 30).Draw(t, "account limit")
		l := newLedger(1, limit, false)
		seqs, asks := map[string]uint64{}, map[string]Ask{}
		copied := restoreCopy(t, l)
		for range rapid.IntRange(1, 60).Draw(t, "commands") {
			c := command{Now: l.clock + time.Duration(rapid.IntRange(0, 2000).Draw(t, "ms"))*time.Millisecond}
			repeated := false
			switch rapid.IntRange(0, 9).Draw(t, "kind") {
			case 0:
				c.Limits = drawLimits(t, l)
			case 1:
				name := drawSession(t)
				c.Expire = &expiry{Session: name, Seq: seqs[name] - uint64(rapid.IntRange(0, 1).Draw(t, "stale"))}
			case 2:
				if last, ok := asks[drawSession(t)]; ok {
					c.Ask, repeated = &last, true
				}
			default:
				ask := drawAsk(t, l, seqs)
				asks[ask.Session] = ask
				c.Ask = &ask
			}
			before, current := accountHeld(l), c.Expire == nil || l.sessions[c.Expire.Session] == nil || l.sessions[c.Expire.Session].Seq == c.Expire.Seq
			o := l.apply(c)
			balances(t, l)
			if after := accountHeld(l); after > before && repeated {
				t.Fatalf("a repeated exchange was granted %d credits more", after-before)
			}
			if !current && l.sessions[c.Expire.Session] == nil {
				t.Fatal("a session that was heard of again has expired")
			}
			granted := 0
			if o.answer != nil && o.answer.Status == Done && !repeated {
				for _, line := range o.answer.Lines {
					granted += line.Granted
					checkLine(t, l, line)
				}
			}
			if after := accountHeld(l); after > before && after > limit {
				t.Fatalf("%d credits held, after %d, of a limit of %d (%d granted)", after, before, limit, granted)
			}
			if got := copied.apply(c); fmt.Sprint(got.answer) != fmt.Sprint(o.answer) {
				t.Fatalf("a copy answers %+v, the ledger %+v", got.answer, o.answer)
			}
			if rapid.IntRange(0, 5).Draw(t, "copy anew") == 0 {
				copied = restoreCopy(t, l)
			}
		}
	})
}

func drawSession(t *rapid.T) string {
	return rapid.SampledFrom([]string{"a.1", "b.1", "c.1"}).Draw(t, "session")
}

func drawFunction(t *rapid.T) Pool {
	return Pool{testAccount, rapid.SampledFrom([]lambent.FunctionID{"f", "g"}).Draw(t, "function")}
}

func drawLimits(t *rapid.T, l *ledger) *limitChange {
	change := Limit{Pool: drawFunction(t), None: rapid.Bool().Draw(t, "none")}
	if !change.None {
		change.Reserved = rapid.IntRange(0, l.accountLimit).Draw(t, "reserved")
	}
	return &limitChange{Base: l.version - int64(rapid.IntRange(0, 1).Draw(t, "behind")), Revision: l.revision + 1, Changes: []Limit{change}}
}

// drawAsk has a session give back some of what it holds and ask for more.
func drawAsk(t *rapid.T, l *ledger, seqs map[string]uint64) Ask {
	name := drawSession(t)
	seqs[name]++
	s := l.sessions[name]
	a := Ask{Session: name, Seq: seqs[name], Open: s == nil, Close: rapid.IntRange(0, 9).Draw(t, "close") == 0}
	if s == nil {
		return a
	}
	a.Version = l.version - int64(rapid.IntRange(0, 1).Draw(t, "older"))
	for _, id := range []Pool{{Account: testAccount}, {testAccount, "f"}, {testAccount, "g"}} {
		if rapid.Bool().Draw(t, "speaks of it") {
			a.Lines = append(a.Lines, AskLine{Pool: id, Hold: rapid.IntRange(0, l.held(s, id)).Draw(t, "hold"),
				Want: rapid.IntRange(0, 5).Draw(t, "want"), Round: l.round - int64(rapid.IntRange(0, 2).Draw(t, "round")),
				Answered: l.round - int64(rapid.IntRange(0, 2).Draw(t, "answered")), Permits: rapid.IntRange(0, 5).Draw(t, "permits")})
		}
	}
	return a
}

func accountHeld(l *ledger) int { return l.account(testAccount).held }

func balances(t *rapid.T, l *ledger) {
	pools, total := map[Pool]int{}, 0
	for _, s := range l.sessions {
		for id, h := range s.Holds {
			pools[id] += h.N
			total += h.N
		}
	}
	for id, p := range l.pools {
		if p.Held != pools[id] || p.Level < 0 {
			t.Fatalf("pool %v: %+v, sessions hold %d", id, p, pools[id])
		}
	}
	if total != accountHeld(l) {
		t.Fatalf("the account counts %d, sessions hold %d", accountHeld(l), total)
	}
}

func checkLine(t *rapid.T, l *ledger, line AnswerLine) {
	p := l.pools[line.Pool]
	switch {
	case line.Granted > 0 && p.Held > l.capacity(line.Pool):
		t.Fatalf("%d granted of %v: %d held of %d", line.Granted, line.Pool, p.Held, l.capacity(line.Pool))
	case line.Granted > 0 && !l.grants(line.Pool):
		t.Fatalf("%d granted of %v, which may not grant", line.Granted, line.Pool)
	case line.Full && p.Held < l.capacity(line.Pool) && accountHeld(l) < l.accountLimit:
		t.Fatalf("%v is called full: %d held of %d", line.Pool, p.Held, l.capacity(line.Pool))
	}
}

// restoreCopy takes a ledger through a snapshot's bytes.
func restoreCopy(t *rapid.T, l *ledger) *ledger {
	data, err := json.Marshal(l.snapshot())
	if err != nil {
		t.Fatal(err)
	}
	var s snapshot
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	return restore(s)
}

// TestChunks: far from the limit a session gets many credits at once, near it what it asks for.
func TestChunks(t *testing.T) {
	for _, c := range []struct{ othersHold, want, granted int }{
		{0, 1, 65}, {600, 1, 50}, {900, 1, 13}, {990, 1, 2}, {995, 1, 1}, {999, 1, 1}, {999, 2, 1}, {1000, 1, 0},
	} {
		l := newLedger(1, 1000, false)
		l.apply(command{Limits: &limitChange{Base: l.version}})
		l.apply(command{Ask: &Ask{Session: "a.1", Seq: 1, Open: true}})
		l.apply(command{Ask: &Ask{Session: "b.1", Seq: 1, Open: true}})
		pool := Pool{Account: testAccount}
		l.lend(l.sessions["b.1"], pool, c.othersHold)
		o := l.apply(command{Ask: &Ask{Session: "a.1", Seq: 2, Lines: []AskLine{{Pool: pool, Want: c.want}}}})
		if got := o.answer.Lines[0]; got.Granted != c.granted || got.Full || (got.Round > 0) != (c.granted < c.want) {
			t.Errorf("%d wanted while %d of 1000 are held: %+v", c.want, c.othersHold, got)
		}
	}
}
