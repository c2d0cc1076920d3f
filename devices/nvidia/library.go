//go:build cgo && linux

package nvidia

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// defaultLibrary is the name under which drivers install NVML, found as the system's loader finds it.
const defaultLibrary = "libnvidia-ml.so.1"

// errNoDriver says that this host has no NVIDIA driver that is at work.
var errNoDriver = errors.New("no NVIDIA driver")

// library is a loaded, initialised NVML.
type library struct {
	nvml.Interface
	dl *dl.DynamicLibrary

	mu   sync.Mutex
	have map[call]bool
}

// openLibrary loads and initialises NVML. The error is errNoDriver if there is none.
func openLibrary(path string) (*library, error) {
	// Everything below is bound lazily, and globally as go-nvml's calls need it.
	handle := dl.New(path, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
	if err := handle.Open(); err != nil {
		if strings.HasPrefix(err.Error(), path+":") && strings.Contains(err.Error(), "No such file or directory") {
			return nil, fmt.Errorf("%w: %w", errNoDriver, err)
		}
		return nil, fmt.Errorf("load NVML: %w", err)
	}
	l := &library{Interface: nvml.New(nvml.WithLibraryPath(path)), dl: handle, have: map[call]bool{}}
	for _, c := range necessary() {
		if !l.has(c) {
			return nil, errors.Join(fmt.Errorf("load NVML: %s has no %s", path, c), handle.Close())
		}
	}
	if ret := l.Init(); ret != nvml.SUCCESS {
		err := fmt.Errorf("initialise NVML: %w", answer(ret))
		if ret == nvml.ERROR_DRIVER_NOT_LOADED {
			err = fmt.Errorf("%w: %w", errNoDriver, err)
		}
		return nil, errors.Join(err, handle.Close())
	}
	return l, nil
}

// has says whether the loaded library provides a call.
func (l *library) has(c call) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	have, known := l.have[c]
	if known {
		return have
	}
	for _, symbol := range c.symbols() {
		if l.dl.Lookup(symbol) == nil {
			have = true
			break
		}
	}
	l.have[c] = have
	return have
}

// close gives NVML back. A library that was called stays mapped.
func (l *library) close() error {
	var errs []error
	if ret := l.Shutdown(); ret != nvml.SUCCESS {
		errs = append(errs, fmt.Errorf("shut NVML down: %w", answer(ret)))
	}
	return errors.Join(append(errs, l.dl.Close())...)
}

// answer is what NVML returned, as an error. nvml.Return's own text calls a symbol that may be missing.
type answer nvml.Return

func (a answer) Error() string {
	words := map[nvml.Return]string{
		nvml.ERROR_UNINITIALIZED:             "NVML is not initialised",
		nvml.ERROR_INVALID_ARGUMENT:          "invalid argument",
		nvml.ERROR_NOT_SUPPORTED:             "not supported",
		nvml.ERROR_NO_PERMISSION:             "no permission",
		nvml.ERROR_NOT_FOUND:                 "not found",
		nvml.ERROR_INSUFFICIENT_SIZE:         "more entries than are believable",
		nvml.ERROR_INSUFFICIENT_POWER:        "a power cable is not attached",
		nvml.ERROR_DRIVER_NOT_LOADED:         "the driver is not loaded",
		nvml.ERROR_TIMEOUT:                   "the driver timed out",
		nvml.ERROR_IRQ_ISSUE:                 "the kernel found an interrupt issue",
		nvml.ERROR_LIBRARY_NOT_FOUND:         "the library could not be loaded",
		nvml.ERROR_FUNCTION_NOT_FOUND:        "the driver does not know the function",
		nvml.ERROR_CORRUPTED_INFOROM:         "the infoROM is corrupted",
		nvml.ERROR_GPU_IS_LOST:               "the GPU is lost: it fell off the bus or is otherwise inaccessible",
		nvml.ERROR_RESET_REQUIRED:            "the GPU requires a reset",
		nvml.ERROR_OPERATING_SYSTEM:          "the driver is blocked by the operating system",
		nvml.ERROR_LIB_RM_VERSION_MISMATCH:   "the versions of library and kernel module differ",
		nvml.ERROR_IN_USE:                    "the GPU is in use",
		nvml.ERROR_MEMORY:                    "out of memory",
		nvml.ERROR_NO_DATA:                   "no data",
		nvml.ERROR_ARGUMENT_VERSION_MISMATCH: "the driver does not know this version of the call",
		nvml.ERROR_UNKNOWN:                   "unknown error of the driver",
	}
	if w := words[nvml.Return(a)]; w != "" {
		return w
	}
	return fmt.Sprintf("NVML error %d", int32(a))
}

// asker makes calls about one device and remembers that it is lost or must be reset.
type asker struct {
	lib *library
	bad nvml.Return // SUCCESS, ERROR_GPU_IS_LOST or ERROR_RESET_REQUIRED
}

func (a *asker) note(ret nvml.Return) {
	if ret == nvml.ERROR_GPU_IS_LOST || ret == nvml.ERROR_RESET_REQUIRED && a.bad == nvml.SUCCESS {
		a.bad = ret
	}
}

// ask makes a call if the library has it and answers nil for everything but success. A lost device isn't
// asked any more.
func ask[T any](a *asker, c call, f func() (T, nvml.Return)) *T {
	if a.bad == nvml.ERROR_GPU_IS_LOST || !a.lib.has(c) {
		return nil
	}
	v, ret := f()
	a.note(ret)
	if ret != nvml.SUCCESS {
		return nil
	}
	return &v
}
