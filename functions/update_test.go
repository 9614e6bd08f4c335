package functions_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lambent"
	"lambent/blob"
	blobmemory "lambent/blob/memory"
	"lambent/functions"
	metamemory "lambent/meta/memory"
)

func TestUpdateConfiguration(t *testing.T) {
	b := newBench(t)
	before := b.create(t, "f")
	set := functions.Settable{
		Runtime:      pointer("python3.11"),
		Description:  pointer("changed"),
		Timeout:      pointer(10 * time.Second),
		MemoryMiB:    pointer(512),
		EphemeralMiB: pointer(1024),
		Environment:  &map[string]string{"ENV_A": "a"},
		TracingMode:  pointer("Active"),
		DeadLetter:   &functions.DeadLetter{TargetARN: "arn:aws:sqs:eu-central-1:111111111111:q"},
		VpcConfig:    &functions.VpcConfig{SubnetIDs: []string{"subnet-1"}, SecurityGroupIDs: []string{"sg-1"}},
	}
	during, err := b.UpdateFunctionConfiguration(t.Context(), functions.UpdateFunctionConfigurationRequest{Function: name("f"), Settable: set})
	if err != nil {
		t.Fatal(err)
	}
	if during.State != lambent.StateActive || during.LastUpdateStatus != functions.UpdateInProgress ||
		during.LastUpdateStatusReason != "The function is being created." || during.LastUpdateStatusReasonCode != "Creating" {
		t.Errorf("state of the answer: %+v", during)
	}
	after := b.settle(t, ref("f", ""))
	if after.LastUpdateStatus != functions.UpdateSuccessful || after.LastUpdateStatusReason != "" || after.LastUpdateStatusReasonCode != "" {
		t.Errorf("state afterwards: %+v", after)
	}
	ids := map[string]bool{before.RevisionID: true, during.RevisionID: true, after.RevisionID: true}
	if len(ids) != 3 {
		t.Error("the revision did not change at each change of state")
	}
	want := *before
	want.Runtime, want.Description, want.Timeout, want.MemoryMiB, want.EphemeralMiB = "python3.11", "changed", 10*time.Second, 512, 1024
	want.Environment, want.TracingMode, want.DeadLetter, want.VpcConfig = *set.Environment, "Active", set.DeadLetter, set.VpcConfig
	want.RuntimeVersionARN, want.RevisionID, want.LastModified = after.RuntimeVersionARN, after.RevisionID, after.LastModified
	if diff := cmp.Diff(&want, after); diff != "" {
		t.Error(diff)
	}
	cleared := b.update(t, "f", functions.Settable{
		Environment: &map[string]string{}, DeadLetter: &functions.DeadLetter{}, VpcConfig: &functions.VpcConfig{},
	})
	if cleared.Environment == nil || len(cleared.Environment) != 0 || cleared.DeadLetter != nil || cleared.VpcConfig == nil ||
		cleared.VpcConfig.SubnetIDs == nil || len(cleared.VpcConfig.SubnetIDs) != 0 || cleared.Description != "changed" {
		t.Errorf("cleared: %+v", cleared)
	}
}

// TestRedundantUpdate: an update that changes nothing still runs, with new revisions.
func TestRedundantUpdate(t *testing.T) {
	b := newBench(t)
	b.create(t, "f")
	first := b.update(t, "f", functions.Settable{Description: pointer("same")})
	second := b.update(t, "f", functions.Settable{Description: pointer("same")})
	if first.RevisionID == second.RevisionID {
		t.Error("the revision is the same")
	}
}

