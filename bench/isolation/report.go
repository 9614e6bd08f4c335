package isolation

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// The markers of the sections that the commands write into a page.
const (
	IsolationMarker  = "<!-- bench isolation -->"
	NeighboursMarker = "<!-- bench neighbours -->"
)

// ReplaceSection puts text between the two occurrences of a marker in a file. A file without them gets them at its end, with the
// text; one that does not exist is made.
func ReplaceSection(path, marker, text string) error {
	page, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	replaced, err := replaceSection(string(page), marker, text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(replaced), 0o644) //nolint:gosec // a page for everybody
}

func replaceSection(page, marker, text string) (string, error) {
	section := marker + "\n\n" + strings.TrimSpace(text) + "\n\n" + marker
	switch parts := strings.Split(page, marker); len(parts) {
	case 1:
		if page != "" {
			page = strings.TrimRight(page, "\n") + "\n\n"
		}
		return page + section + "\n", nil
	case 3:
		return parts[0] + section + parts[2], nil
	default:
		return "", fmt.Errorf("the marker %s is there %d times, not twice", marker, len(parts)-1)
	}
}

// duration writes one with two or three digits.
func duration(d time.Duration) string {
	switch ms := d.Seconds() * 1000; {
	case d == 0:
		return "-"
	case ms < 10:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f ms", ms)
	default:
		return fmt.Sprintf("%.0f ms", ms)
	}
}

func both(q Quantiles) string { return duration(q.P50) + " / " + duration(q.P99) }

func mebibytes(bytes int64) string { return fmt.Sprintf("%.2f MiB", float64(bytes)/(1<<20)) }

// percent is a rate beside that of plain processes.
func percent(rate, plain float64) string {
	if plain == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f %%", 100*rate/plain)
}

// column is what the table says of one candidate, or of plain processes.
type column struct {
	name        string
	values      []string
	missing     string
	flexibility string
}

// rowNames are the lines of the table; each column has a value for each of them.
func rowNames() []string {
	return []string{
		"from a ready-made sandbox, p50 / p99", "the same beside plain fork and exec in turn with it", "from scratch, p50 / p99",
		"the same two for a program in Go, p50", "making / destroying one, p50", "made and destroyed per second",
		"idle at once", "memory of an idle one", "of that in processes",
		"hashing", "getppid", "read of one byte of /dev/zero", "64 MiB written to /tmp and synced", "64 MiB read from it", "Runtime API: connect, 1 KiB there and back, p50",
	}
}

func (r *Result) plainColumn() column {
	p := r.Plain
	return column{name: "process", flexibility: "everything", values: []string{
		both(p.Smallest), "1", "-", duration(p.Go.P50), "-", fmt.Sprintf("%.0f", p.PerSecond),
		fmt.Sprint(p.Idle.Count), mebibytes(p.Idle.HostBytes), mebibytes(p.Idle.ProcessBytes),
		"100 %", fmt.Sprintf("%.2f M/s", p.Performance.GetPPID/1e6), fmt.Sprintf("%.2f M/s", p.Performance.ReadZero/1e6),
		fmt.Sprintf("%.0f MB/s", p.Performance.WriteFile/1e6), fmt.Sprintf("%.0f MB/s", p.Performance.ReadFile/1e6), duration(p.Performance.RuntimeAPI),
	}}
}

func columnOf(m Measured) column {
	if len(m.Missing) > 0 {
		return column{name: m.Name, flexibility: m.Flexibility, missing: strings.Join(m.Missing, "; ")}
	}
	p, plain := m.Performance, m.Beside
	return column{name: m.Name, flexibility: m.Flexibility, values: []string{
		both(m.Smallest.FromReady), fmt.Sprintf("%.1f", m.Smallest.Ratio()), both(m.Smallest.FromScratch),
		duration(m.Go.FromReady.P50) + ", " + duration(m.Go.FromScratch.P50),
		duration(m.Smallest.Create.P50) + " / " + duration(m.Smallest.Destroy.P50), fmt.Sprintf("%.0f", m.PerSecond),
		fmt.Sprint(m.Idle.Count), mebibytes(m.Idle.HostBytes), mebibytes(m.Idle.ProcessBytes),
		percent(p.CPU, plain.CPU), percent(p.GetPPID, plain.GetPPID), percent(p.ReadZero, plain.ReadZero),
		percent(p.WriteFile, plain.WriteFile), percent(p.ReadFile, plain.ReadFile), duration(p.RuntimeAPI),
	}}
}

// Markdown is the table for a page, without a heading.
func (r *Result) Markdown(plot string) string {
	columns := []column{r.plainColumn()}
	var sentences []string // below the table
	for _, m := range r.All {
		c := columnOf(m)
		if c.missing != "" {
			sentences = append(sentences, fmt.Sprintf("`%s` was not measured: %s.", c.name, strings.TrimSuffix(c.missing, ".")))
			continue
		}
		columns = append(columns, c)
		if m.Limits != "" {
			sentences = append(sentences, fmt.Sprintf("`%s`: %s", c.name, m.Limits))
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "Measured by `lambent bench isolation` on %s: %s. Starts are from the call to the first byte that the program "+
		"writes with its first instructions, %d of each kind; each is taken in turn with a plain one.\n\n", r.When.Format(time.DateOnly), r.Host, r.Starts)
	head, line := "|", "|---|"
	for _, c := range columns {
		head += " | " + c.name
		line += "---|"
	}
	fmt.Fprintf(&out, "%s |\n%s\n", head, line)
	for i, name := range rowNames() {
		fmt.Fprintf(&out, "| %s", name)
		for _, c := range columns {
			fmt.Fprintf(&out, " | %s", c.values[i])
		}
		out.WriteString(" |\n")
	}
	out.WriteString("| flexibility")
	for _, c := range columns {
		fmt.Fprintf(&out, " | %s", c.flexibility)
	}
	out.WriteString(" |\n")
	for _, sentence := range sentences {
		fmt.Fprintf(&out, "\n%s\n", sentence)
	}
	if plot != "" {
		fmt.Fprintf(&out, "\n![start-up time and memory of a sandbox, by driver](%s)\n", plot)
	}
	return out.String()
}

// NeighboursMarkdown is the table of the neighbours, for a page, without a heading.
func NeighboursMarkdown(all []Neighbours) string {
	var out strings.Builder
	fmt.Fprintf(&out, "Measured by `lambent bench neighbours` on %s. The victim answers requests of 1 KiB over one connection, with about a "+
		"millisecond of work for each. p50 / p99 while the attacker is frozen, and while it is not, in turn.\n\n| driver | the neighbour burns | alone | beside it | p99 grows |\n|---|---|---|---|---|\n", host())
	for _, one := range all {
		if len(one.Missing) > 0 {
			fmt.Fprintf(&out, "| %s | not measured: %s | | | |\n", one.Name, strings.Join(one.Missing, "; "))
		}
		for _, n := range one.All {
			fmt.Fprintf(&out, "| %s | %s | %s | %s | %.1fx |\n", one.Name, n.Attack, both(n.Alone), both(n.Attacked), n.Attacked.P99.Seconds()/n.Alone.P99.Seconds())
		}
	}
	return out.String()
}
