# Slipway. `make help` lists what there is to do.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

UV_VERSION := 0.13.8
CACHE := $(or $(SLIPWAY_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/slipway)
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/.tools/bin:$(CACHE)/bin:$(PATH):/usr/sbin:/sbin
# Where `release` reads and writes; the one-machine cluster's repo unless told otherwise.
export MANIFEST_REPO ?= $(CACHE)/cluster/git/slipway.git
export KUBECONFIG ?= $(CACHE)/cluster/kubeconfig
# Where it is set, every command and every worker of the tests compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE
# What starts Kubernetes: machine (this one), kind, or current (whatever kubectl points at).
export CLUSTER ?= machine

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ The system

.PHONY: up
up: setup ## Bring up Kubernetes, Argo CD and Istio, deploy dev, and run the main job
	cluster up
	flow up

.PHONY: apply
apply: setup ## Bring an edit of values, charts or argocd to dev: validate, commit, push, verify
	flow apply $(if $(MESSAGE),--message "$$MESSAGE") $(ARGS)

.PHONY: addons
addons: up ## Bring KEDA and Prometheus too, to scale by queue and by requests
	cluster addon keda prometheus

.PHONY: down
down: setup ## Stop everything and leave nothing of it in the machine
	cluster down

.PHONY: status
status: setup ## Show what each environment runs (ENV=dev for one)
	release status $(if $(ENV),--env $(ENV))

.PHONY: demo
demo: setup ## Send ten digits and a zip again (ENV=dev)
	flow demo --env $(or $(ENV),dev)

.PHONY: image
image: setup ## Build and push one service's image: make image APP=proxy
	@flow image "$${APP:?name the service: make image APP=proxy}" $(ARGS)

.PHONY: dev
dev: setup ## Run a service here beside the cluster's others, with reload: make dev APP=proxy (ENV=dev)
	@flow dev "$${APP:?name the service: make dev APP=proxy}" --env "$${ENV:-dev}" $(ARGS)

.PHONY: promote
promote: setup ## Copy digests from one environment to the next: make promote FROM=dev TO=stage
	release promote --from $(or $(FROM),$(error name the environment: FROM=dev)) \
	  --to $(or $(TO),$(error name the environment: TO=stage)) $(ARGS)
	release verify --env $(TO)

.PHONY: rollback
rollback: setup ## Restore what an environment ran before: make rollback ENV=dev
	release rollback --verify --env $(or $(ENV),$(error name the environment: ENV=dev)) $(ARGS)

.PHONY: hold
hold: setup ## Forbid changes to an environment: make hold ENV=prod REASON="…" (SERVICE=proxy)
	release hold --env $(or $(ENV),$(error name the environment: ENV=prod)) \
	  --reason "$${REASON:?say why: REASON=\"…\"}" \
	  $(if $(SERVICE),--service $(SERVICE)) $(ARGS)

.PHONY: unhold
unhold: setup ## End an environment's holds: make unhold ENV=prod (SERVICE=proxy)
	release unhold --env $(or $(ENV),$(error name the environment: ENV=prod)) \
	  $(if $(SERVICE),--service $(SERVICE)) $(ARGS)

.PHONY: history
history: setup ## Show an environment's deployments: make history ENV=dev
	release history --env $(or $(ENV),dev) $(ARGS)

##@ The code

SPACE := $(subst ,, )
# Every package of the workspace, own services too.
SOURCES := $(wildcard apps/*/src cluster/src flow/src)

.PHONY: setup
setup: .venv/.synced

.venv/.synced: pyproject.toml uv.lock $(wildcard apps/*/pyproject.toml) cluster/pyproject.toml flow/pyproject.toml
	@command -v uv >/dev/null || { \
	  python3 -m venv .tools 2>/dev/null \
	    || { apt-get update -qq && apt-get install -qq -y python3-venv && python3 -m venv .tools; }; \
	  .tools/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); }
	@uv sync --quiet --frozen --all-packages --python python3 || { \
	  test -x .venv/bin/release && echo "uv.lock does not fit the packages: run 'uv lock' and \
	commit it; going on with what is installed" >&2; }
	@touch $@

.PHONY: programs
programs: setup ## Build and install the programs that the tests drive
	cluster build --for-tests

