# Everything runs in .venv, which is set up once and again only when pyproject.toml or the lock changes.
PYTHON ?= python3
FAISS := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu || echo cpu)
BIN := .venv/bin

.PHONY: demo test quick lint setup setup-dev lock clean

demo: setup  ## The main job on the documentation of this Python: leaderboard, MLflow, a search bundle.
	$(BIN)/cascade run pydocs
	$(BIN)/cascade search "how do I read a zip file" --k 3

test: setup-dev lint  ## Everything.
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

quick: setup-dev  ## The fast tests.
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: .venv/.installed
setup-dev: .venv/.installed-dev

.venv/.installed: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c requirements.lock -e ".[$(FAISS)]"
	touch $@

.venv/.installed-dev: .venv/.installed
	$(BIN)/python -m pip install -q -c requirements.lock -e ".[$(FAISS),dev]"
	touch $@

lock:  ## Resolve every extra afresh into requirements.lock.
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install -q --upgrade pip
	.venv-lock/bin/python -m pip install -q --dry-run --report .venv-lock/report.json ".[cpu,data,dags,cluster,dev]"
	.venv-lock/bin/python -c "import json; r = json.load(open('.venv-lock/report.json')); \
	print(*sorted({i['metadata']['name'].lower() + '==' + i['metadata']['version'].split('+')[0] for i in r['install']} - {'cascade-ranking==0.1.0'}), sep='\n')" > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf .venv .venv-lock build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