func TestLoggingUpdates(t *testing.T) {
	text := lambent.Logging{Format: "Text", Group: "/aws/lambda/f"}
	json := lambent.Logging{Format: "JSON", ApplicationLevel: "INFO", SystemLevel: "INFO", Group: "/aws/lambda/f"}
	debug := json
	debug.ApplicationLevel = "DEBUG"
	cool := json
	cool.Group = "cool_lambda"
	coolText := lambent.Logging{Format: "Text", Group: "cool_lambda"}
	steps := []struct {
		set  functions.LoggingConfig
		want lambent.Logging
	}{
		{functions.LoggingConfig{}, text},
		{functions.LoggingConfig{Format: "JSON"}, json},
		{functions.LoggingConfig{ApplicationLevel: "DEBUG"}, debug},
		{functions.LoggingConfig{Format: "Text"}, text},
		{functions.LoggingConfig{Format: "JSON", ApplicationLevel: "DEBUG"}, debug},
		{functions.LoggingConfig{Group: "cool_lambda", ApplicationLevel: "INFO"}, cool},
		{functions.LoggingConfig{Format: "Text"}, coolText},
	}
	b := newBench(t)
	b.create(t, "f")
	for i, step := range steps {
		if got := b.update(t, "f", functions.Settable{Logging: &step.set}).Logging; got != step.want {
			t.Errorf("step %d: %+v, want %+v", i, got, step.want)
		}
	}
	_, err := b.UpdateFunctionConfiguration(t.Context(), functions.UpdateFunctionConfigurationRequest{
		Function: name("f"), Settable: functions.Settable{Logging: &functions.LoggingConfig{SystemLevel: "INFO"}}})
	refuse(t, err, lambent.InvalidParameter, "To set ApplicationLogLevel or SystemLogLevel, LogFormat must be JSON.")
}

func TestUpdateCode(t *testing.T) {
	b := newBench(t)
	before := b.create(t, "f")
	other := code(t, "other code")
	dry, err := b.UpdateFunctionCode(t.Context(), functions.UpdateFunctionCodeRequest{Function: name("f"), Code: other, DryRun: true})
	if err != nil || dry.CodeSHA256() == before.CodeSHA256() {
		t.Errorf("dry run: %+v, %v", dry, err)
	}
	if now := b.settle(t, ref("f", "")); now.RevisionID != before.RevisionID || now.Code != before.Code {
		t.Errorf("the dry run changed the function: %+v", now)
	}
	during, err := b.UpdateFunctionCode(t.Context(), functions.UpdateFunctionCodeRequest{
		Function: name("f"), Code: other, Architectures: []string{"arm64"}, RevisionID: before.RevisionID})
	if err != nil || during.LastUpdateStatus != functions.UpdateInProgress || during.Code != dry.Code {
		t.Fatalf("%+v, %v", during, err)
	}
	after := b.settle(t, ref("f", ""))
	if after.Code != dry.Code || after.Architectures[0] != "arm64" || after.ARN != arn("f") {
		t.Errorf("%+v", after)
	}
	published, err := b.UpdateFunctionCode(t.Context(), functions.UpdateFunctionCodeRequest{Function: name("f"), Code: code(t, "third"), Publish: true})
	if err != nil || published.Version != "1" || published.ARN != arn("f:1") || published.LastUpdateStatus != functions.UpdateInProgress {
		t.Fatalf("%+v, %v", published, err)
	}
	if one := b.settle(t, ref("f", "1")); one.Code != published.Code || one.LastUpdateStatus != functions.UpdateSuccessful || one.State != lambent.StateActive {
		t.Errorf("%+v", one)
	}
	if latest := b.settle(t, ref("f", "")); latest.Code != published.Code {
		t.Errorf("%+v", latest)
	}
}

// gatedBlobs holds back the settling of functions, which opens their code, so that a test sees what is between.
type gatedBlobs struct {
	blob.Store

	mu   sync.Mutex
	gate chan struct{} // closed: nothing is held back
}

func (g *gatedBlobs) Open(ctx context.Context, digest string) (io.ReadCloser, error) {
	g.mu.Lock()
	gate := g.gate
	g.mu.Unlock()
	select {
	case <-gate:
		return g.Store.Open(ctx, digest)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (g *gatedBlobs) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.gate)
}

func (g *gatedBlobs) hold() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gate = make(chan struct{})
}

