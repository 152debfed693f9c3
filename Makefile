# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-all lint bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade-strategy only-if-needed -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY)
	rm -rf runs/demo
	$(BIN)/anomaly fit sample_data/bracket --out runs/demo/model --config configs/demo.yaml
	$(BIN)/anomaly inspect sample_data/bracket/test --model runs/demo/model --out runs/demo/results
	$(BIN)/anomaly evaluate sample_data/bracket --model runs/demo/model
	@echo "open runs/demo/results/report.html"

test: $(READY)
	$(BIN)/python -m pytest

test-all: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test-all]'
	$(BIN)/python -m pytest -m 'slow or not slow'

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python -m pipelines.benchmark $(BENCH)
	$(BIN)/python -m pipelines.speed --out runs/speed
	$(BIN)/python -m pipelines.scale

clean:
	rm -rf .venv runs
