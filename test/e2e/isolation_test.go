package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"golang.org/x/sys/unix"

	"lambent"
)

// isolated is a function that says what kernel it sees, or misbehaves.
const isolated = `
import os, time
def handler(event, context):
    if event == "crash": os._exit(3)
    if event == "sleep": time.sleep(60)
    if event == "memory": return len(bytearray(b"x" * (1 << 30)))
    open("/tmp/note", "a").write("x")
    return [os.uname().release, open("/tmp/note").read(), os.getuid() != 0]
`

// under makes a function run under an isolation.
func under(isolation lambent.Isolation, set func(*lambda.CreateFunctionInput)) func(*lambda.CreateFunctionInput) {
	return func(in *lambda.CreateFunctionInput) {
		set(in)
		in.Tags = map[string]string{lambent.IsolationTag: string(isolation)}
	}
}

// seconds are long enough for a function, or its failure, under an isolation: microVMs are emulated where there is no KVM.
func seconds(isolation lambent.Isolation) int32 {
	if isolation == lambent.IsolationMicroVM {
		return 20
	}
	return 8
}

// A function runs under the kernel that its tag asks for, its failures are Lambda's under each, and it moves when the tag changes.
func TestIsolations(t *testing.T) {
	s := start(t, t.TempDir())
	python, _ := interpreters(t, s)
	for _, isolation := range lambent.Isolations() {
		t.Run(string(isolation), func(t *testing.T) {
			name := "under-" + string(isolation)
			s.function(name, under(isolation, func(in *lambda.CreateFunctionInput) {
				source(python, "x.py", "x.handler", isolated)(in)
				in.Timeout = aws.Int32(seconds(isolation))
			}))
			if kernel, note := s.kernel(name); !rightKernel(t, isolation, kernel) || note != "x" {
				t.Errorf("it ran on kernel %q, with the note %q", kernel, note)
			}
			if _, note := s.kernel(name); note != "xx" {
				t.Errorf("its second invoke found the note %q: it had another sandbox", note)
			}
			failures := map[string]string{"crash": "Runtime.ExitError", "sleep": "Task timed out", "memory": "Runtime.OutOfMemory"}
			for event, want := range failures {
				out := s.invoke(name, `"`+event+`"`)
				// An emulated machine may not get as far as its limit in time.
				late := isolation == lambent.IsolationMicroVM && strings.Contains(string(out.Payload), failures["sleep"])
				if out.FunctionError == nil || !strings.Contains(string(out.Payload), want) && !late {
					t.Errorf("%s: %v, %s", event, out.FunctionError, out.Payload)
				}
			}
			if kernel, _ := s.kernel(name); !rightKernel(t, isolation, kernel) {
				t.Errorf("after its failures it ran on kernel %q", kernel)
			}
		})
	}
	t.Run("tag changes", func(t *testing.T) {
		fn, err := s.client.GetFunctionConfiguration(t.Context(), &lambda.GetFunctionConfigurationInput{FunctionName: aws.String("under-native")})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.client.TagResource(t.Context(), &lambda.TagResourceInput{Resource: fn.FunctionArn,
			Tags: map[string]string{lambent.IsolationTag: "gvisor"}})
		if err != nil {
			t.Fatal(err)
		}
		if kernel, _ := s.kernel("under-native"); !rightKernel(t, lambent.IsolationGVisor, kernel) {
			t.Errorf("afterwards it ran on kernel %q", kernel)
		}
	})
}

// What is weaker than the region allows is refused, as is what there is not.
func TestLeastIsolation(t *testing.T) {
	s := start(t, t.TempDir(), "--isolation", "gvisor")
	python, _ := interpreters(t, s)
	s.function("usual", func(in *lambda.CreateFunctionInput) { source(python, "x.py", "x.handler", isolated)(in) })
	if kernel, _ := s.kernel("usual"); !rightKernel(t, lambent.IsolationGVisor, kernel) {
		t.Errorf("it ran on kernel %q", kernel)
	}
	for tag, want := range map[string]string{"native": "isolates less than", "docker": "not an isolation"} {
		in := &lambda.CreateFunctionInput{FunctionName: aws.String("refused"), Role: aws.String("arn:aws:iam::" + account + ":role/e2e")}
		under(lambent.Isolation(tag), source(python, "x.py", "x.handler", isolated))(in)
		if _, err := s.client.CreateFunction(t.Context(), in); err == nil || !strings.Contains(err.Error(), "InvalidParameterValueException") ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", tag, err)
		}
	}
}

// kernel invokes a function of isolated, and returns what it saw.
func (s *server) kernel(name string) (kernel, note string) {
	s.t.Helper()
	out := s.invoke(name, `"look"`)
	var answer []any
	if err := json.Unmarshal(out.Payload, &answer); err != nil || len(answer) != 3 || answer[2] != true {
		s.t.Errorf("%s answered %s", name, out.Payload)
		return "", ""
	}
	kernel, _ = answer[0].(string)
	note, _ = answer[1].(string)
	return kernel, note
}

// rightKernel tells whether a kernel is that of an isolation: the host's own, gVisor's, or that of a guest.
func rightKernel(t *testing.T, isolation lambent.Isolation, kernel string) bool {
	t.Helper()
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		t.Fatal(err)
	}
	switch isolation {
	case lambent.IsolationNative:
		return kernel == unix.ByteSliceToString(host.Release[:])
	case lambent.IsolationGVisor:
		return strings.HasSuffix(kernel, "gvisor")
	default:
		return kernel != "" && kernel != unix.ByteSliceToString(host.Release[:]) && !strings.HasSuffix(kernel, "gvisor")
	}
}
