"""`python -m tests.faults --long`: 50 kills of every command that writes, as a table for docs/reliability.md."""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path

from tests.faults.processes import WRITERS, try_kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true", help="50 kills each. Default: 3")
    parser.add_argument("--commands", nargs="+", choices=WRITERS, default=list(WRITERS))
    args = parser.parse_args()
    number, failed = 50 if args.long else 3, 0
    print("| command | killed | repeated with the result of an undisturbed run | wrong |\n|---|---|---|---|")
    for name in args.commands:
        with tempfile.TemporaryDirectory() as folder:
            numbers = itertools.count()

            def make_root(folder: str = folder, numbers: itertools.count = numbers) -> Path:
                root = Path(folder, str(next(numbers)))
                root.mkdir()
                return root

            wrong = try_kills(make_root, WRITERS[name], number)
        print(f"| `{name}` | {number} | {number - len(wrong)} | {len(wrong)} |", flush=True)
        print("\n".join(wrong), file=sys.stderr)
        failed += len(wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
