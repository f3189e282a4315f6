# All commands of this project. On Debian you only need `apt-get install make` before.

# Debian's Python, not another one in PATH: docker/packages installs what building python-prctl for it needs.
PYTHON ?= /usr/bin/python3
BIN = .venv/bin
# With two checkouts on one machine, IMAGE=another-name for one of them separates their images and tests.
IMAGE ?= haproxy-safe-reload
export TEST_IMAGE = $(IMAGE)
OWN_ARCH := $(shell dpkg --print-architecture 2>/dev/null || echo amd64)
ARCH ?= $(OWN_ARCH)
STATIC = $(IMAGE):static$(if $(filter-out $(OWN_ARCH),$(ARCH)),-$(ARCH))
SCRIPTS = $(addprefix docker/,base-image engine files kubectl packages promtool unpacked demo/run demo/load minimal/collect \
	static/prepare static/interpreter static/link) bench/2017 $(wildcard systemd/debian/p*)
# What the images are built from.
CONTEXT = .
# Debian's releases, and how the tags of their images end.
SUITES = trixie: bookworm:-bookworm sid:-sid

.DEFAULT_GOAL = help
.PHONY: bench bench-2017 bench-quick clean conformity deb diagram dist fuzz help image images lint lock minimal run static stop test test-chaos test-cluster test-container test-core test-long test-static test-system types

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r target text; do printf '  %-20s %s\n' "$$target" "$$text"; done

run: image ## build the image and run the demo on 127.0.0.1:8080, then say what to try
	@docker/demo/run

stop: ## stop the demo and remove its container
	@docker rm -f safe-reload-demo

test: lint types images minimal .venv/installed ## install what is needed and run all tests but the long ones
	$(BIN)/pytest -m "not long"

lint: .venv/installed ## style and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	shellcheck .ci/run $(SCRIPTS)

types: .venv/installed ## mypy, strict
	$(BIN)/mypy

test-core: .venv/installed ## only the tests of the core, without those that visit every state: seconds
	$(BIN)/pytest -m "not explores and not long" tests/core

test-system: .venv/installed ## only the tests with real children, sockets and signals
	$(BIN)/pytest -m "not long" tests/system

test-container: .venv/installed images minimal ## only the tests with real containers, on three versions of HAProxy
	$(BIN)/pytest -m "not long" tests/container

test-cluster: .venv/installed image ## only the manifests of k8s/, and their pod on the real Kubernetes in TEST_CLUSTER
	$(BIN)/pytest -m "not long" tests/cluster

