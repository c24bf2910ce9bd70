"""Installed in each of the three ways, outside the source tree: nnU-Net finds the trainers without any export.

Also: what a wheel and a source distribution hold, and that a checkout has the same modules as an installation.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import nnunet_ssl.trainers
from nnunet_ssl import __version__, cli
from nnunet_ssl.discovery.variants import trainer_classes
from tests.helpers.environments import (
    LINKED,
    PACKAGE_FOLDERS,
    SCANNED,
    Environment,
    build_wheel,
    copy_source,
    link_installed_packages,
    pip,
    replace_links,
    run,
)
from tests.helpers.paths import REPOSITORY

STARTUP_FILE = "nnunet_ssl_autodiscovery.pth"
TRAINER = "nnUNetTrainerMeanTeacher"

PRINT_VARIABLE = "import os; print(os.environ.get('nnUNet_extTrainer'))"

FIND = f"""
import json, pickle
import nnunet_ssl
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
found, variant = find("{TRAINER}"), find("{TRAINER}_2epochs_5iters_seed3")
from nnunet_ssl.trainers import {TRAINER} as imported
from nnunet_ssl.discovery.variants import trainer_classes
print(json.dumps({{
    "package": nnunet_ssl.__file__,
    "classes": {{name: cls.__module__ for name, cls in trainer_classes().items()}},
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


def classes() -> dict[str, str]:
    """Name and module of every trainer, as this process finds them."""
    return {name: cls.__module__ for name, cls in trainer_classes().items()}


def assert_trainers_are_found(printed: str, package: Path) -> None:
    """`printed` is what FIND prints; `package` the folder that has to hold nnunet_ssl/."""
    result = json.loads(printed.splitlines()[-1])  # nnU-Net prints where it searches
    assert Path(result.pop("package")).parent == package / "nnunet_ssl"
    assert result == {"classes": classes(), "same": True, "stable": True, "pickled": True}


def test_nnunet_finds_the_very_class_that_one_imports(environment):
    assert_trainers_are_found(environment.execute(FIND), environment.package)


def test_python_started_in_the_checkout_finds_the_same_without_an_installation(tmp_path, source, packages):
    environment = Environment(tmp_path, packages)
    printed = environment.execute(FIND, start=source, nnUNet_extTrainer=str(source / SCANNED))
    assert_trainers_are_found(printed, source)


def test_a_checkout_without_links_installs_as_well(tmp_path, wheel, packages):
    source = replace_links(copy_source(tmp_path / "source"))
    with zipfile.ZipFile(wheel) as linked, zipfile.ZipFile(build_wheel(source, tmp_path / "wheel")) as built:
        assert sorted(built.namelist()) == sorted(linked.namelist())
    environment = Environment(tmp_path, packages).install("-e", source, package=source)
    assert_trainers_are_found(environment.execute(FIND), source)
    assert_trainers_are_found(environment.execute(FIND, start=source), source)  # as the tests are run


@pytest.mark.parametrize("folder", LINKED)
def test_the_folders_at_the_top_are_modules_of_the_package(folder):
    module = importlib.import_module(f"nnunet_ssl.{folder}")
    assert Path(module.__file__).resolve() == REPOSITORY / folder / "__init__.py"


@pytest.mark.parametrize("folder", ["nnunet_ssl", "tests", "benchmarks", "docs"])
def test_nothing_else_of_the_checkout_is(folder):
    assert (REPOSITORY / folder).is_dir()
    assert importlib.util.find_spec(f"nnunet_ssl.{folder}") is None


def test_the_stub_lists_exactly_the_trainers_and_their_modules():
    stub = ast.parse((REPOSITORY / "trainers" / "__init__.pyi").read_text(encoding="utf-8"))
    listed = {}
    for statement in stub.body:
        assert isinstance(statement, ast.ImportFrom) and statement.level == 1
        for alias in statement.names:
            assert alias.asname == alias.name, (
                f"type checkers take {alias.name!r} for private without `as {alias.name}`"
            )
            listed[alias.name] = f"nnunet_ssl.trainers.{statement.module}"
    assert listed == classes()
    assert sorted(nnunet_ssl.trainers.__all__) == sorted(listed)


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
        files = [f for f in (source / folder).rglob("*") if f.is_file() and f.suffix not in (".pyc", ".md")]
        expected |= {f"{installed}/{f.relative_to(source / folder).as_posix()}" for f in files}
    with zipfile.ZipFile(wheel) as opened:
        names = [name for name in opened.namelist() if ".dist-info/" not in name]
        (record,) = [name for name in opened.namelist() if name.endswith(".dist-info/RECORD")]
        assert f"\n{STARTUP_FILE}," in "\n" + opened.read(record).decode()
    assert sorted(names) == sorted(expected)


def test_the_wheel_holds_the_trainers_and_their_types_and_neither_tests_nor_reference_code(wheel):
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    modules = {module.replace(".", "/") + ".py" for module in classes().values()}
    assert modules | {"nnunet_ssl/py.typed", "nnunet_ssl/trainers/__init__.pyi"} <= names
    folders = {part for name in names for part in name.split("/")[:-1]}
    assert folders.isdisjoint({"tests", "golden", "reference", "adapters", "benchmarks", "docs"})


def test_a_wheel_from_the_source_distribution_is_the_same(wheel, tmp_path):
    copied = copy_source(tmp_path / "source")
    (copied / "tests").mkdir()
    (copied / "tests" / "test_example.py").touch()
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(tmp_path)!r})"
    run(sys.executable, "-c", code, cwd=copied)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert [name for name in LINKED if (unpacked / "nnunet_ssl" / name).exists()] == []  # each file once
    assert not (unpacked / "tests").exists()
    again = build_wheel(unpacked, tmp_path / "wheel")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert sorted(first.namelist()) == sorted(second.namelist())


def test_the_oldest_supported_versions_are_the_lower_bounds():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = [requirement.replace(">=", "==") for requirement in project["dependencies"]]
    lines = (REPOSITORY / ".ci" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == bounds


def test_the_version_is_the_same_everywhere_and_has_a_heading_in_the_changelog(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"nnunet_ssl {__version__}\n"
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    released = re.search(r"^date-released: (\S+)$", citation, re.MULTILINE)[1]
    assert f"\nversion: {__version__}\n" in citation
    headings = re.findall(r"^## (.+)$", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[:2] == ["[Unreleased]", f"[{__version__}] - {released}"]
