"""One call on a bare GPU machine: install what is there, unpack what is there, work on the queue, stop before the limit.

    python3 -m benchmarks.gpu.start --parts .gpu/parts --work .gpu/work --out OUT --seconds 540

Needs no package. Calls that bring parts one by one may each run this: as soon as the wheels suffice, the queue begins, and takes in
what it has data for. A call that comes later continues. Everything that is needed and not there is named.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path


def bundled(parts: Path) -> dict[str, list[str]]:
    """Part -> its files, of the whole bundle, by the list that every part has."""
    found = sorted(parts.glob("*/bundle.json"))
    if not found:
        sys.exit(f"{parts} has no part with a bundle.json. Carry the parts made by python -m benchmarks.gpu.bundle.")
    return json.loads(found[-1].read_text())


def absent_wheels(parts: Path) -> list[Path]:
    """The wheels of packages that this Python does not have, whether they are here or not."""
    absent = []
    for part, files in bundled(parts).items():
        for file in files:
            if file.endswith(".whl"):
                try:
                    importlib.metadata.version(file.split("-")[0])
                except importlib.metadata.PackageNotFoundError:
                    absent.append(parts / part / file)
    return absent


def install(parts: Path) -> bool:
    """Install what this Python lacks; what it has stays, and is checked. False if parts are missing, which are named."""
    absent = absent_wheels(parts)
    missing = [wheel for wheel in absent if not wheel.is_file()]
    for part in dict.fromkeys(wheel.parent.name for wheel in missing):
        names = [wheel.name.split("-")[0] for wheel in missing if wheel.parent.name == part]
        print(f"missing: {', '.join(names)}. Carry {part}.")
    if missing:
        return False
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    if absent:
        # without dependencies: nothing that this Python has may be replaced, or keep the rest from being installed
        options = ["-q", "--no-deps", "--no-index", "--no-cache-dir", "--root-user-action", "ignore"]
        subprocess.run([*pip, "install", *options, *map(str, absent)], check=True)
        checked = subprocess.run([*pip, "check"], capture_output=True, text=True).stdout
        print(
            f"pip check: {checked.strip()}\nA version that nnU-Net cannot use is replaced by a spare wheel: pip install --no-deps."
        )
    return True


def unpack(parts: Path, data: Path) -> None:
    """Releases whose parts are all here to `data`; the others are named."""
    wanted = [(part, file) for part, files in bundled(parts).items() for file in files if file.endswith(".tar")]
    for name in sorted({file.rpartition("_")[0] for _, file in wanted}):
        files = [(part, file) for part, file in wanted if file.rpartition("_")[0] == name]
        absent = [part for part, file in files if not (parts / part / file).is_file()]
        if (data / name).is_dir():
            continue
        if absent:
            print(f"missing: data of {name}. Carry {', '.join(absent)}.")
            continue
        unfinished = data / "unfinished"
        for part, file in files:
            with tarfile.open(parts / part / file) as cases:
                for case in cases:
                    with tarfile.open(fileobj=cases.extractfile(case), mode="r:xz") as inner:
                        inner.extractall(unfinished, filter="data")
        (unfinished / name).rename(data / name)


def watched(words: Sequence[str], deadline: float, grace: float) -> int:
    """Run the queue and return its exit code; `grace` seconds before `deadline` (time.monotonic) it is told to end."""
    process = subprocess.Popen(words, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        return process.wait(max(1.0, deadline - grace - time.monotonic()))
    except subprocess.TimeoutExpired:
        print("The time of this call is over; the next one continues.")
        return 0
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                process.kill()


def main(words: Sequence[str] | None = None) -> int:
    begin = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=Path, help="folder of the parts. Default: nothing is installed or unpacked")
    parser.add_argument("--work", type=Path, required=True, help="stays between calls")
    parser.add_argument("--out", type=Path, required=True, help="gets CSV and figures, again and again")
    parser.add_argument("--seconds", type=float, default=540, help="everything is stopped by then. Default: 540")
    parser.add_argument("--grace", type=float, default=15, help="of these, for ending all processes. Default: 15")
    parser.add_argument("--rehearse", action="store_true", help="tiny lengths on CPU, with data that are made up")
    parser.add_argument("queue", nargs="*", metavar="OPTION", help="after --: options of benchmarks/gpu/work.py")
    args = parser.parse_args(words)
    data = args.work / "data"
    data.mkdir(parents=True, exist_ok=True)
    if args.parts:
        unpack(args.parts, data)
        if not install(args.parts):
            return 0
        print(f"installed and unpacked after {time.monotonic() - begin:.0f} s")
    queue = [sys.executable, "-m", "benchmarks.gpu.work", "--work", str(args.work), "--out", str(args.out), *args.queue]
    return watched([*queue, *(["--rehearse"] if args.rehearse else [])], begin + args.seconds, args.grace)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that `finally` ends the queue
    sys.exit(main())