test-static: minimal .venv/installed ## the same tests with the static file, where there is only haproxy and its libraries
	for suite in $(SUITES); do \
		base=$$(docker/base-image $${suite%:*}) && \
		docker build --build-arg BASE=$$base --build-arg MINIMAL=$(IMAGE):minimal$${suite#*:} \
			-t $(IMAGE)-static:dev$${suite#*:} - <tests/container/static.Dockerfile || exit; \
	done
	TEST_PROGRAM=$(CURDIR)/build/static/$(ARCH)/safe_reload $(BIN)/pytest -m "not long" $(or $(ARGS),tests/system tests/container)

test-long: .venv/installed images ## the long tests
	$(BIN)/pytest -m long

test-chaos: .venv/installed image ## 15 minutes of chaos under load; CHAOS_SEED= repeats a run, CHAOS_SECONDS= sets the time
	CHAOS_SECONDS=$${CHAOS_SECONDS:-900} $(BIN)/pytest tests/container/test_chaos.py

fuzz: .venv/installed ## 10 minutes of random input to every interface; longer with FUZZ_SECONDS=
	FUZZ_SECONDS=$${FUZZ_SECONDS:-200} $(BIN)/pytest tests/system/test_fuzz.py

image: ## haproxy-safe-reload:dev (Debian trixie, HAProxy 3.0)
	@docker/engine
	base=$$(docker/base-image trixie) && docker build $(BUILD_FLAGS) --build-arg BASE=$$base -t $(IMAGE):dev $(CONTEXT)

static: ## haproxy-safe-reload:static and build/static/: one file for any image; ARCH=arm64 cross-compiles
	@docker/engine
	base=$$(docker/base-image trixie) && \
	docker build $(BUILD_FLAGS) --build-arg BASE=$$base --build-arg ARCH=$(ARCH) -f $(CONTEXT)/docker/static/Dockerfile \
		-t $(STATIC) $(CONTEXT)
	docker/files $(STATIC) build/static/$(ARCH) safe_reload sources.txt licences.txt

minimal: static ## haproxy-safe-reload:minimal, -bookworm and -sid: haproxy, its libraries and the static file
	for suite in $(SUITES); do \
		base=$$(docker/base-image $${suite%:*}) && \
		docker build $(BUILD_FLAGS) --build-arg BASE=$$base --build-arg STATIC=$(IMAGE):static \
			-f $(CONTEXT)/docker/minimal/Dockerfile -t $(IMAGE):minimal$${suite#*:} $(CONTEXT) || exit; \
	done

images: image ## also :dev-bookworm (HAProxy 2.6) and :dev-sid (HAProxy 3.2)
	base=$$(docker/base-image bookworm) && docker build $(BUILD_FLAGS) --build-arg BASE=$$base -t $(IMAGE):dev-bookworm $(CONTEXT)
	base=$$(docker/base-image sid) && docker build $(BUILD_FLAGS) --build-arg BASE=$$base -t $(IMAGE):dev-sid $(CONTEXT)

# Their tags; `dev` is the one without a suffix. The static programs are those in build/static/.
DIST_IMAGES = dev dev-bookworm dev-sid static minimal minimal-bookworm minimal-sid

# From nothing: what the engine has in its cache may be older than the commit, and so would its times be. And from a copy
# of the tracked files: an image would have other files, and the modes that this clone's umask has made.
DIST_BUILD = BUILD_FLAGS=--no-cache CONTEXT=build/tree
dist: .venv/installed ## everything that a release has, into dist/
	$(BIN)/python -m tools.release.source build/tree
	$(MAKE) images minimal $(DIST_BUILD)
	for arch in $(filter-out $(OWN_ARCH),amd64 arm64); do $(MAKE) static ARCH=$$arch $(DIST_BUILD) || exit; done
	$(BIN)/python -m tools.release $(addprefix $(IMAGE):,$(DIST_IMAGES))

deb: ## only the Debian package, into dist/
	docker/packages musl-tools
	rm -f dist/safe-reload_*
	$(PYTHON) -m tools.release.deb dist

bench: image .venv/installed ## compare safe_reload with other ways to reload: about 75 minutes, into docs/benchmarks.md
	$(BIN)/python -m bench $(ARGS)

bench-quick: image .venv/installed ## the same in under 4 minutes, into build/bench/: only shows that everything works
	$(BIN)/python -m bench --quick --out build/bench $(ARGS)

bench-2017: image ## the test of 2017: 15.6 million requests, a reload every 300 ms; REQUESTS=1000000 for fewer
	docker/packages apache2-utils util-linux
	bench/2017 $(REQUESTS)

conformity: .venv/installed images static ## compare with other inits and haproxy's master: docs/conformity.md, docs/masters.md
	docker/packages tini dumb-init catatonit gcc libc6-dev
	$(BIN)/python -m bench.conformity --static build/static/$(OWN_ARCH)/safe_reload $(ARGS)

diagram: .venv/installed ## draw the diagrams and the table of options in the documentation from the code
	$(BIN)/python -m tools.draw

clean: ## remove what these targets made, except images and containers
	rm -rf .venv .demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Rebuilt from scratch, but only when the list of what it installs changes.
.venv/installed: pyproject.toml requirements-dev.txt docker/packages docker/promtool
	docker/packages
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install -q --require-hashes -r requirements-dev.txt
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	docker/promtool $(BIN)
	touch $@

lock: ## pin the newest versions of all tools, with their hashes: requirements-dev.txt
	python3 -m venv --clear build/lock
	build/lock/bin/pip install -q uv
	build/lock/bin/uv pip compile -q --upgrade pyproject.toml --group dev --group bench --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate --no-header -o requirements-dev.txt
