// Command drover is all of Drover: the daemons (`drover scheduler`, `drover agent`), both on one machine
// (`drover dev`), and the operator's commands, which talk to a scheduler over gRPC.
//
// The command line is an interface that scripts depend on: `drover NOUN VERB [NAME] [flags]`, one file
// per noun. What holds for every command:
//
//   - Exit 0 is done, 1 failed, 2 wrong usage, 3 the outcome of a write is unknown. Errors are one line on
//     standard error: what, which, why, and what to do. Results alone go to standard output.
//   - -o json is the protojson of the API's message with the names of the proto, re-indented because
//     protojson's own white space is not stable; -o yaml is the same tree. Every scalar and list is
//     written out, also when empty, so that scripts can rely on it. Tables are for people and may change.
//   - Every write carries a request ID and is sent once more when its answer was lost. A second loss is
//     exit 3, never a guess.
//   - A wait for a job that is complete with failed items is exit 1: one bad item never fails a job, but a script
//     that goes on with its results has to look. Jobs are waited for without a limit, since they may take days.
//   - A table that is too wide for its terminal loses its least important columns, and says which; elsewhere it
//     is whole. IDs are never cut: what can't be copied is of no use.
//   - Colour and moving lines appear on terminals alone; NO_COLOR turns colour off.
//   - Flags win over DROVER_ADDR, DROVER_TOKEN and DROVER_CA, those over the context file that `drover dev`
//     leaves under ~/.config/drover.
//
// Dependencies: cobra parses the command line and completes it in four shells; golang.org/x/term switches a
// terminal to raw mode for exec, which is an ioctl per operating system; go.yaml.in/yaml/v3 reads and writes
// YAML; in tests, testscript runs scripts of the real command line.
package main
