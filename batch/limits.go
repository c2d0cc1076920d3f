package batch

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Limits of what goes to a model, in bytes. 1 MB is 2^20 bytes here.
const (
	// MaxCSVBytes is the size of a CSV file at most.
	MaxCSVBytes = 12 << 20
	// MaxImageBytes is what an image has to be smaller than.
	MaxImageBytes = 10 << 20
	// MaxRequestBytes is the size of a request made of a JSON or JSON Lines input at most.
	MaxRequestBytes = 12 << 20
)

// Formats of inputs: JobSpec.input_format.
const (
	CSV       = "csv"
	JSONLines = "jsonl"
	JSON      = "json"
	File      = "file"
)

// What a model's apis take and answer: Content-type.
const (
	ContentJSON = "application/json"
	ContentForm = "multipart/form-data"
)

// DefaultFormat is the format of a job's inputs when none is named, by whether there is a mapping and by what the model takes;
// empty when it goes by the inputs' names.
func DefaultFormat(mapped bool, contentType string) string {
	switch {
	case mapped:
		return CSV
	case contentType == ContentForm:
		return File
	}
	return ""
}

// CheckSize refuses an input that is too large for its format; what it says is the item's error message. A size that
// isn't known, -1, passes: whoever reads such an input has to stop at SizeLimit.
func CheckSize(format, source string, size int64) error {
	limit := SizeLimit(format, source)
	if limit == 0 || size <= limit {
		return nil
	}
	switch format {
	case CSV:
		return fmt.Errorf("the CSV file has %d bytes: at most 12 MB are allowed; split it", size)
	case JSON:
		return fmt.Errorf("the request has %d bytes: at most 12 MB are allowed", size)
	}
	return fmt.Errorf("the image has %d bytes: it has to be under 10 MB", size)
}

// SizeLimit is how many bytes an input may have at most; 0 is no limit. JSON Lines have none: each line is a request.
func SizeLimit(format, source string) int64 {
	switch format {
	case CSV:
		return MaxCSVBytes
	case JSON:
		return MaxRequestBytes
	case File:
		if isImage(source) {
			return MaxImageBytes - 1
		}
	}
	return 0
}

// isImage goes by the name: whoever sends an image calls it one.
func isImage(source string) bool {
	images := []string{".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
	return slices.Contains(images, strings.ToLower(path.Ext(BaseName(source))))
}
