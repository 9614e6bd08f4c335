package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// The process is killed at random moments during creates, updates and invokes: every acknowledged write is there after
// the next start. LAMBENT_KILLS sets how often.
func TestKillKeepsAcknowledgedWrites(t *testing.T) {
	kills := 10
	if given := os.Getenv("LAMBENT_KILLS"); given != "" {
		var err error
		if kills, err = strconv.Atoi(given); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	data := t.TempDir()
	acked := &ledger{memory: map[string]int32{}}
	for round := range kills {
		s := start(t, data)
		acked.check(t, s)
		if round == 0 {
			s.function("busy", provided(programs.echo))
		}
		var writers sync.WaitGroup
		for w := range 3 {
			writers.Go(func() { acked.write(t, s, round, w) })
		}
		writers.Go(func() {
			for {
				if _, err := s.client.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("busy"), Payload: []byte("1")}); err != nil {
					return
				}
			}
		})
		timer := time.After(time.Duration(random.IntN(400)) * time.Millisecond)
		<-timer // the random moment
		s.kill()
		writers.Wait()
	}
	s := start(t, data)
	acked.check(t, s)
	t.Logf("%d kills, %d functions acknowledged", kills, len(acked.memory))
}

// ledger remembers what was acknowledged: the memory size of each function.
type ledger struct {
	mu     sync.Mutex
	memory map[string]int32
	// unknown holds functions with an update in flight when the process was killed: either size is right.
	unknown map[string]bool
}

// write creates and updates functions until the server is gone.
func (l *ledger) write(t *testing.T, s *server, round, writer int) {
	ctx := t.Context()
	for n := 0; ; n++ {
		name := fmt.Sprintf("kill-%d-%d-%d", round, writer, n)
		in := &lambda.CreateFunctionInput{FunctionName: &name, Role: aws.String("arn:aws:iam::" + account + ":role/e2e"), MemorySize: aws.Int32(128)}
		source("python3.12", "x.py", "x.handler", "def handler(event, context): return event\n")(in)
		if _, err := s.client.CreateFunction(ctx, in); err != nil {
			return
		}
		l.note(name, 128)
		size := int32(128 + n%64)
		if _, err := s.client.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{FunctionName: &name, MemorySize: &size}); err != nil {
			var conflict *types.ResourceConflictException
			if errors.As(err, &conflict) {
				continue
			}
			l.doubt(name)
			return
		}
		l.note(name, size)
	}
}

func (l *ledger) note(name string, size int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.memory[name] = size
}

func (l *ledger) doubt(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unknown == nil {
		l.unknown = map[string]bool{}
	}
	l.unknown[name] = true
}

// check compares what the server has with what was acknowledged, and that code can still be read.
func (l *ledger) check(t *testing.T, s *server) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	found := map[string]int32{}
	pages := lambda.NewListFunctionsPaginator(s.client, &lambda.ListFunctionsInput{})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range page.Functions {
			found[*f.FunctionName] = *f.MemorySize
		}
	}
	for name, size := range l.memory {
		got, ok := found[name]
		if !ok {
			t.Errorf("%s was acknowledged and is gone", name)
		} else if got != size && !l.unknown[name] {
			t.Errorf("%s has %d MB, %d were acknowledged", name, got, size)
		}
	}
}
