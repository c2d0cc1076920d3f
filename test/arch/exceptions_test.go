package arch

// The limits of DESIGN: files up to about 450 lines, functions up to about 60.
const (
	maxFileLines = 450
	maxFuncLines = 60
)

// longFiles and longFuncs say what is longer, and why it's better that way. A function is named
// "file: Func" or "file: Type.Method". An entry for something that isn't too long fails as well.
var (
	longFiles = map[string]string{}
	longFuncs = map[string]string{}
)

// absolutePaths may contain one of the texts that are otherwise taken for a path of somebody's machine.
var absolutePaths = map[string]string{
	"test/arch/text_test.go": "holds the patterns",
}
