"""Virtual environments that reuse the packages installed here, so that installing nnunet-ssl again takes seconds.

As a command, `python -m tests.helpers.environments FOLDER` builds a wheel, installs it without dependencies into an environment
below FOLDER and prints the path of that environment's Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from tests.helpers.paths import REPOSITORY

PACKAGE_FOLDERS = {
    "nnunet_ssl": "nnunet_ssl",
    "trainers": "nnunet_ssl/trainers",
    "dataset_conversion": "nnunet_ssl/dataset_conversion",
    "plans": "nnunet_ssl/plans",
}
"""Folder in the source tree -> folder in the wheel."""

SCANNED = Path("nnunet_ssl", "discovery", "nnunet_ext")


LINKED = tuple(name for name in PACKAGE_FOLDERS if name != "nnunet_ssl")
"""The folders that a link in nnunet_ssl/ leads to, so that a checkout has the same names as an installation."""

BUILD_FILES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")


def copy_source(target: Path) -> Path:
    """What is needed for building. A copy, so that no build folder is left in the source tree or taken from it."""
    target.mkdir()
    for name in BUILD_FILES:
        shutil.copy(REPOSITORY / name, target)
    for name in PACKAGE_FOLDERS:
        shutil.copytree(REPOSITORY / name, target / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def replace_links(source: Path) -> Path:
    """A checkout by git without `core.symlinks`, as on many Windows machines: a link is a text file that holds its target."""
    for name in LINKED:
        link = source / "nnunet_ssl" / name
        link.unlink()
        link.write_text(f"../{name}")
    return source


def run(*command, **options) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pip(*arguments, **options) -> str:
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, **options)


def build_wheel(source: Path, target: Path) -> Path:
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", target, source)
    (wheel,) = target.glob("*.whl")
    return wheel


def link_installed_packages(target: Path) -> Path:
    """A folder that leads to all packages of this environment but nnunet-ssl, with their start-up files."""
    target.mkdir()
    for folder in map(Path, sys.path):
        if folder.name not in ("site-packages", "dist-packages") or not folder.is_dir():
            continue
        for entry in folder.iterdir():
            link = target / entry.name
            if "nnunet_ssl" not in entry.name and entry.name != "__pycache__" and not link.exists():
                link.symlink_to(entry)
    return target


class Environment:
    """A fresh virtual environment that reuses the packages installed here, with nnunet-ssl installed in one way."""

    def __init__(self, folder: Path, packages: Path):
        self.folder = folder / "environment"
        venv.create(self.folder, with_pip=False, symlinks=os.name != "nt")
        scripts = self.folder / ("Scripts" if os.name == "nt" else "bin")
        self.python = scripts / "python"
        self.command = scripts / "nnunet_ssl"
        paths = run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
        self.site = Path(paths.strip())
        (self.site / "reused.pth").write_text(f"import site; site.addsitedir({str(packages)!r})\n")
        self.outside = folder / "outside"
        self.outside.mkdir()
        self.package = self.site

    def install(self, *arguments, package: Path | None = None) -> Environment:
        """`package`: the folder in which nnunet_ssl/ will lie, by default that of site-packages."""
        options = ("--no-deps", "--no-index", "--no-build-isolation")
        pip("--python", self.python, "install", *options, *arguments, env=self.variables())
        self.package = package or self.site
        return self

    @property
    def scanned(self) -> str:
        return str(self.package / SCANNED)

    def variables(self, **changed: str) -> dict[str, str]:
        """This process's environment without what points at another copy of the trainers."""
        dropped = ("nnUNet_extTrainer", "nnUNet_ssl_no_autodiscovery", "PYTHONPATH")
        return {k: v for k, v in os.environ.items() if k not in dropped} | changed

    def execute(self, code: str, *arguments, start: Path | None = None, **changed: str) -> str:
        """What `code` prints. It runs in the folder `start`, which is first on its `sys.path`; by default in an empty one."""
        command = [self.python, "-W", "ignore", "-c", code, *arguments]
        return run(*command, cwd=start or self.outside, env=self.variables(**changed)).strip()


def main(folder: Path) -> None:
    wheel = build_wheel(copy_source(folder / "source"), folder / "wheel")
    environment = Environment(folder, link_installed_packages(folder / "packages"))
    print(environment.install(wheel).python)


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    target.mkdir(parents=True, exist_ok=True)
    main(target)