// TestDuringChanges: a function that is being created or updated refuses other changes, and can be read and deleted.
func TestDuringChanges(t *testing.T) {
	store := metamemory.Open(metamemory.Options{})
	t.Cleanup(func() { store.Close() })
	blobs := &blobmemory.Store{}
	gate := &gatedBlobs{Store: blobs, gate: make(chan struct{})}
	b := &bench{meta: store, blobs: blobs, Service: openService(t, functions.Options{Meta: store, Blobs: gate})}
	if _, err := b.CreateFunction(t.Context(), request(t, "f")); err != nil {
		t.Fatal(err)
	}
	changes := map[string]func() error{
		"configuration": func() error {
			_, err := b.UpdateFunctionConfiguration(t.Context(), functions.UpdateFunctionConfigurationRequest{Function: name("f")})
			return err
		},
		"code": func() error {
			_, err := b.UpdateFunctionCode(t.Context(), functions.UpdateFunctionCodeRequest{Function: name("f"), Code: code(t, "x")})
			return err
		},
		"publish": func() error {
			_, err := b.PublishVersion(t.Context(), functions.PublishVersionRequest{Function: name("f")})
			return err
		},
	}
	for what, try := range changes {
		t.Run(what+" while pending", func(t *testing.T) {
			refuse(t, try(), lambent.Conflict, "The operation cannot be performed at this time. The function is currently in the following state: Pending")
		})
	}
	gate.release()
	b.settle(t, ref("f", ""))
	gate.hold()
	if err := changes["configuration"](); err != nil {
		t.Fatal(err)
	}
	for what, try := range changes {
		t.Run(what+" while updating", func(t *testing.T) {
			refuse(t, try(), lambent.Conflict, "The operation cannot be performed at this time. An update is in progress for resource: "+arn("f"))
		})
	}
	if c, err := b.GetFunctionConfiguration(t.Context(), ref("f", "")); err != nil || c.LastUpdateStatus != functions.UpdateInProgress {
		t.Errorf("%+v, %v", c, err)
	}
	if err := b.DeleteFunction(t.Context(), ref("f", "")); err != nil {
		t.Error(err)
	}
	gate.release()
}

// TestConcurrentUpdates: of updates with one RevisionId, one wins; none is lost; what is refused is refused as Lambda does.
func TestConcurrentUpdates(t *testing.T) {
	b := newBench(t)
	current := b.create(t, "f")
	for range 5 {
		var group sync.WaitGroup
		var mu sync.Mutex
		var won []string
		for i := range 8 {
			group.Go(func() {
				description := fmt.Sprint(i)
				_, err := b.UpdateFunctionConfiguration(t.Context(), functions.UpdateFunctionConfigurationRequest{
					Function: name("f"), RevisionID: current.RevisionID, Settable: functions.Settable{Description: &description}})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, description)
				} else if code := lambent.CodeOf(err); code != lambent.PreconditionFailed && code != lambent.Conflict {
					t.Error(err)
				}
			})
		}
		group.Wait()
		current = b.settle(t, ref("f", ""))
		if len(won) != 1 || current.Description != won[0] {
			t.Fatalf("%d updates won, and the description is %q", len(won), current.Description)
		}
	}
}

