"""`python -m tests.golden DIR [name ...] [--json FILE]`: do our functions give what the official code gave?"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tests.golden.framework import check_folder

EXAMPLE = """example:
  python -m tests.golden tests/golden/data
  python -m tests.golden ../shared/golden mean_teacher --json golden.json

exit status: 0 if every file checked is complete (all its outputs matched, or listed as not followed), 1 otherwise"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden",
        description="Feed the inputs of golden files to nnunet_ssl and compare with their outputs.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder with <name>.npz and <name>.json")
    parser.add_argument("names", metavar="name", nargs="*", help="files to check; default: all that have an adapter")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the counts to this file")
    args = parser.parse_args(arguments)

    names = [name.removesuffix(".npz").removesuffix(".json") for name in args.names]
    reports, without_adapter, problems = check_folder(args.folder, list(dict.fromkeys(names)))
    for report in reports:
        print(report)
    for name in without_adapter:
        print(f"{name}: no adapter")
    for problem in problems:
        print(problem, file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps({report.name: report.as_json() for report in reports}, indent=1) + "\n")
    complete = sum(report.complete for report in reports)
    print(f"{complete} of {len(reports)} files complete")
    return 0 if complete == len(reports) and not problems else 1


if __name__ == "__main__":
    sys.exit(main())
