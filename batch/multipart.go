package batch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"strings"
)

// FileField is the name of the form's field that takes the file, from the schema of a multipart/form-data request: the
// one property of type "file" or of format "binary", or else the only string. Other properties aren't sent.
func FileField(request []byte) (string, error) {
	root, err := parseJSON(request)
	if err != nil {
		return "", fmt.Errorf("the model's request schema: %w", err)
	}
	var files, texts []string
	if properties := root.get("properties"); properties != nil {
		for _, m := range properties.members {
			format := m.value.get("format")
			switch t := schemaType(m.value); {
			case t == "file" || format != nil && format.scalar == "binary":
				files = append(files, m.name)
			case t == "string":
				texts = append(texts, m.name)
			}
		}
	}
	switch {
	case len(files) == 1:
		return files[0], nil
	case len(files) > 1:
		return "", fmt.Errorf("the model's request takes several files (%s): a job sends one", strings.Join(files, ", "))
	case len(texts) == 1:
		return texts[0], nil
	}
	return "", errors.New(`the model's request schema has no property for a file: give one "type": "file"`)
}

// Multipart returns the body of a multipart/form-data request with one file, its Content-Type and its length. The file is
// read with the body. size is the file's; -1, as the length then is, when it isn't known.
func Multipart(field, name string, file io.Reader, size int64) (body io.Reader, contentType string, length int64, err error) {
	var around bytes.Buffer
	w := multipart.NewWriter(&around)
	if _, err := w.CreateFormFile(field, name); err != nil {
		return nil, "", 0, fmt.Errorf("write a form: %w", err)
	}
	head := around.Len()
	if err := w.Close(); err != nil {
		return nil, "", 0, fmt.Errorf("write a form: %w", err)
	}
	length = int64(around.Len()) + size
	if size < 0 {
		length = -1
	}
	parts := around.Bytes()
	return io.MultiReader(bytes.NewReader(parts[:head]), file, bytes.NewReader(parts[head:])), w.FormDataContentType(), length, nil
}
