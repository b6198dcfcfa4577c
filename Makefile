# Two words do most of it: `make run` and `make test`. Each does its own set-up.

CARGO ?= cargo
DATA  ?= .tidegate

.DEFAULT_GOAL := help
.PHONY: help run test check deny setup fmt bench bench-steps attacks crash chaos powercut damage fulldisk simulation fuzz map clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

run: ## The gateway on its embedded store, with a demo project and a curl to paste
	@$(CARGO) build --release --bin tidegate
	@target/release/tidegate serve --data $(DATA) --quick-start

test: setup check deny ## Everything: format, lints, dependencies, unit and integration tests, outside judges
	$(CARGO) build --workspace
	$(CARGO) test --workspace

check: ## Format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

deny: ## Dependencies: licences, sources, and known weaknesses where their database can be fetched
	@scripts/deny.sh

setup: ## What the tests need: compilers, node and python, and the outside judges
	@scripts/setup.sh

fmt: ## Format the code
	$(CARGO) fmt --all

bench: ## Tidegate as it is shipped beside a bare relay, in one run; writes bench/RESULTS.md
	$(CARGO) build --profile dist --workspace
	target/dist/tidegate-bench run

bench-steps: ## What each step of a pipeline costs for an event, and counting and learning
	$(CARGO) bench -p tidegate-bench

crash: ## 1,000 times kill -9 under load, judged by the checker
	$(CARGO) build --workspace
	CRASH_CYCLES=1000 $(CARGO) test --test it crash:: -- --nocapture

attacks: ## Each attack of a hostile sender for 30 s against a release build, and what an honest one meets beside it
	ATTACK_SECONDS=$${ATTACK_SECONDS:-30} $(CARGO) test --release --test it attacks:: -- --nocapture --test-threads=1

chaos: ## Three nodes and a PostgreSQL with a standby, half an hour of whatever can happen to them
	$(CARGO) build --workspace
	CHAOS_MINUTES=$${CHAOS_MINUTES:-30} $(CARGO) test --test it chaos:: -- --nocapture

powercut: ## Power cuts at many more points than in `make test`
	$(CARGO) build --workspace
	POWERCUT_POINTS=5000 $(CARGO) test --test it powercut:: -- --nocapture

damage: ## Each kind of file of a data folder damaged at many places: nothing is lost in silence
	$(CARGO) build --workspace
	DAMAGE_FLIPS=$${DAMAGE_FLIPS:-40} $(CARGO) test --test it damage:: -- --nocapture

fulldisk: ## A disk of 192 MB that fills under load: 100,000 pending deliveries without a free byte
	$(CARGO) build --release --bin tidegate
	FULL_DISK_MB=192 TIDEGATE_BINARY=$(CURDIR)/target/release/tidegate $(CARGO) test --test it full_disk:: -- --nocapture

simulation: ## The dispatcher under 100,000 seeds of bad weather
	SIMULATION_SEEDS=100000 $(CARGO) test --release --test it simulation:: -- --nocapture

fuzz: ## Every parser that strangers' bytes reach, 60 s each; KEEP=1 adds to the kept corpus
	@scripts/fuzz.sh 60

map: ## The tree of the code, in the order in which an event meets it
	@for m in $$(sed -n 's/^pub mod \(.*\);/\1/p' src/lib.rs); do \
	    f=src/$$m.rs; [ -f $$f ] || f=src/$$m/mod.rs; \
	    printf '%-13s %s\n' $$m "$$(head -1 $$f | cut -c5-)"; \
	done

clean: ## Forget what was built
	$(CARGO) clean
