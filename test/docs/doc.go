// Package docs runs the commands that the pages of this repository show, so that no page promises one
// that doesn't work.
//
// Commands stand in fenced blocks of the language console: a line that starts with "$ " is a command
// (one that ends in a backslash goes on in the next line), the lines after it are output. The info string
// says what a test does with the block:
//
//	console test=NAME          run, in the order of the page, in the session NAME of that page
//	console test=NAME daemon   its one command is started and kept until the session ends; the block's
//	                           output is waited for
//	console untested="REASON"  not run, because of REASON
//
// A command must end with status 0, and its output must hold the shown lines in their order; "…" in a
// line stands for any text, a line "…" for any lines, and runs of white space are alike. Every command
// runs in a bash of its own, in a copy-free checkout (the repository's root), with HOME in a directory of
// the test's own and the built drover first in PATH.
//
// The recipes of docs/client.md, in Python too, run against a stand-in for a scheduler (TestRecipes).
//
// A console block with neither, and a block in the language sh, bash or shell, fail the test.
package docs
