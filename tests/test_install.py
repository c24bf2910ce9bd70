"""Installed in each of the three ways, outside the source tree: nnU-Net finds the trainers without any export."""

from __future__ import annotations

import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.helpers.environments import (
    PACKAGE_FOLDERS,
    Environment,
    build_wheel,
    copy_source,
    link_installed_packages,
    pip,
    run,
)

STARTUP_FILE = "nnunet_ssl_autodiscovery.pth"
TRAINER = "nnUNetTrainerMeanTeacher"

PRINT_VARIABLE = "import os; print(os.environ.get('nnUNet_extTrainer'))"

FIND = f"""
import json, pickle
import nnunet_ssl
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
found, variant = find("{TRAINER}"), find("{TRAINER}_2epochs_5iters_seed3")
from nnunet_ssl.trainers import {TRAINER} as imported
print(json.dumps({{
    "package": nnunet_ssl.__file__,
    "same": found is imported,
    "stable": find("{TRAINER}") is found and find("{TRAINER}_2epochs_5iters_seed3") is variant,
    "pickled": pickle.loads(pickle.dumps([found, variant])) == [found, variant],
}}))
"""

# `site` executes the line in a function that has the folder of the file in its variable `sitedir`
MEASURE = """
import os, sys, time
def execute(sitedir, line):
    del os.environ["nnUNet_extTrainer"]
    start = time.perf_counter()
    exec(line)
    return time.perf_counter() - start
file = sys.argv[1]
with open(file) as opened:
    line = opened.read()
before = os.environ["nnUNet_extTrainer"]
modules = set(sys.modules)
print(min(execute(os.path.dirname(file), line) for _ in range(20)))
assert os.environ["nnUNet_extTrainer"] == before, os.environ["nnUNet_extTrainer"]
assert set(sys.modules) == modules, set(sys.modules) - modules
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return copy_source(tmp_path_factory.mktemp("install") / "source")


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    return link_installed_packages(tmp_path_factory.mktemp("packages") / "site-packages")


def installed_as(way: str, folder: Path, source: Path, wheel: Path, packages: Path) -> Environment:
    environment = Environment(folder, packages)
    if way == "editable":
        return environment.install("-e", source, package=source)
    return environment.install(source if way == "folder" else wheel)


WAYS = ("folder", "editable", "wheel")


@pytest.fixture(scope="module", params=WAYS)
def environment(request, tmp_path_factory, source, wheel, packages) -> Environment:
    return installed_as(request.param, tmp_path_factory.mktemp(request.param), source, wheel, packages)


def test_nnunet_finds_the_very_class_that_one_imports(environment):
    result = json.loads(environment.execute(FIND).splitlines()[-1])  # nnU-Net prints where it searches
    assert Path(result.pop("package")).parent == environment.package / "nnunet_ssl"
    assert result == {"same": True, "stable": True, "pickled": True}


def test_the_variable_names_the_folder_of_this_installation(environment):
    assert environment.execute(PRINT_VARIABLE) == environment.scanned
    assert Path(environment.scanned, "nnunet_ssl_trainers.py").is_file()


def test_the_command_prints_the_same_folder(environment):
    printed = run(environment.command, "trainers_path", cwd=environment.outside, env=environment.variables())
    assert printed.strip() == environment.scanned


def test_a_value_set_by_the_user_is_kept_and_comes_first(environment):
    assert environment.execute(PRINT_VARIABLE, nnUNet_extTrainer="mine") == f"mine{os.pathsep}{environment.scanned}"
    both = os.pathsep.join([environment.scanned, "mine"])
    assert environment.execute(PRINT_VARIABLE, nnUNet_extTrainer=both) == both


def test_child_processes_add_nothing_twice(environment):
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PRINT_VARIABLE!r}], check=True)"
    grandchild = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    assert environment.execute(grandchild) == environment.scanned


def test_the_off_switch_leaves_the_variable_alone(environment):
    assert environment.execute(PRINT_VARIABLE, nnUNet_ssl_no_autodiscovery="1") == "None"
    assert environment.execute(PRINT_VARIABLE, nnUNet_ssl_no_autodiscovery="1", nnUNet_extTrainer="mine") == "mine"
    assert environment.execute(PRINT_VARIABLE, nnUNet_ssl_no_autodiscovery="0") == environment.scanned


def test_the_startup_file_costs_less_than_a_millisecond_and_imports_nothing(environment):
    assert float(environment.execute(MEASURE, environment.site / STARTUP_FILE)) < 1e-3


@pytest.mark.parametrize("way", WAYS)
def test_uninstalling_removes_the_startup_file(way, tmp_path, source, wheel, packages):
    environment = installed_as(way, tmp_path, source, wheel, packages)
    assert (environment.site / STARTUP_FILE).is_file()
    pip("--python", environment.python, "uninstall", "-y", "nnunet-ssl", env=environment.variables())
    assert [entry.name for entry in environment.site.iterdir() if "nnunet_ssl" in entry.name] == []
    assert environment.execute(PRINT_VARIABLE) == "None"


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_at_top_level_but_the_startup_file(source, wheel):
    expected = {STARTUP_FILE}
    for folder, installed in PACKAGE_FOLDERS.items():
        files = [f for f in (source / folder).rglob("*") if f.is_file() and f.suffix != ".pyc"]
        expected |= {f"{installed}/{f.relative_to(source / folder).as_posix()}" for f in files}
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if ".dist-info/" not in name}
        (record,) = [name for name in opened.namelist() if name.endswith(".dist-info/RECORD")]
        assert f"\n{STARTUP_FILE}," in "\n" + opened.read(record).decode()
    assert names == expected


def test_a_wheel_from_the_source_distribution_is_the_same(wheel, tmp_path):
    copied = copy_source(tmp_path / "source")
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    run(sys.executable, "-c", code, cwd=copied)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    again = build_wheel(unpacked, tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert sorted(first.namelist()) == sorted(second.namelist())
