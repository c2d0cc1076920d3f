package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// linkKinds in the order of docs and legend, fast ones first: how a matrix spells them, and what they are.
var linkKinds = []struct{ kind, short, means string }{
	{"nvlink", "NV", "NVLink"},
	{"hccs", "HCCS", "HCCS"},
	{"hccs-sw", "HCCS_SW", "HCCS through a switch"},
	{"sio", "SIO", "between the dies of a chip"},
	{"ub", "UB", "unified bus"},
	{"pix", "PIX", "PCIe through one switch"},
	{"pxb", "PXB", "PCIe through several switches"},
	{"phb", "PHB", "PCIe through a host bridge"},
	{"sys", "SYS", "PCIe through the CPUs' interconnect"},
}

func kindRank(kind string) int {
	for i, k := range linkKinds {
		if k.kind == kind {
			return i
		}
	}
	return len(linkKinds)
}

// linkName is a cell of the matrix, such as NV18, and its line of the legend.
func linkName(l *fleetv1.DeviceLink) (name, means string) {
	name, means = strings.ToUpper(l.GetKind()), l.GetKind()
	if i := kindRank(l.GetKind()); i < len(linkKinds) {
		name, means = linkKinds[i].short, linkKinds[i].means
	}
	if l.GetCount() > 1 {
		return fmt.Sprintf("%s%d", name, l.GetCount()), fmt.Sprintf("%d × %s", l.GetCount(), means)
	}
	return name, means
}

// matrix is how the devices of one vendor on one node are linked.
type matrix struct {
	node, vendor string
	devices      []*fleetv1.Device // by index; slices have no links of their own
}

func matrices(all []*fleetv1.DeviceInfo) []matrix {
	var out []matrix
	for _, d := range all {
		v := d.GetDevice()
		if v.GetParentId() != "" {
			continue
		}
		at := slices.IndexFunc(out, func(m matrix) bool { return m.node == d.GetNode() && m.vendor == v.GetVendor() })
		if at < 0 {
			at = len(out)
			out = append(out, matrix{node: d.GetNode(), vendor: v.GetVendor()})
		}
		out[at].devices = append(out[at].devices, v)
	}
	for _, m := range out {
		slices.SortStableFunc(m.devices, func(x, y *fleetv1.Device) int { return cmp.Compare(x.GetIndex(), y.GetIndex()) })
	}
	return out
}

// linked tells whether any link of the devices is known.
func (m matrix) linked() bool {
	return slices.ContainsFunc(m.devices, func(v *fleetv1.Device) bool { return len(v.GetLinks()) > 0 })
}

// drawLinks draws the matrix of each node and vendor, with the devices' IDs, and one legend.
func (a *app) drawLinks(all []*fleetv1.DeviceInfo) error {
	legend := make(map[string]*fleetv1.DeviceLink)
	for i, m := range matrices(all) {
		if i > 0 {
			fmt.Fprintln(a.out)
		}
		fmt.Fprintf(a.out, "%s %s:\n", m.node, m.vendor)
		if err := a.drawMatrix(m, true, legend); err != nil {
			return err
		}
	}
	return a.drawLegend(legend)
}

// drawMatrix draws in as many blocks as the terminal needs, and notes the links that it has shown.
func (a *app) drawMatrix(m matrix, ids bool, legend map[string]*fleetv1.DeviceLink) error {
	label := cell{text: "", colour: faint}
	var columns [][]cell // head first
	for _, to := range m.devices {
		column := []cell{text("%d", to.GetIndex())}
		for _, from := range m.devices {
			column = append(column, linkCell(from, to, legend))
		}
		columns = append(columns, column)
	}
	numa, id := []cell{text("NUMA")}, []cell{text("ID")}
	labels := []cell{label}
	for _, v := range m.devices {
		node := cell{}
		if v.NumaNode != nil {
			node = text("%d", v.GetNumaNode())
		}
		numa, id = append(numa, node), append(id, text("%s", v.GetId()))
		labels = append(labels, text("%d", v.GetIndex()))
	}
	columns = append(columns, numa)
	if ids {
		columns = append(columns, id)
	}
	const indent = "  "
	width := 0
	if a.terminal {
		width, _ = a.terminalSize()
		width -= len(indent)
	}
	for i, block := range blocks(labels, columns, width) {
		if i > 0 {
			fmt.Fprintln(a.out)
		}
		if _, err := a.out.Write(block.render(indent, 0, a.colour())); err != nil {
			return err
		}
	}
	return nil
}

// linkCell is how one device reaches another.
func linkCell(from, to *fleetv1.Device, legend map[string]*fleetv1.DeviceLink) cell {
	if from == to {
		return cell{text: "X", colour: faint}
	}
	for _, l := range from.GetLinks() {
		if l.GetPeer() == to.GetId() {
			name, _ := linkName(l)
			legend[name] = l
			return text("%s", name)
		}
	}
	return cell{}
}

// blocks cuts columns, heads first, into tables of at most so many columns of a terminal, 0 for any number; each
// begins with the labels.
func blocks(labels []cell, columns [][]cell, width int) []*table {
	var out []*table
	for _, column := range columns {
		if len(out) > 0 {
			if with := out[len(out)-1].with(column); width == 0 || with.wide() <= width {
				out[len(out)-1] = with
				continue
			}
		}
		out = append(out, (&table{}).with(labels).with(column))
	}
	return out
}

// with answers the table with one more column, head first.
func (t *table) with(column []cell) *table {
	next := &table{head: append(slices.Clone(t.head), column[0].text)}
	for i, c := range column[1:] {
		var row []cell
		if len(t.rows) > 0 {
			row = slices.Clone(t.rows[i])
		}
		next.rows = append(next.rows, append(row, c))
	}
	return next
}

// drawLegend explains the links that were shown.
func (a *app) drawLegend(legend map[string]*fleetv1.DeviceLink) error {
	if len(legend) == 0 {
		_, err := fmt.Fprintln(a.err, "no links known")
		return err
	}
	names := make([]string, 0, len(legend))
	wide := 0
	for name := range legend {
		names, wide = append(names, name), max(wide, len([]rune(name)))
	}
	slices.SortFunc(names, func(x, y string) int {
		return cmp.Or(cmp.Compare(kindRank(legend[x].GetKind()), kindRank(legend[y].GetKind())), cmp.Compare(legend[y].GetCount(), legend[x].GetCount()), cmp.Compare(x, y))
	})
	fmt.Fprintln(a.out)
	for _, name := range names {
		_, means := linkName(legend[name])
		fmt.Fprintf(a.out, "  %-*s  %s\n", wide, name, means)
	}
	return nil
}
