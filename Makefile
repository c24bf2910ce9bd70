# The commands of development; .ci/run does lint, types and test in a fresh environment.
.PHONY: lint format types fast test golden docs oldest

lint:
	ruff check .
	ruff format --check .

format:
	ruff check --fix .
	ruff format .

types:
	mypy

fast:
	python -m pytest -m fast -n 2

test:
	python -m pytest -n 2

golden:
	python -m tests.golden tests/golden/data

# writes the table of rooms in docs/architecture.md
docs:
	python -m tests.helpers.rooms

oldest:
	.ci/oldest
