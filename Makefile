# Every target does its own set-up (scripts/setup): on Debian 12 with Go, make and root nothing else is needed.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS   += --no-print-directory

# The go command fails where git doesn't trust the checkout's owner: stamp only where it does.
BUILDVCS := $(if $(shell git rev-parse HEAD 2>/dev/null),true,false)
ifeq ($(BUILDVCS),false)
export GOFLAGS += -buildvcs=false
endif
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION)
PKGS     ?= ./...
FUZZTIME ?= 30s

# The tools are built once for each content of tools/go.sum and each Go version.
TOOLS       := .cache/bin
TOOLS_STAMP  = $(TOOLS)/.stamp-$(shell { cat tools/go.mod tools/go.sum; go env GOVERSION GOARCH; } | sha256sum | cut -c1-16)

##@ Run it
.PHONY: help demo
help: ## show this page
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-19s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: ## start everything on this machine, deploy the iris example, call it (needs root)
	@[ "$$(id -u)" = 0 ] || { echo "make demo: containers and network namespaces need root; run it as root" >&2; exit 1; }
	@scripts/setup run build
	@$(MAKE) build
	@go build -o .cache/demo ./examples/demo
	@exec .cache/demo -drover bin/drover

##@ Build it
.PHONY: setup build build-arm64-ascend tools format generate proto-baseline clean
setup: ## install the missing Debian packages, fetch the modules
	@scripts/setup run build test lint

build: ## build bin/drover
	@scripts/setup build
	@mkdir -p bin
	go build -buildvcs=$(BUILDVCS) -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

# Without cgo there is no NVML; libdcmi is loaded without it.
build-arm64-ascend: ## cross-compile bin/linux-arm64-ascend/drover for Arm hosts with Ascend NPUs
	@scripts/setup build
	@mkdir -p bin/linux-arm64-ascend
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 go build -buildvcs=$(BUILDVCS) -trimpath -ldflags '$(LDFLAGS)' -o bin/linux-arm64-ascend/ ./cmd/...

tools: ## build the development tools into .cache/bin
	@[ -e $(TOOLS_STAMP) ] || { scripts/setup build && rm -f $(TOOLS)/.stamp-* && mkdir -p $(TOOLS) && \
	  echo "building the tools of tools/go.mod (once, some minutes)" && \
	  go build -C tools -buildvcs=false -o ../$(TOOLS)/ tool && touch $(TOOLS_STAMP); }

format: tools ## format the Go code and proto/
	$(TOOLS)/golangci-lint fmt
	$(TOOLS)/buf format -w

generate: tools ## generate the Go code of proto/
	$(TOOLS)/buf format -w
	$(TOOLS)/buf generate

proto-baseline: tools ## accept today's proto/ as what later changes must stay compatible with
	$(TOOLS)/buf build -o proto/baseline.binpb

clean: ## remove what was built here
	rm -rf bin .cache coverage.out

##@ Check it
.PHONY: test race e2e bench sim soak fuzz lint check
test: ## run all tests (those that need root and containerd too)
	@scripts/setup run build test
	go test -p 2 -timeout 15m $(PKGS)

race: ## run all tests under the race detector
	@scripts/setup run build test
	go test -race -p 2 -timeout 20m $(PKGS)

e2e: ## run the tests with a real containerd, verbosely
	@scripts/setup run build test
	go test -count=1 -v -timeout 20m ./test/...

bench: ## measure; prints the table of figures and writes bench/results (some minutes)
	@[ "$$(id -u)" = 0 ] || { echo "make bench: containers and network namespaces need root; run it as root" >&2; exit 1; }
	@scripts/setup run build test
	@$(MAKE) build
	DROVER_BINARY=$(CURDIR)/bin/drover go test -C test/bench -tags bench -run '^Test(Device|Placement|Write|Cluster|Lookup|Client|Job)?Figures$$' -count=1 -timeout 60m

# SIM may have -sim.hours, -sim.trouble, -sim.seed, -sim.services, -sim.load, -sim.trace, -sim.jobs, -sim.write.
SIM_NODES ?= 10000
sim: ## simulate a day of SIM_NODES (10000) nodes with 8 devices each, and check the invariants (minutes)
	@scripts/setup build
	go test -C test/sim -run '^TestLarge$$' -count=1 -v -timeout 60m -args -sim.nodes=$(SIM_NODES) $(SIM)

soak: ## inject every fault as long and as often as before a release (hours; needs root)
	@[ "$$(id -u)" = 0 ] || { echo "make soak: containers and network namespaces need root; run it as root" >&2; exit 1; }
	@scripts/setup run build test
	go test -C test/fault -count=1 -v -timeout 3h . -args -full
	go test -C test/fault/jobs -count=1 -v -timeout 1h . -args -full
	go test -C test/sim -run '^TestRandomFaults$$' -count=1 -v -timeout 12h . -args -sim.soak=100 -sim.hours=72

fuzz: ## fuzz each parser for FUZZTIME (30s)
	@scripts/setup build
	@scripts/fuzz $(FUZZTIME)

lint: tools ## format, vet, golangci-lint, proto rules, generated code, import rules, units, scripts
	@scripts/setup lint
	@scripts/lint

check: lint test ## everything that CI runs
