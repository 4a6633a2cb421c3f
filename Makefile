# Each target works alone in a fresh clone: it first makes .venv from the locked, hashed requirements.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
ifneq (,$(findstring :,$(CURDIR)))
$(error $(CURDIR) contains a colon, which separates directories in PATH: move or rename the checkout)
endif
# Jobs, tests and tools are those of .venv, whatever else is installed.
export PATH := $(BIN):$(PATH)

.PHONY: help reproduce cached page report verify test test-ecosystem check archive lock environment clean

help:
	@echo "make reproduce   retrain everything at laptop scale, redraw every figure, judge every claim"
	@echo "make cached      redraw and judge the shipped runs, and compare with what is shipped; nothing is trained"
	@echo "make page        write the shipped results as one page for a browser, artifact.html"
	@echo "make report      make Snakemake's own report, report.html"
	@echo "make verify      check the shipped runs: all hashes, and a sample of them made again here"
	@echo "make test        run the tests"
	@echo "make test-ecosystem  run KAdam with Lightning, Hugging Face, FSDP and others; a few minutes"
	@echo "make check       formatting, types and static checks (ruff, mypy, snakefmt, snakemake --lint)"
	@echo "make archive     a tarball of the current commit without history, dist/ctadam-VERSION.tar, and its sha256"
	@echo "make lock        resolve requirements.txt anew from pyproject.toml"

environment: $(VENV)/.installed

# pip compiles what it installs; without that every process would spend seconds compiling torch and seaborn again.
$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "This needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Making $(VENV) (about 6 GB, some minutes the first time) ..."
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "Python's venv module is missing (Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	$(VENV)/bin/python -m pip install --quiet --require-hashes -r requirements.txt
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

reproduce: environment
	snakemake
	@echo "Done. Figures: paper_figures/fresh/laptop/   Ledger of claims: results/fresh/laptop/claims.csv"

cached: environment
	snakemake cached
	@echo "Done. Figures: paper_figures/redrawn/laptop/   Ledger of claims: results/redrawn/laptop/claims.csv"

page: environment
	snakemake page
	@echo "Done. Open artifact.html in a browser: verdicts, figures with their claims, explorer, provenance"

report: environment
	snakemake report --report-after-run --report report.html
	@echo "Done. Open report.html in a browser: ledger, figures, provenance and run times"

verify: environment
	snakemake verify

test: environment
	python -m pytest
	@echo "Tests passed. Next: make reproduce, or one figure: .venv/bin/snakemake fig2"

test-ecosystem: environment
	python -m pytest tests/ecosystem -m ecosystem

check: environment
	ruff check .
	ruff format --check .
	mypy
	snakefmt --check Snakefile workflow
	snakemake --lint

archive: environment
	python -m ctadam archive

lock: environment
	uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header --all-extras \
		pyproject.toml -o requirements.txt

clean:
	rm -rf results/fresh results/redrawn results/logs paper_figures/fresh paper_figures/redrawn .snakemake
