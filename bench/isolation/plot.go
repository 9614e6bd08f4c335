package isolation

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// bar is one value of a panel.
type bar struct {
	label string
	value float64 // above 0
	kind  int     // colours
}

// panel is a diagram of horizontal bars on a logarithmic scale.
type panel struct {
	title string
	unit  string
	bars  []bar
}

// Measures of the drawing, in pixels.
const (
	plotWidth   = 720
	labelWidth  = 210
	valueWidth  = 90
	barHeight   = 18
	barDistance = 24
	titleHeight = 44
)

// SVG draws start-up times and memory, readable on light and dark pages.
func (r *Result) SVG() string {
	starts := panel{title: "Time to the first instruction of user code, p50", unit: "ms"}
	memory := panel{title: "Memory of an idle sandbox", unit: "MiB"}
	starts.bars = append(starts.bars, bar{"process", milliseconds(r.Plain.Smallest), 0})
	memory.bars = append(memory.bars, bar{"process", float64(r.Plain.Idle.HostBytes) / (1 << 20), 0})
	for _, m := range r.All {
		if len(m.Missing) > 0 {
			continue
		}
		starts.bars = append(starts.bars, bar{m.Name + ", ready-made", milliseconds(m.Smallest.FromReady), 1},
			bar{m.Name + ", from scratch", milliseconds(m.Smallest.FromScratch), 2})
		memory.bars = append(memory.bars, bar{m.Name, float64(m.Idle.HostBytes) / (1 << 20), 1})
	}
	return draw([]panel{starts, memory})
}

func milliseconds(q Quantiles) float64 { return q.P50.Seconds() * 1000 }

// draw puts panels below each other.
func draw(panels []panel) string {
	var body strings.Builder
	y := 0
	for _, p := range panels {
		y = p.draw(&body, y)
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="13">
<style>text { fill: #24292f } .grid { stroke: #8886 } .k0 { fill: #8c959f } .k1 { fill: #2f81d7 } .k2 { fill: #bf6a02 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .k1 { fill: #58a6ff } .k2 { fill: #f0883e } }</style>
%s</svg>
`, plotWidth, y+8, body.String())
}

// decades returns the powers of ten around the bars.
func (p panel) decades() (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, b := range p.bars {
		if b.value > 0 {
			low, high = math.Min(low, math.Floor(math.Log10(b.value))), math.Max(high, math.Ceil(math.Log10(b.value)))
		}
	}
	if low > high {
		return 0, 1
	}
	return low, math.Max(high, low+1)
}

// draw writes the panel from a height on, and returns where it ends.
func (p panel) draw(out *strings.Builder, top int) int {
	low, high := p.decades()
	const width = plotWidth - labelWidth - valueWidth
	at := func(value float64) float64 { return math.Max(0, (math.Log10(value)-low)/(high-low)) * width }
	bottom := top + titleHeight + len(p.bars)*barDistance
	fmt.Fprintf(out, `<text x="8" y="%d" font-weight="600">%s (%s, logarithmic)</text>`+"\n", top+22, html.EscapeString(p.title), p.unit)
	for decade := low; decade <= high; decade++ {
		x := labelWidth + at(math.Pow(10, decade))
		fmt.Fprintf(out, `<line class="grid" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/><text x="%.1f" y="%d" text-anchor="middle" font-size="11">%s</text>`+"\n",
			x, x, top+titleHeight-4, bottom, x, bottom+14, number(math.Pow(10, decade)))
	}
	for i, b := range p.bars {
		y := top + titleHeight + i*barDistance
		length := 0.0
		if b.value > 0 {
			length = math.Max(2, at(b.value))
		}
		fmt.Fprintf(out, `<text x="%d" y="%d" text-anchor="end">%s</text><rect class="k%d" x="%d" y="%d" width="%.1f" height="%d" rx="2"/><text x="%.1f" y="%d">%s</text>`+"\n",
			labelWidth-8, y+14, html.EscapeString(b.label), b.kind, labelWidth, y, length, barHeight, labelWidth+length+6, y+14, number(b.value))
	}
	return bottom + 24
}

// number writes a value with up to three digits.
func number(value float64) string { return fmt.Sprintf("%.3g", value) }
