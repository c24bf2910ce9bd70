"""`nnunet_ssl check`: counts, leaks, images that look alike."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, fields
from pathlib import Path

from nnunet_ssl.data.atomic import write_atomically
from nnunet_ssl.data.inspection import check_dataset
from nnunet_ssl.data.inspection_report import Report, print_report
from nnunet_ssl.data.json_files import read_json
from nnunet_ssl.errors import UserError

DESCRIPTION = (
    "Count the cases of a data set and look for leaks: unlabeled or labeled training images that are also validation or "
    "test images, by id, by content and by patient. Also lists images that look alike and unusual geometries. Exit status "
    "1 on a leak."
)
EXAMPLE = "example:\n  nnunet_ssl check -d 101 -np 4 --json check.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", required=True, help="[REQUIRED] id or name of the data set")
    parser.add_argument("-np", type=int, default=8, help="[OPTIONAL] number of processes. Default: 8")
    parser.add_argument(
        "--near_duplicate_threshold",
        type=float,
        default=0.95,
        help="[OPTIONAL] correlation of two aligned images from which they are called near-duplicates. Default: 0.95",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="[OPTIONAL] near-duplicates and equal label maps on both sides of a split count as leaks",
    )
    parser.add_argument("--json", default=None, help="[OPTIONAL] file to write everything to")
    parser.add_argument("--no_pbar", action="store_true", help="[OPTIONAL] no progress bars")


def _refuse_to_replace(given: str) -> None:
    """UserError unless this file can be made, or is a report of an earlier check."""
    file = Path(given)
    if not given or not file.parent.is_dir():
        raise UserError(f"--json {given!r}: the folder {file.parent} does not exist. Create it, or name another file.")
    if not os.path.lexists(file):
        return
    if file.is_file() and not file.is_symlink():
        try:
            if read_json(file, dict).keys() == {field.name for field in fields(Report)}:
                return
        except UserError:
            pass
    raise UserError(
        f"--json {given}: it exists and is no report of `nnunet_ssl check`, so it is not replaced. Name another file."
    )


def run(args: argparse.Namespace) -> int:
    if not -1 < args.near_duplicate_threshold <= 1:
        raise UserError(
            f"--near_duplicate_threshold is {args.near_duplicate_threshold}; allowed is a correlation in (-1, 1]."
        )
    if args.json is not None:
        _refuse_to_replace(args.json)
    report = check_dataset(
        args.d,
        args.np,
        threshold=args.near_duplicate_threshold,
        strict=args.strict,
        show_progress=not args.no_pbar,
    )
    print_report(report, args.near_duplicate_threshold)
    if args.json:
        text = json.dumps(asdict(report), indent=2) + "\n"
        write_atomically(args.json, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return 1 if report.leaks else 0
