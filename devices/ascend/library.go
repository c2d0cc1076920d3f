package ascend

import (
	"bytes"
	"errors"
	"fmt"
	goruntime "runtime"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"
)

// places are where drivers put the library, first the loader's own search path.
func places() []string {
	return []string{"libdcmi.so", "/usr/local/dcmi/libdcmi.so", "/usr/local/Ascend/driver/lib64/driver/libdcmi.so"}
}

var (
	errNoLibrary = errors.New("there is no libdcmi.so")
	errNoSymbol  = errors.New("this driver does not have the call")
	errLayout    = errors.New("the driver wrote more than the layout known here holds")
)

// codeError is what a call of the library answered instead of success.
type codeError int32

func (e codeError) Error() string {
	switch e {
	case codeNotPermitted:
		return "not permitted (-8002)"
	case codeNoSuchID, codeNotExist:
		return fmt.Sprintf("the device does not exist (%d)", int32(e))
	case codeNotInside:
		return "not supported in a container (-8013)"
	case codeUnsupported:
		return "not supported (-8255)"
	default:
		return fmt.Sprintf("DCMI code %d", int32(e))
	}
}

// gone says whether err means that the device isn't there any more.
func gone(err error) bool {
	return errors.Is(err, codeError(codeNotExist)) || errors.Is(err, codeError(codeNoSuchID))
}

// unavailable says whether err means that this driver, chip or place can't tell, now or ever.
func unavailable(err error) bool {
	return errors.Is(err, errNoSymbol) || errors.Is(err, codeError(codeUnsupported)) || errors.Is(err, codeError(codeNotInside))
}

// load answers the library at path, or at the first of the usual places that has one; errNoLibrary where
// none has. It is never unloaded: its threads outlive every call.
func load(path string) (uintptr, error) {
	// The loader keeps the reason of a failure for the thread that had it, and it is asked for in a second call.
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	candidates := places()
	if path != "" {
		candidates = []string{path}
	}
	for _, candidate := range candidates {
		handle, err := purego.Dlopen(candidate, purego.RTLD_LAZY|purego.RTLD_GLOBAL)
		if err == nil {
			return handle, nil
		}
		// The loader says the same of a library that this one needs, but with that one's name.
		said := err.Error()
		if !strings.HasPrefix(said, candidate+":") || !strings.Contains(said, "No such file or directory") {
			return 0, fmt.Errorf("load %s: %w", candidate, err)
		}
	}
	return 0, errNoLibrary
}

// bind answers the function called name, or nil when the library lacks it.
func bind[F any](handle uintptr, name string) F {
	var f F
	if symbol, err := purego.Dlsym(handle, name); err == nil {
		purego.RegisterFunc(&f, symbol)
	}
	return f
}

// fill answers what call, which is a function of the library, writes. The driver may know more fields than
// this package: then the layout isn't the one meant here, and the answer is no answer.
func fill[T any](call func(out unsafe.Pointer) int32) (*T, error) {
	const untouched = 0xA5
	var buffer struct {
		value  T
		beyond [4096]byte
	}
	for i := range buffer.beyond {
		buffer.beyond[i] = untouched
	}
	if code := call(unsafe.Pointer(&buffer.value)); code != codeOK {
		return nil, codeError(code)
	}
	if bytes.Count(buffer.beyond[:], []byte{untouched}) != len(buffer.beyond) {
		return nil, errLayout
	}
	return &buffer.value, nil
}

// text is the C string at the start of b, without what isn't printable.
func text(b []byte) string {
	if end := bytes.IndexByte(b, 0); end >= 0 {
		b = b[:end]
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return -1
		}
		return r
	}, string(b)))
}
