"""`python -m tests.faults --long --write`: every spoiled input; every command that writes, killed 50 times and on a full disk.

The tables go into docs/reliability.md; without --write they are printed only. What was wrong is printed to stderr. `--commands`
leaves the spoiled inputs out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.processes import WRITERS, Tried, trial, try_full_disk, try_kills, try_kills_of_checkpoints
from tests.helpers.paths import REPOSITORY

KILLS, FULL_DISKS = 50, 8
PAGE = REPOSITORY / "docs" / "reliability.md"
MARKS = {kind: (f"<!-- {kind} -->\n", f"<!-- end of {kind} -->") for kind in ("kills", "full disks")}
HEADS = {
    "kills": "| command | killed | was faster | repeated with the result of an undisturbed run | wrong |",
    "full disks": "| command | stopped by a full disk | needed no more | refused in a sentence, then repeated | wrong |",
}


def row(name: str, tried: Tried) -> str:
    right = tried.number - min(tried.number, len(tried.wrong))
    return f"| {name} | {tried.number} | {tried.too_late} | {right} | {len(tried.wrong)} |"


def parse_table(text: str) -> dict[str, list[str]]:
    """First cell of each row below the head -> the others."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()]
    return {first: others for first, *others in lines[2:]}


def write(page: Path, kind: str, rows: dict[str, str]) -> None:
    """Replace the rows of these commands; those of others stay."""
    begin, end = MARKS[kind]
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    old, _, after = rest.partition(end)
    kept = {name: f"| {' | '.join([name, *cells])} |" for name, cells in parse_table(old).items()}
    kept |= rows
    order = [f"`{name}`" for name in WRITERS] + ["checkpoints of `nnUNetv2_train`"]
    table = [HEADS[kind], "|---|---|---|---|---|", *(kept[name] for name in order if name in kept)]
    page.write_text(f"{before}{begin}" + "\n".join(table) + f"\n{end}{after}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--long", action="store_true", help=f"{KILLS} kills and {FULL_DISKS} full disks each. Default: 2"
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/reliability.md")
    parser.add_argument("--commands", nargs="+", choices=WRITERS, metavar="COMMAND", help="only these. Default: all")
    args = parser.parse_args(arguments)
    kills, disks = (KILLS, FULL_DISKS) if args.long else (2, 2)
    begin, failed = time.monotonic(), 0

    def report(text: str) -> None:
        print(f"{time.monotonic() - begin:6.0f} s  {text}", file=sys.stderr, flush=True)

    if args.long and not args.commands:  # and the commands that the short form leaves out, twice at once
        failed += pytest.main(["-m", "long", str(REPOSITORY / "tests" / "faults")])
    for name in args.commands or WRITERS:
        tables: dict[str, dict[str, str]] = {"kills": {}, "full disks": {}}
        try:
            with trial(WRITERS[name]) as of:
                tries: list[tuple[str, str, Callable[[], Tried]]] = [
                    ("kills", f"`{name}`", lambda: try_kills(of, kills, report=report)),
                    ("full disks", f"`{name}`", lambda: try_full_disk(of, disks, report=report)),
                ]
                if name == "nnUNetv2_train":
                    checkpoints = f"checkpoints of `{name}`"
                    tries.append(("kills", checkpoints, lambda: try_kills_of_checkpoints(of, kills, report=report)))
                for kind, what, attempt in tries:
                    tried = attempt()
                    failed += len(tried.wrong)
                    tables[kind][what] = row(what, tried)
                    print(f"{kind}: {tables[kind][what]}", flush=True)
                    print("\n".join(tried.wrong), file=sys.stderr, flush=True)
        except Exception as error:  # the others go on
            failed += 1
            report(f"{name} cannot be tried: {type(error).__name__}: {str(error)[-2000:]}")
        if args.write:
            for kind, rows in tables.items():
                write(PAGE, kind, rows)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