# A worker takes up to 2 GB, its servers included.
WORKERS ?= auto

.PHONY: test
test: programs ## Run the tests that need no cluster (CHANGED=1: those a change touches directly)
ifneq ($(CHANGED),)
	python -m tests.changed --numprocesses=$(WORKERS) --dist=loadfile $(ARGS)
else
	pytest -m 'not e2e and not conformance' --numprocesses=$(WORKERS) --dist=loadfile $(ARGS)
endif

.PHONY: test-steady
test-steady: programs ## Run the tests idle, busy, on one core, file by file and in random order
	python -m tests.steady $(ARGS)

.PHONY: conformance
conformance: programs ## Run what strangers bring, whole, and write its tables (docs/conformance.md)
	pytest -m 'conformance and not e2e' --timeout=3000 $(ARGS)

.PHONY: e2e e2e-full
e2e: up ## Run the tests that need the cluster
	pytest tests/e2e --timeout=600 $(ARGS)
e2e-full: addons ## And those of every routing pattern, autoscaler and disruption
	pytest -m e2e --timeout=600 $(ARGS)

.PHONY: breakage
breakage: up ## Break dev in two ways of each kind, tell who notices, and mend it
	python -m tests.breakage $(ARGS)

.PHONY: lint
lint: setup ## Check style and types
	ruff check .
	ruff format --check .
	MYPYPATH=$(subst $(SPACE),:,$(SOURCES)) mypy $(addprefix --package=,$(notdir $(wildcard $(addsuffix /[a-z]*,$(SOURCES)))))

.PHONY: validate
validate: programs ## Render every release and check it: names, schemas, settings
	release validate $(if $(ENV),--env $(ENV)) $(ARGS)

.PHONY: format
format: setup ## Format the code
	ruff check --fix .
	ruff format .

.PHONY: trim
trim: setup ## Drop old builds and Go's caches
	cluster trim

.PHONY: docs
docs: setup ## Build the pages into a site with search (build/docs); a broken link is an error
	uv run --quiet --frozen --isolated --only-group docs python docs/site.py

.PHONY: reference
reference: setup ## Write the references of settings, commands and charts from the code
	python -m tests.references
	python -m release.reference > docs/reference/release.md
	python charts/reference.py
	python -m kit.transforms_reference > docs/reference/transforms.md
	python -m tests.documented

.PHONY: schemas
schemas: setup ## Write the closed schemas that rendered manifests are checked against
	python charts/schemas.py

.PHONY: test-crash
test-crash: programs ## Kill the extractor at every call to S3, all 1,000 of them (13 minutes)
	SLIPWAY_CRASH_POINTS=all pytest tests/unzip/processing/test_crash.py -rP --timeout=3000

.PHONY: bench-inference bench-overload bench-proxy bench-release bench-routing bench-unzip
bench-inference: setup ## Our model server beside its Python peers
	python -m bench.inference $(ARGS)
bench-overload: programs ## Servers past their peak: ours and peers, open and closed loop
	python -m bench.overload $(ARGS)
bench-proxy: programs ## Our gateway beside nginx, Envoy and the usual Python proxies
	python -m bench.proxy $(ARGS)
bench-release: programs ## Bumps under contention, validate, diff; with a cluster, syncs and rollbacks
	python -m bench.release $(if $(wildcard $(KUBECONFIG)),--cluster) $(ARGS)
bench-routing: setup ## What each hop and each hundred routes cost, on the cluster
	python -m bench.routing $(ARGS)
bench-unzip: programs ## Our extractor beside the usual ways
	python -m bench.unzip $(ARGS)

##@ What the workflows call

# What a workflow gets from outside stands in the environment and is read by the shell: make would
# run what a variable of its own holds, `$(shell …)` and `;` included.

.PHONY: model
model: setup ## Train and publish a model: make model VERSION=next TO=model.json
	trainer train --to build/model
	trainer publish --from build/model --version "$${VERSION:-next}" --json \
	  > "$${TO:-/dev/stdout}"

.PHONY: sign
sign: ## Sign an image by its digest: make sign IMAGE=…@sha256:…
	cosign sign --yes "$${IMAGE:?name the image: IMAGE=repository@sha256:…}"
