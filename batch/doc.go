// Package batch holds the formats of batch jobs: what comes in, what goes to the model and comes back, what is kept
// between, and what comes out. It is pure: no storage, no network, no clock. It reads and writes streams that it is given,
// so that the scheduler can check a job by the same code by which the agents run it.
//
// An input is a file: an item. Its way through the package:
//
//	listing or Sources ─► Namer ─► PartWriter      the index: what items there are, and what their results are called
//	ReadPart ─► Rows │ Requests │ Multipart        one item: rows, lines, or a file as it is
//	         ─► Mapping ─► model ─► Response       a request, and what to make of its answer
//	         ─► PackWriter                         results of a chunk of items, in one object, before they are committed
//	PackReader ─► ManifestLine                     after the commit: files with final names, and lines of a manifest
//
// An index part is at most 10,000 lines of JSON and a last line with their number and a CRC. A pack is a header line, for
// each item a line of JSON followed by its result, byte for byte, and a last line with totals and a CRC. Both are in the
// order of the items' numbers, without gaps.
//
// Decisions:
//
//   - What is wrong with one row, line or answer is a fault of the item and comes as a value, with the number of the row;
//     reading goes on. Only the reader's own errors end a file.
//   - The scheduler stores schemas and mappings as objects that have forgotten the order of their properties. SchemaJSON
//     puts them in the order of their names, numbers in them by value: a derived mapping used as it is fits columns that
//     are in that order.
//   - A mapping may have less than the model's schema, never anything else: a part that is misspelt would silently be left
//     out of every request. References, oneOf and the like within a request's schema are no leaves.
//   - An empty cell is an empty string, but no number and no boolean: what a missing value means is the model's affair.
//     Numbers keep all their digits. Booleans are what strconv.ParseBool takes.
//   - A CSV file has no header and every row as many columns as the first. A quote that is never closed takes the rest of
//     the file with it, as one row.
//   - Where a model declares application/json, its answers have to be JSON even when not strict: garbage is no result.
//     Results of files are kept byte for byte; those of rows are lines, and lose their white space.
//   - Names depend on the order of the inputs alone, and the ones given are remembered as 64 bits of a hash: a million in
//     20 MiB. A collision makes a name longer, never equal. SHA-256, because who chooses the inputs chooses the names.
//   - A part gives no items before all of it has been checked; a pack, which may be large, is streamed, and is to be
//     believed at its end. Both fail on anything they don't expect: what wrote them was Drover.
//   - Messages are one line of at most 1,024 bytes, lines at most 64 KiB: nothing that a model answers makes a manifest
//     unreadable.
//   - 1 MB is 2^20 bytes: of the two readings, the one that refuses less.
//
// github.com/santhosh-tekuri/jsonschema/v6 validates answers: it knows all drafts, says where an answer differs, and loads
// nothing from outside when told so. Schemas that name no draft are taken as 2019-09, the last one in which items may be an
// array of one schema, as models declare it.
package batch
