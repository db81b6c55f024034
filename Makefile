.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow check format docs benchmark cost gpu soak chaos

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install:  ## Install filtune with the packages that its tests need
	pip install -e '.[test]'

quickstart:  ## Learn handwritten digits from a stream with Filtune, LoKO and AdamW (under a minute)
	filtune fit --config configs/quickstart.yaml

test:  ## Run the tests (under six minutes on two cores)
	pytest

test-slow:  ## Run the tests that take minutes: the figures on real data, the wheel in a fresh environment
	pytest -m slow

check:  ## Style, docstrings, types, spelling and words that are out
	ruff check . && ruff format --check . && mypy && codespell && python -m tests.docs.words

format:  ## Format the code
	ruff format . && ruff check --fix .

docs:  ## Build the documentation site into build/site (pip install -e '.[docs]')
	NO_MKDOCS_2_WARNING=1 mkdocs build

benchmark:  ## Time a step of each optimizer side by side, on LeNet-5
	python -m benchmarks.step_time --model lenet5 --outputs 10

cost:  ## What every filter costs, over outputs, size of the state and batch (under ten minutes on two cores)
	python -m benchmarks.cost --threads 1 --output docs/results/cost

gpu:  ## Check and measure everything on a CUDA device (eight minutes)
	python -m benchmarks.gpu --output gpu.json

soak:  ## Train five optimizers for 100,000 steps each (hours; resumable)
	for method in filtune loko lofi r-kalman ring; do python -m tests.endurance.soak --method $$method --output build/soak/$$method.json || exit 1; done

chaos:  ## Kill commands at 200 random moments and compare with uninterrupted ones (hours; resumable)
	python -m tests.endurance.chaos --kills 200 --output build/chaos.json
