# Lambent. "make run" shows it working, "make test" tests it; both install what they need (see scripts/setup).

GO      = scripts/env go
ARCH   := $(or $(GOARCH),$(shell uname -m | sed "s/x86_64/amd64/; s/aarch64/arm64/"))
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
STATIC  = CGO_ENABLED=0 GOOS=linux GOARCH=$(ARCH)

.PHONY: help run build test check bench fuzz clean setup-%

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 17

run: setup-run binaries ## start a region, deploy an example and invoke it
	@scripts/env scripts/run

build: setup-build binaries ## build bin/lambent

# The programs that are a sandbox's first process are embedded in the binary, and that of native ones in the guests' agent too.
.PHONY: init guest binaries runsc
init:
	$(STATIC) $(GO) build -trimpath -ldflags '-s -w' -o sandbox/native/initbin/lambent-init-linux-$(ARCH) ./cmd/lambent-init
	$(STATIC) $(GO) build -trimpath -ldflags '-s -w' -o sandbox/gvisor/initbin/lambent-gvisor-init-linux-$(ARCH) ./cmd/lambent-gvisor-init
guest: init
	$(STATIC) $(GO) build -trimpath -ldflags '-s -w' -o sandbox/microvm/guestbin/lambent-guest-linux-$(ARCH) ./cmd/lambent-guest
binaries: init guest
	$(STATIC) $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/lambent ./cmd/lambent

runsc: setup-build bin/runsc ## build bin/runsc, gVisor's program (a minute or two)

# A runsc that is built with cgo fails when it starts a sandbox.
bin/runsc: tools/gvisor/go.mod tools/gvisor/go.sum | setup-build
	cd tools/gvisor && $(STATIC) ../../scripts/env go build -trimpath -ldflags '-s -w' -o $(CURDIR)/bin/runsc gvisor.dev/gvisor/runsc
	@touch $@

test: setup-test binaries bin/runsc ## run every test, with the race detector
	LAMBENT_BINARY=$(CURDIR)/bin/lambent $(GO) test -race -timeout 25m ./...

check: setup-check binaries bin/.tools/stamp ## vet, lint, known vulnerabilities, formatting, generated code
	@unformatted=$$(git ls-files -z '*.go' | xargs -0 scripts/env gofmt -l) && if [ -n "$$unformatted" ]; then \
		echo "not formatted with gofmt:" $$unformatted >&2; exit 1; fi
	$(GO) vet ./...
	scripts/check-generated
	scripts/env bin/.tools/golangci-lint run --timeout 10m ./...
	scripts/check-vulnerabilities

bin/.tools/stamp: tools/go.mod tools/go.sum
	cd tools && CGO_ENABLED=0 GOBIN=$(CURDIR)/bin/.tools ../scripts/env go install tool
	@touch $@

bench: setup-run binaries ## measure, and write docs/benchmarks.md
	scripts/env bin/lambent bench --markdown docs/benchmarks.md

# For gVisor's column there has to be a runsc (make runsc), for that of microVMs what "lambent doctor" says.
.PHONY: bench-isolation
bench-isolation: setup-run binaries ## measure the sandbox drivers, and write docs/isolation.md
	scripts/env bin/lambent bench isolation --markdown docs/isolation.md --svg docs/isolation.svg
	scripts/env bin/lambent bench neighbours --only native,gvisor --markdown docs/isolation.md

FUZZTIME ?= 30s
fuzz: setup-test init ## run each fuzz target for FUZZTIME
	@scripts/env scripts/fuzz $(FUZZTIME)

setup-%:
	@scripts/setup $*

clean: ## remove what was built and fetched
	rm -rf bin sandbox/native/initbin/lambent-init-* sandbox/gvisor/initbin/lambent-gvisor-init-* sandbox/microvm/guestbin/lambent-guest-*
