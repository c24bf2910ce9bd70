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

# writes what pages have from the code: the table of rooms in docs/architecture.md, docs/functions.md, facts in docs/methods.md
docs:
	python -m tests.helpers.rooms
	python -m tests.helpers.functions
	python -m tests.helpers.methods

oldest:
	.ci/oldest
