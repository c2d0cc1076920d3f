package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOnPCI(t *testing.T) {
	sysfs := t.TempDir()
	add := func(address, vendor, class string) {
		dir := filepath.Join(sysfs, "bus/pci/devices", address)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"vendor": vendor, "class": class} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(value+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(nvidia, ascend bool) {
		t.Helper()
		if n, a := onPCI(sysfs, "nvidia"), onPCI(sysfs, "ascend"); n != nvidia || a != ascend {
			t.Errorf("nvidia %v, ascend %v; want %v, %v", n, a, nvidia, ascend)
		}
	}
	check(false, false)
	add("0000:00:01.0", "0x19e5", "0x020000") // a network card of that vendor
	add("0000:00:02.0", "0x10de", "0x068000") // an NVSwitch
	check(false, false)
	add("0000:3b:00.0", "0x10de", "0x030200")
	check(true, false)
	add("0000:5e:00.0", "0x19e5", "0x120000")
	check(true, true)
}
