# On a fresh Debian or Ubuntu machine with Go and make, demo and test do all
# set-up by themselves.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL   := /bin/sh
CACHE   := $(CURDIR)/.cache
LINT    := $(CACHE)/golangci-lint
# Every module but tools, which holds no code.
MODULES := $(filter-out ./tools,$(patsubst %/go.mod,%,$(shell find . -name go.mod -not -path './.cache/*' | sort)))
# The tests of a module's packages run one after another on small machines.
FOR       ?= 10m
TESTFLAGS ?= -race -shuffle=on -count=1 -timeout=20m

# each runs a command in the directory of every module.
each = @set -e; for m in $(MODULES); do echo "== $(1) ($$m)"; (cd $$m && $(1)); done

.PHONY: help demo test soak bench lint generate check cover tidy

help: ## say what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

demo: ## replay a chat through the example bot, without the cache and with it
	@echo "== building the example; the first time, Go downloads and compiles what it needs, which takes minutes"
	@mkdir -p $(CACHE)
	@cd examples && CGO_ENABLED=0 go build -o $(CACHE)/chatbot ./chatbot
	@$(CACHE)/chatbot replay

test: generated ## run all tests of all modules, with the race detector
	@scripts/need gcc postgresql
	$(call each,go test $(TESTFLAGS) ./...)

soak: ## look for incoherent histories for as long as FOR says, such as FOR=1h
	USERCACHE_SOAK=$(FOR) go test -count=1 -timeout=0 -run='^TestLinearizable$$' -v .

bench: ## run the benchmarks
	go test -run='^$$' -bench=. -benchmem ./...

lint: $(LINT) ## check all modules with the linters, and go.mod files for leftovers
	$(call each,go mod tidy -diff)
	$(call each,$(LINT) run --config $(CURDIR)/.golangci.yml ./...)

# Go builds the linter from source, at the version that tools/go.mod pins.
$(LINT): tools/go.mod tools/go.sum
	@echo "== building golangci-lint; the first time, this takes minutes"
	@mkdir -p $(CACHE)
	@cd tools && go build -o $(LINT) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

generate: ## generate the mocks anew
	go generate ./...

# generated fails if the mocks are not what the interface says.
.PHONY: generated
generated:
	@mkdir -p $(CACHE) && cp mocks/repository.go $(CACHE)/mocks.before
	@go generate ./...
	@cmp -s mocks/repository.go $(CACHE)/mocks.before || \
		{ echo "mocks/repository.go was out of date; it is generated anew, commit it" >&2; exit 1; }

tidy: ## tidy all go.mod files
	$(call each,go mod tidy)

check: lint test ## what CI runs

cover: ## measure which statements of the library the tests reach
	@mkdir -p $(CACHE)
	go test -count=1 -coverpkg=.,./internal/... -coverprofile=$(CACHE)/cover.out . ./internal/... ./repositorytest
	@go tool cover -func=$(CACHE)/cover.out | tail -1
	@for p in . internal/coherence; do \
		awk -v p="github.com/osse101/usercache/$${p#.}" 'BEGIN { sub("/$$", "", p) } \
			NR > 1 { f = $$1; sub("/[^/]*$$", "", f); if (f == p) { k = $$1; n[k] = $$2; if ($$3 > 0) hit[k] = 1 } } \
			END { for (k in n) { all += n[k]; if (k in hit) done += n[k] } printf "%-45s %.1f %%\n", p, 100 * done / all }' $(CACHE)/cover.out; \
	done
