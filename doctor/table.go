package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Table prints the report for people. Advice stands below the line that it is for.
func (r *Report) Table(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "CHECK\tRESULT\tNEEDED FOR\tSEEN")
	for _, c := range r.Checks {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", c.Name, c.Result, uses(c.For), oneLine(c.Seen))
		if c.Advice != "" {
			fmt.Fprintf(table, "\t\t\t-> %s\n", oneLine(c.Advice))
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	table = tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, u := range r.Usable {
		state, why := "usable", u.Note
		if !u.Usable {
			state, why = "not usable", "lacks "+strings.Join(u.Lacks, ", ")
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", u.Use, state, why)
	}
	return table.Flush()
}

// JSON prints the report for programs.
func (r *Report) JSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

func uses(all []Use) string {
	names := make([]string, len(all))
	for i, use := range all {
		names[i] = string(use)
	}
	return strings.Join(names, ", ")
}

// oneLine keeps what programs said from breaking the table.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
