# The README's two commands are `make serve` and `make test`; each makes what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: serve test check fuzz faults load format lock clean

serve: $(VENV)/.runtime static/vendor/.done
	@$(BIN)/python manage.py serve

test: $(VENV)/.dev
	@$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/djlint --check --lint templates
	$(BIN)/python manage.py makemigrations --check --dry-run
	HOMELAB_PUBLIC_URL=https://hub.example $(BIN)/python manage.py check --deploy --fail-level WARNING
	$(BIN)/python manage.py spectacular --validate --fail-on-warn --file /dev/null

fuzz: $(VENV)/.dev # ten minutes; FUZZ_SECONDS=60 make fuzz for less
	@$(BIN)/python -m homelab.tests.fuzz

faults: $(VENV)/.dev # an hour or two; FAULT_ROUNDS=20 make faults for a tenth of the kills; DATABASE_URL for PostgreSQL
	@FAULT_ROUNDS=$${FAULT_ROUNDS:-200} $(BIN)/python -m pytest -n 0 -q -m faults homelab/tests/faults

load: $(VENV)/.dev # eleven minutes; LOAD_SECONDS=60 make load for less; DATABASE_URL for PostgreSQL
	@$(BIN)/python -m homelab.tests.load

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/djlint --reformat --quiet templates

lock: # pin the newest versions that pyproject.toml allows; needs uv
	uv pip compile pyproject.toml --python-version 3.11 --universal --generate-hashes --no-header --no-emit-index-url --no-emit-find-links -q -o requirements.txt
	uv pip compile pyproject.toml --extra dev -c requirements.txt --python-version 3.11 --universal --generate-hashes --no-header --no-emit-index-url --no-emit-find-links -q -o .ci/requirements.txt

clean:
	rm -rf $(VENV) node_modules static/vendor

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.txt | $(BIN)/python
	@echo "Installing Homelab's pinned dependencies ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

$(VENV)/.dev: .ci/requirements.txt | $(BIN)/python
	@echo "Installing the pinned development dependencies ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .ci/requirements.txt
	@touch $@ $(VENV)/.runtime

# uPlot draws the interactive charts; without npm the pages keep their SVG charts.
static/vendor/.done: package-lock.json
	@mkdir -p static/vendor
	@if command -v npm >/dev/null 2>&1 && npm ci --silent --ignore-scripts --no-audit --no-fund; then \
		cp node_modules/uplot/dist/uPlot.iife.min.js node_modules/uplot/dist/uPlot.min.css static/vendor/ && touch $@; \
	else \
		echo "npm is not here or could not fetch uPlot: pages use their SVG charts."; \
	fi
