// Package manifest reads the YAML files of `drover apply -f` into messages of the API.
//
// A document is `kind`, `meta` and `spec`, the last two as the API's own messages in their protojson
// spelling. The YAML is read as a tree of nodes and checked against the message's descriptor, so that
// every complaint has the file, the line and the path of the field: "iris.yaml:12:
// spec.versions[0].weigth: unknown field; did you mean weight?". Decoding through JSON instead would be
// shorter and would lose the lines.
//
// Decisions:
//
//   - Nothing is guessed: a number where a string belongs is refused rather than converted, a key given
//     twice is an error, and so is a field without a value.
//   - Fields ending in _bytes also take quantities such as 256Mi or 80G.
//   - A name that the API has reserved for later is "not available yet", not unknown.
//   - Aliases are expanded within a budget: a small file can't become a large message.
//
// go.yaml.in/yaml/v3 is the YAML parser: it keeps lines and columns in its nodes, and is the maintained
// continuation of gopkg.in/yaml.v3.
package manifest
