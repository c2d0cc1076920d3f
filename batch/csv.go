package batch

// Row is a row of a CSV file.
type Row struct {
	// Number counts rows from 1; Line is the line of the file on which it begins.
	Number, Line int
	Fields       []string
	// Err is why the row can't be used: a fault of the item, a *RowError.
	Err error
}
