package main

// draw draws a table for the app's output, every line indented.
func (a *app) draw(t *table, indent string) error { return t.draw(a.out, indent, a.colour()) }

// drawPairs draws them for the app's output.
func (a *app) drawPairs(p pairs) error { return p.draw(a.out, a.colour()) }
