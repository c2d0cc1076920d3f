package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// table is rows of cells under a head, drawn with aligned columns. On a terminal that it is too wide for, the columns in
// spare go, one after the other until it fits; of one named "USE…" the cells get their short form instead. Then the last
// column is wrapped.
type table struct {
	head  []string
	rows  [][]cell
	spare []string
}

// cell is text in one of the colours of paint, and what stands for it where room is scarce, if anything does.
type cell struct {
	text   string
	colour string
	short  string
}

const (
	gap      = 2  // between columns
	leastEnd = 24 // columns of text that a wrapped last column needs
)

func text(format string, args ...any) cell { return cell{text: harmless(fmt.Sprintf(format, args...))} }

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// drawTable draws for the app's output, or says that there is nothing.
func (a *app) drawTable(t *table, nothing string) error {
	if len(t.rows) == 0 {
		_, err := fmt.Fprintln(a.err, nothing)
		return err
	}
	return a.draw(t, "")
}

// draw writes a table, every line indented, and tells what a terminal had no room for.
func (a *app) draw(t *table, indent string) error {
	width := 0
	if a.terminal {
		width, _ = a.terminalSize()
		width -= len(indent)
	}
	fitted, hidden := t.fit(width)
	if _, err := a.out.Write(fitted.render(indent, width, a.colour())); err != nil {
		return err
	}
	if len(hidden) > 0 {
		note := cell{text: fmt.Sprintf("%sno room for %s", indent, strings.Join(hidden, ", ")), colour: faint}
		fmt.Fprintln(a.err, paint(note, a.colour()))
	}
	return nil
}

// fit answers the table as it fits so many columns, 0 for any number, and the names of those that it goes without.
func (t *table) fit(width int) (fitted *table, hidden []string) {
	if width == 0 || t.wide() <= width {
		return t, nil
	}
	fitted = &table{head: slices.Clone(t.head)}
	for _, row := range t.rows {
		fitted.rows = append(fitted.rows, slices.Clone(row))
	}
	for _, step := range t.spare {
		name, shorten := strings.CutSuffix(step, "…")
		at := slices.Index(fitted.head, name)
		switch {
		case at < 0 || fitted.wide() <= width:
		case shorten:
			fitted.shorten(at)
		default:
			fitted.drop(at)
			hidden = append(hidden, name)
		}
	}
	return fitted, hidden
}

func (t *table) shorten(column int) {
	for _, row := range t.rows {
		row[column].text = first(row[column].short, row[column].text)
	}
}

func (t *table) drop(column int) {
	t.head = slices.Delete(t.head, column, column+1)
	for i, row := range t.rows {
		t.rows[i] = slices.Delete(row, column, column+1)
	}
}

func (t *table) widths() []int {
	widths := make([]int, len(t.head))
	for i, h := range t.head {
		widths[i] = len([]rune(h))
	}
	for _, row := range t.rows {
		for i, c := range row {
			widths[i] = max(widths[i], len([]rune(orDash(c.text))))
		}
	}
	return widths
}

// wide is how many columns of a terminal the table takes when its last column is wrapped.
func (t *table) wide() int {
	widths := t.widths()
	last := len(widths) - 1
	word := 0
	for _, row := range t.rows {
		for w := range strings.SplitSeq(row[last].text, " ") {
			word = max(word, len([]rune(w)))
		}
	}
	n := gap*last + max(word, min(widths[last], leastEnd))
	for _, w := range widths[:last] {
		n += w
	}
	return n
}

func (t *table) render(indent string, width int, colour bool) []byte {
	widths := t.widths()
	last := len(widths) - 1
	end := 0 // where the last column begins
	for _, w := range widths[:last] {
		end += w + gap
	}
	var b bytes.Buffer
	line := func(row []cell) {
		b.WriteString(indent)
		for i, c := range row[:last] {
			c.text = orDash(c.text)
			fmt.Fprintf(&b, "%s%*s", paint(c, colour), widths[i]-len([]rune(c.text))+gap, "")
		}
		c := row[last]
		for i, part := range wrap(orDash(c.text), width-end) {
			if i > 0 {
				fmt.Fprintf(&b, "%s%*s", indent, end, "")
			}
			b.WriteString(paint(cell{text: part, colour: c.colour}, colour) + "\n")
		}
	}
	head := make([]cell, len(t.head))
	for i, h := range t.head {
		head[i] = text("%s", h)
		if h == "" {
			head[i].text = " " // no dash for it
		}
	}
	line(head)
	for _, row := range t.rows {
		line(row)
	}
	return b.Bytes()
}

// wrap breaks text between words into lines of so many columns; where that is too few to read, it doesn't.
func wrap(text string, columns int) []string {
	if columns < leastEnd || len([]rune(text)) <= columns {
		return []string{text}
	}
	var lines []string
	line, used := "", 0
	for word := range strings.SplitSeq(text, " ") {
		n := len([]rune(word))
		if used > 0 && used+1+n > columns {
			lines = append(lines, line)
			line, used = "", 0
		}
		if used > 0 {
			line, used = line+" ", used+1
		}
		line, used = line+word, used+n
	}
	return append(lines, line)
}
