package attach

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"tags.cncf.io/container-device-interface/pkg/cdi"
	cdispecs "tags.cncf.io/container-device-interface/specs-go"

	"github.com/drover-fleet/drover/devices"
)

const (
	ascendKind = "ascend.com/npu"
	ascendFile = "ascend.json"
	ascendLibs = "/usr/local/Ascend/driver/lib64"
)

// ascend answers the edits for NPUs.
func (a *Attacher) ascend(list, all []devices.Device) (*cdi.ContainerEdits, error) {
	own := ownership{pattern: regexp.MustCompile(`^/dev/v?davinci[0-9]+$`), renew: "remove it, and one is made for each node by itself"}
	var targets []target
	for _, d := range list {
		node, err := ascendNode(d)
		if err != nil {
			return nil, err
		}
		own.given = append(own.given, node)
		targets = append(targets, target{id: d.ID, node: node})
	}
	if edits, lacks, err := a.resolve(a.host, ascendKind, targets, own); err != nil || lacks == "" {
		return edits, err
	}
	if err := a.write(ascendFile, a.ascendSpec(list, all)); err != nil {
		return nil, err
	}
	own.renew = ""
	edits, lacks, err := a.resolve(a.own, ascendKind, targets, own)
	if lacks != "" {
		err = fmt.Errorf("the CDI specification of our own doesn't name the Ascend device %s (searched %s)", lacks, a.own.searched())
	}
	return edits, err
}

func ascendNode(d devices.Device) (string, error) {
	switch {
	case d.ParentID != "":
		return "", fmt.Errorf("device %s is a slice of an Ascend device: only whole ones can be attached", d.ID)
	case d.PhysicalID == nil:
		return "", fmt.Errorf("device %s: the driver doesn't tell its physical ID, which names its node", d.ID)
	}
	return fmt.Sprintf("/dev/davinci%d", *d.PhysicalID), nil
}

// ascendSpec says what Huawei's guides for containers on Ascend hosts ask for: nodes that must exist, and files of the driver
// that only some versions have.
func (a *Attacher) ascendSpec(list, all []devices.Device) *cdispecs.Spec {
	spec := &cdispecs.Spec{Version: "0.6.0", Kind: ascendKind}
	node := func(path string) *cdispecs.DeviceNode {
		return &cdispecs.DeviceNode{Path: path, HostPath: filepath.Join(a.cfg.Root, path), Permissions: "rw"}
	}
	for _, name := range []string{"davinci_manager", "devmm_svm", "hisi_hdc"} {
		spec.ContainerEdits.DeviceNodes = append(spec.ContainerEdits.DeviceNodes, node("/dev/"+name))
	}
	for _, path := range []string{
		ascendLibs, "/usr/local/Ascend/driver/include", "/usr/local/Ascend/driver/tools", "/usr/local/Ascend/driver/version.info",
		"/usr/local/dcmi", "/usr/local/bin/npu-smi", "/etc/ascend_install.info", "/etc/hccn.conf",
	} {
		if source := filepath.Join(a.cfg.Root, path); exists(source) {
			spec.ContainerEdits.Mounts = append(spec.ContainerEdits.Mounts, &cdispecs.Mount{
				HostPath: source, ContainerPath: path, Options: []string{"rbind", "rprivate", "nosuid", "nodev", "ro"},
			})
		}
	}
	if exists(filepath.Join(a.cfg.Root, ascendLibs)) {
		libs := []string{ascendLibs, ascendLibs + "/common", ascendLibs + "/driver"}
		spec.ContainerEdits.Env = []string{libraryPath + "=" + strings.Join(libs, ":")}
	}
	add := func(d devices.Device, asked bool) {
		path, err := ascendNode(d)
		if err != nil || !asked && !exists(filepath.Join(a.cfg.Root, path)) {
			return // nobody can have it now
		}
		spec.Devices = append(spec.Devices, cdispecs.Device{
			Name: strconv.Itoa(*d.PhysicalID), ContainerEdits: cdispecs.ContainerEdits{DeviceNodes: []*cdispecs.DeviceNode{node(path)}},
		})
	}
	asked := map[string]bool{}
	for _, d := range list {
		asked[d.ID] = true
	}
	for _, d := range all {
		if d.Vendor == "ascend" {
			add(d, asked[d.ID])
		}
	}
	return spec
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
