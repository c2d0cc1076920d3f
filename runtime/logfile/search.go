package logfile

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxQuery bounds a search query, in bytes.
const maxQuery = 1024

// delimiters separate words; a space does too, but may stand in a query.
const delimiters = "',\";=()[]{}@<>/:\n\t\r"

// Search is a parsed search: any of its terms matches, a term when all of its phrases do.
type Search struct {
	any [][]phrase
}

// phrase is a run of words that follow each other; a word may hold the wild cards ? and *.
type phrase []string

// ParseSearch parses a log search: words between delimiters, with ? for one character and * for any
// number, several words as one phrase, joined by && or AND, which bind closer, and || or OR. Case is
// ignored in words, not in AND and OR. Errors name what is wrong with the query.
func ParseSearch(query string) (*Search, error) {
	if len(query) > maxQuery {
		return nil, fmt.Errorf("search is %d bytes long, at most %d are allowed", len(query), maxQuery)
	}
	if !utf8.ValidString(query) {
		return nil, errors.New("search is not valid UTF-8")
	}
	if i := strings.IndexAny(query, delimiters); i >= 0 {
		return nil, fmt.Errorf("search holds the delimiter %q: words are what stands between delimiters", query[i])
	}
	spaced := strings.NewReplacer("&&", " && ", "||", " || ").Replace(query)
	s := &Search{}
	var all []phrase
	var words phrase
	before := "at its start"
	end := func(op string) error {
		if len(words) == 0 {
			return fmt.Errorf("search has no word %s", strings.TrimSpace(before+" "+op))
		}
		all = append(all, words)
		words = nil
		return nil
	}
	for _, word := range strings.Fields(spaced) {
		switch word {
		case "&&", "AND", "||", "OR":
			if err := end("before " + word); err != nil {
				return nil, err
			}
			if word == "||" || word == "OR" {
				s.any = append(s.any, all)
				all = nil
			}
			before = "after " + word
		default:
			words = append(words, strings.ToLower(word))
			before = ""
		}
	}
	if len(words) == 0 && len(all) == 0 && len(s.any) == 0 {
		return nil, errors.New("search is empty")
	}
	if err := end(""); err != nil {
		return nil, err
	}
	s.any = append(s.any, all)
	return s, nil
}

// Match says whether a text matches.
func (s *Search) Match(text string) bool {
	words := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return r == ' ' || strings.ContainsRune(delimiters, r)
	})
	for _, all := range s.any {
		matched := true
		for _, p := range all {
			if !p.in(words) {
				matched = false
				break
			}
		}
		if matched {
			return true
		}
	}
	return false
}

func (p phrase) in(words []string) bool {
	for i := 0; i+len(p) <= len(words); i++ {
		matched := true
		for j, pattern := range p {
			if !wildMatch(pattern, words[i+j]) {
				matched = false
				break
			}
		}
		if matched {
			return true
		}
	}
	return false
}

// wildMatch matches a whole word. On a mismatch it goes back to the last star alone, so its cost is
// bounded by the product of the lengths.
func wildMatch(pattern, word string) bool {
	var starPattern, starWord string
	star := false
	for word != "" {
		pr, pn := utf8.DecodeRuneInString(pattern)
		wr, wn := utf8.DecodeRuneInString(word)
		switch {
		case pattern != "" && pr == '*':
			pattern = pattern[pn:]
			starPattern, starWord, star = pattern, word, true
		case pattern != "" && (pr == '?' || pr == wr):
			pattern, word = pattern[pn:], word[wn:]
		case star:
			_, n := utf8.DecodeRuneInString(starWord)
			starWord = starWord[n:]
			pattern, word = starPattern, starWord
		default:
			return false
		}
	}
	return strings.Trim(pattern, "*") == ""
}