// TestConcurrentCreates: of many creations of one name, one succeeds; and each creation has its own identity.
func TestConcurrentCreates(t *testing.T) {
	b := newBench(t)
	seen := map[lambent.FunctionID]bool{}
	for range 5 {
		var group sync.WaitGroup
		results := make(chan *functions.Configuration, 8)
		for range 8 {
			group.Go(func() {
				c, err := b.CreateFunction(t.Context(), request(t, "f"))
				if err == nil {
					results <- c
				} else if !strings.Contains(err.Error(), "Function already exist: f") {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if len(results) != 1 {
			t.Fatalf("%d creations succeeded", len(results))
		}
		if c := <-results; seen[c.ID] {
			t.Fatal("an identity was used twice")
		} else {
			seen[c.ID] = true
		}
		if err := b.DeleteFunction(t.Context(), ref("f", "")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNotFound(t *testing.T) {
	b := newBench(t)
	b.create(t, "f")
	ctx := t.Context()
	check := func(err error, message string) {
		t.Helper()
		refuse(t, err, lambent.NotFound, message)
	}
	_, err := b.GetFunction(ctx, ref("none", ""))
	check(err, "Function not found: "+arn("none"))
	_, err = b.GetFunction(ctx, ref("none", "$LATEST"))
	check(err, "Function not found: "+arn("none:$LATEST"))
	_, err = b.GetFunctionConfiguration(ctx, ref("f", "1221"))
	check(err, "Function not found: "+arn("f:1221"))
	_, err = b.GetFunction(ctx, ref("f", "alias"))
	check(err, "Function not found: "+arn("f:alias"))
	_, err = b.GetAlias(ctx, ref("f", "alias"))
	check(err, "Cannot find alias arn: "+arn("f:alias"))
	_, err = b.GetAlias(ctx, ref("none", "alias"))
	check(err, "Cannot find alias arn: "+arn("none:alias"))
	_, err = b.UpdateAlias(ctx, functions.UpdateAliasRequest{Function: name("f"), Name: "alias"})
	check(err, "Alias not found: "+arn("f:alias"))
	_, err = b.UpdateFunctionCode(ctx, functions.UpdateFunctionCodeRequest{Function: name("none"), Code: code(t, "x")})
	check(err, "Function not found: "+arn("none"))
	_, err = b.UpdateFunctionConfiguration(ctx, functions.UpdateFunctionConfigurationRequest{Function: name("none")})
	check(err, "Function not found: "+arn("none"))
	_, err = b.PublishVersion(ctx, functions.PublishVersionRequest{Function: name("none")})
	check(err, "Function not found: "+arn("none"))
	_, err = b.PutFunctionConcurrency(ctx, name("none"), 1)
	check(err, "Function not found: "+arn("none"))
	_, err = b.ListTags(ctx, ref("none", ""))
	check(err, "Function not found: "+arn("none"))
	check(b.DeleteFunction(ctx, ref("none", "")), "Function not found: "+arn("none"))
	check(b.DeleteFunction(ctx, ref("none", "1")), "Function not found: "+arn("none"))
	other := lambent.FunctionRef{FunctionName: lambent.FunctionName{Account: "222222222222", Name: "f"}}
	if _, err = b.GetFunction(ctx, other); lambent.CodeOf(err) != lambent.NotFound {
		t.Errorf("another account's function: %v", err)
	}
}

func TestRevisionMismatch(t *testing.T) {
	b := newBench(t)
	b.create(t, "f")
	b.publish(t, "f")
	if _, err := b.CreateAlias(t.Context(), functions.CreateAliasRequest{Function: name("f"), Name: "a", Version: "1"}); err != nil {
		t.Fatal(err)
	}
	const message = "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve the latest Revision Id"
	_, err := b.UpdateFunctionCode(t.Context(), functions.UpdateFunctionCodeRequest{Function: name("f"), Code: code(t, "x"), RevisionID: "wrong"})
	refuse(t, err, lambent.PreconditionFailed, message)
	_, err = b.UpdateFunctionConfiguration(t.Context(), functions.UpdateFunctionConfigurationRequest{Function: name("f"), RevisionID: "wrong"})
	refuse(t, err, lambent.PreconditionFailed, message)
	_, err = b.PublishVersion(t.Context(), functions.PublishVersionRequest{Function: name("f"), RevisionID: "wrong"})
	refuse(t, err, lambent.PreconditionFailed, message)
	_, err = b.UpdateAlias(t.Context(), functions.UpdateAliasRequest{Function: name("f"), Name: "a", RevisionID: "wrong"})
	refuse(t, err, lambent.PreconditionFailed, message)
}
