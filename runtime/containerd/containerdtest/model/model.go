// Package model is a model for tests of batch jobs, as an HTTP handler: containers and fake ones serve the same.
package model

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Predict answers an item: what it does with an item stands in the item, as "do": a list of words with blanks
// between. Without any it answers {"answer": A}, where A is the SHA-256 of the body (of a multipart form: of its one file);
// with {"rows": [{…}, …]} it answers {"rows": [{"answer": A}, …]}, each A of the row alone. The words are
//
//	sleep:20ms   takes so long
//	CODE         answers with that HTTP status
//	garbage      answers what is no JSON
//	nothing      ends the connection without an answer
//	hang         answers when the caller has gone
//	big:N        answers N bytes of JSON
//	exit         ends the process (that of the test, where the container is a fake one)
//	once:PATH    does what follows only when the file doesn't exist yet, and makes it
func Predict(w http.ResponseWriter, r *http.Request) {
	body, err := item(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var in struct {
		Do   string            `json:"do"`
		Rows []json.RawMessage `json:"rows"`
	}
	_ = json.Unmarshal(body, &in) // a file need not be JSON: then it asks for nothing
	for _, row := range in.Rows {
		var one struct {
			Do string `json:"do"`
		}
		if json.Unmarshal(row, &one) == nil && one.Do != "" {
			in.Do = one.Do
		}
	}
	for _, word := range strings.Fields(in.Do) {
		if name, path, _ := strings.Cut(word, ":"); name == "once" {
			f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				break
			}
			_ = f.Close()
			continue
		}
		if done := does(w, r, word); done {
			return
		}
	}
	if in.Rows == nil {
		_ = json.NewEncoder(w).Encode(answer{digest(body)})
		return
	}
	answers := struct {
		Rows []answer `json:"rows"`
	}{}
	for _, row := range in.Rows {
		answers.Rows = append(answers.Rows, answer{digest(row)})
	}
	_ = json.NewEncoder(w).Encode(answers)
}

type answer struct {
	Answer string `json:"answer"`
}

// does what one word says, and answers whether that was the answer.
func does(w http.ResponseWriter, r *http.Request, word string) bool {
	word, arg, _ := strings.Cut(word, ":")
	switch word {
	case "sleep":
		d, _ := time.ParseDuration(arg)
		time.Sleep(d)
		return false
	case "garbage":
		_, _ = io.WriteString(w, "<html>\x00")
	case "nothing":
		panic(http.ErrAbortHandler)
	case "hang":
		<-r.Context().Done()
	case "big":
		n, _ := strconv.Atoi(arg)
		_, _ = io.WriteString(w, `"`)
		block := bytes.Repeat([]byte("x"), 1<<16)
		for ; n > 0; n -= len(block) {
			if _, err := w.Write(block[:min(n, len(block))]); err != nil {
				return true
			}
		}
		_, _ = io.WriteString(w, `"`)
	case "exit":
		os.Exit(3)
	default:
		code, err := strconv.Atoi(word)
		if err != nil {
			return false
		}
		http.Error(w, "as asked", code)
	}
	return true
}

// item is what was posted.
func item(r *http.Request) ([]byte, error) {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/") {
		return io.ReadAll(r.Body)
	}
	parts, err := r.MultipartReader()
	if err != nil {
		return nil, err
	}
	part, err := parts.NextPart()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(part)
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
