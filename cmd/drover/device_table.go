package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// deviceSliced is shown as the state of a device whose slices are given out instead of it.
const deviceSliced = "sliced"

// deviceTable lists devices of many nodes.
func deviceTable(all []*fleetv1.DeviceInfo) *table {
	t := &table{
		head:  []string{"ID", "NODE", "INDEX", "VENDOR", "MODEL", "USE", "MEMORY", "TEMP", "HEALTH", "STATE", "HOLDER"},
		spare: []string{"VENDOR", "INDEX", "USE…", "HEALTH…", "MODEL", "TEMP", "MEMORY…", "NODE", "MEMORY", "USE"},
	}
	of := byID(all)
	for _, d := range all {
		v := d.GetDevice()
		t.add(text("%s", v.GetId()), text("%s", d.GetNode()), text("%s", of.index(v)), text("%s", v.GetVendor()), text("%s", modelText(v)),
			useCell(recent(d)), memoryCell(v, recent(d)), heatCell(recent(d)), healthCell(v), of.stateCell(d), text("%s", holderText(d)))
	}
	return t
}

// nodeDeviceTable lists the devices of one node.
func nodeDeviceTable(all []*fleetv1.DeviceInfo) *table {
	t := &table{
		head:  []string{"INDEX", "MODEL", "USE", "MEMORY", "TEMP", "HEALTH", "STATE", "HOLDER", "ID"},
		spare: []string{"ID", "USE…", "HEALTH…", "MODEL", "TEMP", "MEMORY…", "MEMORY", "USE"},
	}
	of := byID(all)
	for _, d := range all {
		v := d.GetDevice()
		t.add(text("%s", of.index(v)), text("%s", modelText(v)), useCell(recent(d)), memoryCell(v, recent(d)), heatCell(recent(d)),
			healthCell(v), of.stateCell(d), text("%s", holderText(d)), text("%s", v.GetId()))
	}
	return t
}

// family knows the devices that are listed together, for what a device's parent or slices say about it.
type family struct {
	device map[string]*fleetv1.Device
	sliced map[string]bool
}

func byID(all []*fleetv1.DeviceInfo) family {
	f := family{make(map[string]*fleetv1.Device), make(map[string]bool)}
	for _, d := range all {
		f.device[d.GetDevice().GetId()] = d.GetDevice()
		if p := d.GetDevice().GetParentId(); p != "" {
			f.sliced[p] = true
		}
	}
	return f
}

// index of a device on its node; of a slice behind its parent's: "3:0".
func (f family) index(v *fleetv1.Device) string {
	own := strconv.Itoa(int(v.GetIndex()))
	if p := f.device[v.GetParentId()]; p != nil {
		return strconv.Itoa(int(p.GetIndex())) + ":" + own
	}
	return own
}

func (f family) stateCell(d *fleetv1.DeviceInfo) cell {
	c := text("%s", d.GetState())
	switch {
	case d.GetState() == fleetv1.DeviceQuarantined:
		c.colour = red
	case d.GetState() == fleetv1.DeviceReclaiming:
		c.colour = yellow
	case f.sliced[d.GetDevice().GetId()]:
		c.text = deviceSliced
	}
	if d.GetCordoned() {
		c.text, c.colour = c.text+",cordoned", first(c.colour, yellow)
	}
	return c
}

// unusable counts the devices that nobody holds and that are given to nobody.
func unusable(all []*fleetv1.DeviceInfo) (n int64) {
	of := byID(all)
	for _, d := range all {
		v := d.GetDevice()
		out := d.GetCordoned() || v.GetHealth() != fleetv1.Healthy || v.GetAction() != "" && v.GetAction() != fleetv1.ActionObserve
		if d.GetState() == fleetv1.DeviceQuarantined || d.GetState() == fleetv1.DeviceFree && !of.sliced[v.GetId()] && out {
			n++
		}
	}
	return n
}

func modelText(v *fleetv1.Device) string {
	return strings.TrimSpace(v.GetModel() + " " + v.GetProfile())
}

// holderText names an instance as other commands take it.
func holderText(d *fleetv1.DeviceInfo) string {
	if p := d.GetProject(); p != "" && p != fleetv1.Default && d.GetInstanceName() != "" {
		return p + "/" + d.GetInstanceName()
	}
	return d.GetInstanceName()
}

// healthCell is a device's health with what it asks for.
func healthCell(v *fleetv1.Device) cell {
	c := stateCell(v.GetHealth())
	if v.GetAction() != "" {
		c.short, c.text = c.text, c.text+","+v.GetAction()
		if v.GetHealth() == fleetv1.Healthy {
			c.colour, c.short = yellow, ""
		}
	}
	return c
}

// recent is what a device measured last, as long as it can be measured: a table shows no times.
func recent(d *fleetv1.DeviceInfo) *fleetv1.DeviceSample {
	switch d.GetDevice().GetHealth() {
	case fleetv1.Lost, fleetv1.Unresponsive:
		return nil
	}
	return d.GetSample()
}

// useCell draws a device's utilisation; nothing when it isn't known.
func useCell(s *fleetv1.DeviceSample) cell {
	if s == nil || s.Utilisation == nil {
		return cell{}
	}
	const width = 10
	use := max(0, min(s.GetUtilisation(), 1))
	full := int(math.Round(use * width))
	percent := fmt.Sprintf("%3.0f%%", 100*use)
	return cell{text: fmt.Sprintf("[%s%s] %s", strings.Repeat("#", full), strings.Repeat(".", width-full), percent), short: percent}
}

// memoryCell is "12/80 GiB", for short "15%", or the size alone.
func memoryCell(v *fleetv1.Device, s *fleetv1.DeviceSample) cell {
	size := v.GetMemoryBytes()
	if s == nil || s.MemoryUsedBytes == nil {
		return text("%s", bytesText(size))
	}
	used := s.GetMemoryUsedBytes()
	c := text("%s", ofText(used, size))
	if size > 0 {
		c.short = fmt.Sprintf("%3.0f%%", 100*float64(used)/float64(size))
	}
	return c
}

func heatCell(s *fleetv1.DeviceSample) cell {
	if s == nil || s.TemperatureCelsius == nil {
		return cell{}
	}
	return text("%.0f °C", s.GetTemperatureCelsius())
}
