"""What a bare GPU machine without network needs, in parts of a limited size: wheels, data, and a list of both.

    python -m benchmarks.gpu.bundle .gpu/parts --data releases

finds what nnunet-ssl and pytest need for Python 3.12 on x86-64 Linux without torch, in the versions that are installed here,
downloads the wheels, makes those that PyPI has as sources only, packs the releases of ACDC and of the left atrium as tar.xz, and
sorts all of it into the folders `wheels1`, ..., `data1`, ... and `spare1`, ... (what a machine with PyTorch mostly has) below
.gpu/parts. `bundle.json`, in each of them, says which file lies where. The data are images of patients: keep the folder out of git.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from nnunet_ssl.errors import UserError
from tests.helpers.environments import build_wheel, copy_source
from tests.helpers.paths import REPOSITORY, SHARED

MIB = 2**20
LIMIT = 64  # MiB that a call carries: a part and the files of the repository
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17, 12, 5)] + ["manylinux2014_x86_64"]
# on PyPI as sources only, and pure Python
SOURCES = ("nnunetv2", "batchgenerators", "batchgeneratorsv2", "acvl-utils", "dynamic-network-architectures")
# what no part has: the machine's own torch is used
NOT_CARRIED = re.compile(r"torch(vision)?|triton|nvidia-.*|cuda-.*|setuptools|pip")
# what a machine with PyTorch mostly has; carried only if it turns out that it has not
SPARE = frozenset(Path(__file__).with_name("spare.txt").read_text().split())


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def distribution(wheel: Path) -> tuple[str, str]:
    """Name and version by the name of the file."""
    name, version, *_ = wheel.name.split("-")
    return normalized(name), version


def pip(*words: object) -> str:
    done = subprocess.run([sys.executable, "-m", "pip", "-q", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(
            f"pip {words[0]} failed:\n{done.stderr.strip()}\nIf it found no matching distribution, PyPI has sources only: add the "
            f"name to SOURCES in {Path(__file__).name}."
        )
    return done.stdout


def needed(roots: Sequence[str], python: str) -> dict[str, str]:
    """Name -> installed version of everything that `roots` need on x86-64 Linux, by the metadata of what is installed here."""
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "os_name": "posix",
    }
    machine |= {"platform_system": "Linux", "platform_machine": "x86_64", "implementation_name": "cpython", "extra": ""}
    found: dict[str, str] = {}
    names = list(map(normalized, roots))
    while names:
        name = names.pop()
        if name in found or NOT_CARRIED.fullmatch(name):
            continue
        try:
            installed = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise UserError(
                f"{name} is not installed here. pip install nnunet-ssl[test], then make the bundle."
            ) from error
        found[name] = installed.version
        for requirement in map(Requirement, installed.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate(machine):
                names.append(normalized(requirement.name))
    return dict(sorted(found.items()))


def collect_wheels(target: Path, python: str) -> list[Path]:
    """The wheels of everything that is needed but torch, in the versions that are installed here."""
    binary = ["--only-binary", ":all:", "--python-version", python, "--implementation", "cp"]
    binary += [word for platform in PLATFORMS for word in ("--platform", platform)]
    versions = needed(("nnunet-ssl", "pytest"), python)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(build_wheel(copy_source(Path(folder, "source")), Path(folder, "own")), target)
    present = dict(map(distribution, target.glob("*.whl")))
    absent = {
        name: version for name, version in versions.items() if present.get(name) != version and name != "nnunet-ssl"
    }
    made, loaded = ([f"{n}=={v}" for n, v in absent.items() if (n in SOURCES) == own] for own in (True, False))
    if made:
        pip("wheel", "--no-deps", "--no-binary", ",".join(SOURCES), "-w", target, *made)
    if loaded:
        pip("download", "--no-deps", "-d", target, *binary, *loaded)
    wheels = [wheel for wheel in sorted(target.glob("*.whl")) if distribution(wheel) in versions.items()]
    compiled = [w.name for w in wheels if distribution(w)[0] in SOURCES and not w.name.endswith("-none-any.whl")]
    if compiled:
        raise UserError(f"{compiled[0]} was compiled here, and is of no use elsewhere. Take its name out of SOURCES.")
    return wheels


def pack_release(folder: Path, target: Path, limit: int) -> list[Path]:
    """A release as one or more `<name>_<k>.tar.xz` of at most `limit` bytes, cut between top-level groups of files (cases)."""
    groups: dict[Path, list[Path]] = {}
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        groups.setdefault(file.parent, []).append(file)
    if not groups:
        raise UserError(f"{folder} has no files. Name the folder of the releases with --data.")
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        cases = [_compressed(group, folder, Path(scratch, f"{i}.tar.xz")) for i, group in enumerate(groups.values())]
        made = []
        for number, part in enumerate(parts_of(largest_first(cases), limit), 1):
            made.append(target / f"{folder.name}_{number}.tar")
            with tarfile.open(made[-1], "w") as tar:
                for file in part:
                    tar.add(file, file.name)
    return made


def _compressed(files: Sequence[Path], root: Path, target: Path) -> Path:
    """Files as tar.xz with paths below the parent of `root`. NIfTI and NRRD lose their own compression, which xz beats."""
    import SimpleITK as sitk

    with tempfile.TemporaryDirectory() as folder, tarfile.open(target, "w:xz") as tar:
        for file in files:
            plain = file
            if file.name.endswith((".nii.gz", ".nrrd")):
                plain = Path(folder, file.name.removesuffix(".gz"))
                sitk.WriteImage(sitk.ReadImage(str(file)), str(plain), useCompression=False)
            tar.add(plain, file.relative_to(root.parent).with_name(plain.name))
    return target


def largest_first(files: Iterable[Path]) -> list[tuple[Path, int]]:
    return sorted(((file, file.stat().st_size) for file in files), key=lambda item: -item[1])


def parts_of(files: Iterable[tuple[Path, int]], limit: int) -> list[list[Path]]:
    """Files with their sizes in groups of at most `limit` bytes: each in the first group that has room."""
    groups: list[tuple[int, list[Path]]] = []
    for file, size in files:
        if size > limit:
            raise UserError(f"{file} has {size / MIB:.1f} MiB, a part may have {limit / MIB:.1f}.")
        for index, (used, group) in enumerate(groups):
            if used + size <= limit:
                groups[index] = used + size, [*group, file]
                break
        else:
            groups.append((size, [file]))
    return [group for _, group in groups]


def size_of_repository() -> int:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    return sum((REPOSITORY / name).stat().st_size for name in listed.split("\0") if (REPOSITORY / name).is_file())


def write_parts(target: Path, wheels: Sequence[Path], data: Sequence[Path], limit: int) -> dict[str, list[str]]:
    """Copy everything into its part, and the list of all parts into each."""
    spare = [wheel for wheel in wheels if distribution(wheel)[0] in SPARE]
    kinds = {
        "wheels": largest_first(wheel for wheel in wheels if wheel not in spare),
        "data": [(file, file.stat().st_size) for file in data],  # in the order of the releases
        "spare": largest_first(spare),
    }
    parts = {}
    for name, files in kinds.items():
        for number, group in enumerate(parts_of(files, limit), 1):
            parts[f"{name}{number}"] = sorted(file.name for file in group)
            folder = target / f"{name}{number}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for file in group:
                shutil.copy(file, folder)
    for part in parts:
        (target / part / "bundle.json").write_text(json.dumps(parts, indent=1))
    return parts


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the parts; what lies there of an earlier bundle is replaced")
    parser.add_argument("--python", default="3.12", help="version on the GPU machine. Default: 3.12")
    parser.add_argument("--data", type=Path, default=SHARED / "data", metavar="DIR", help="has the folders acdc and la")
    parser.add_argument("--releases", nargs="*", default=["acdc", "la"], help="folders of --data to pack")
    parser.add_argument("--cache", type=Path, help="keeps wheels and packs between calls. Default: OUT/../cache")
    args = parser.parse_args(words)
    cache = args.cache or args.out.absolute().parent / "cache"
    limit = LIMIT * MIB - size_of_repository() - MIB
    try:
        wheels = collect_wheels(cache / f"wheels_{args.python}", args.python)
        data = []
        for name in args.releases:
            packed = sorted((cache / "data").glob(f"{name}_*.tar"))
            data += packed or pack_release(args.data / name, cache / "data", limit - MIB)
        parts = write_parts(args.out, wheels, data, limit)
    except UserError as error:
        print(f"\nbundle: {error}", file=sys.stderr)
        return 1
    for part, files in parts.items():
        size = sum(file.stat().st_size for file in (args.out / part).iterdir()) / MIB
        print(f"{part:<8} {size:6.1f} MiB  {', '.join(files)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
