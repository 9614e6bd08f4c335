package sandboxtest_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"lambent/sandbox/sandboxtest/probe/hostile"
)

var update = flag.Bool("update", false, "write the table of attempts into docs/isolation.md")

// TestDocumentedAttempts checks that the documentation's table is the one that the suite goes by.
func TestDocumentedAttempts(t *testing.T) {
	const path, begin, end = "../../docs/isolation.md", "<!-- The table is written by: go test ./sandbox/sandboxtest -run Documented -update -->\n",
		"<!-- The end of the table. -->\n"
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), begin)
	if !ok {
		t.Fatalf("%s has no line %q", path, begin)
	}
	_, after, ok := strings.Cut(rest, end)
	if !ok {
		t.Fatalf("%s has no line %q", path, end)
	}
	want := before + begin + attemptTable() + end + after
	if want == string(page) {
		return
	}
	if !*update {
		t.Fatalf("%s is not what the attempts are: run go test ./sandbox/sandboxtest -run Documented -update", path)
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestAttemptsAreDescribed checks the table itself.
func TestAttemptsAreDescribed(t *testing.T) {
	seen := map[string]bool{}
	for _, attempt := range hostile.Attempts() {
		if seen[attempt.Name] || attempt.Name == "" || attempt.Tries == "" || attempt.Layer == "" {
			t.Errorf("%q is there twice, or not described: %+v", attempt.Name, attempt)
		}
		seen[attempt.Name] = true
		if (attempt.Proof == hostile.Nowhere) != (attempt.Unproven != "") {
			t.Errorf("%s: Unproven has to say why, and only then: %q", attempt.Name, attempt.Unproven)
		}
	}
	if len(seen) < 60 {
		t.Errorf("there are %d attempts only", len(seen))
	}
}

func attemptTable() string {
	var b strings.Builder
	places := map[hostile.Proof]string{hostile.Namespace: "namespaces", hostile.Guest: "guest", hostile.Nowhere: "-"}
	total := len(hostile.Archives())
	notes := ""
	for _, group := range hostile.Groups() {
		total += len(group.Attempts)
		fmt.Fprintf(&b, "\n**%s**\n\n| attempt | it tries to | native | gvisor | microvm | succeeds in |\n|---|---|---|---|---|---|\n", group.Title)
		for _, attempt := range group.Attempts {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", attempt.Name, attempt.Tries, attempt.Stops("native"), attempt.Stops("gvisor"),
				attempt.Stops("microvm"), places[attempt.Proof])
			if attempt.Proof == hostile.Nowhere {
				notes += fmt.Sprintf("- `%s`: %s.\n", attempt.Name, attempt.Unproven)
			}
		}
	}
	fmt.Fprint(&b, "\n**Code and layers, as they are unpacked**\n\n| attempt | it tries to | all drivers | succeeds in |\n|---|---|---|---|\n")
	for _, archive := range hostile.Archives() {
		fmt.Fprintf(&b, "| `%s` | %s | the code cache opens every path below one open directory | an unpacker that trusts names |\n", archive.Name,
			archive.Tries)
	}
	return fmt.Sprintf("\nThere are %d.\n", total) + b.String() + "\nThose that succeed nowhere:\n\n" + notes + "\n"
}
