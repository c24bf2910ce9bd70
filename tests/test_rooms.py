"""The order of rooms: what may import what, and nothing in circles. The tests are a map of the same rooms."""

from __future__ import annotations

import ast
import re

from tests.helpers import rooms
from tests.helpers.paths import REPOSITORY

GRAPH = rooms.graph()
LONGEST_METHOD = 120  # lines of a trainer's file
LEVEL = {room: level for level, row in enumerate(rooms.ORDER) for room in row}


def test_every_module_has_a_room_and_few_lie_loose():
    assert {rooms.room_of(module) for module in GRAPH} - {"nnunet_ssl"} == set(LEVEL)
    loose = {file.stem for file in (REPOSITORY / "nnunet_ssl").glob("*.py")} - {"__init__"}
    assert loose == {"cli", "errors", "ramps", "seams", "trainer", "weak_trainer", "partial_trainer"}


def test_no_circles():
    assert rooms.circles(GRAPH) == [] and rooms.circles(rooms.room_graph(GRAPH)) == []


def test_rooms_import_lower_ones_only():
    pairs = {(room, other) for room, others in rooms.room_graph(GRAPH).items() for other in others}
    assert [pair for pair in sorted(pairs) if LEVEL[pair[0]] <= LEVEL[pair[1]]] == []


def test_a_circle_and_an_import_upwards_would_be_seen():
    assert rooms.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert rooms.room_graph({"nnunet_ssl.losses.x": {"nnunet_ssl.trainer"}}) == {"losses": {"trainer"}}


def test_the_page_has_the_table_of_rooms():
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"<!-- rooms -->\n(.*?)\n<!-- end of rooms -->", page, re.DOTALL)

    def without_sizes(table: str) -> list[list[str]]:
        return [[cell for i, cell in enumerate(line.split("|")) if i not in (2, 3)] for line in table.splitlines()]

    assert without_sizes(shown) == without_sizes(rooms.table())


def test_a_method_is_one_page():
    files = (REPOSITORY / "nnunet_ssl" / "trainers").rglob("*.py")
    lengths = {file.name: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {name: length for name, length in lengths.items() if length > LONGEST_METHOD} == {}


def test_no_test_imports_from_a_test():
    found = []
    for file in (REPOSITORY / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            named += [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            if any(
                part.startswith("test_") and part != "test_predictions" for name in named for part in name.split(".")
            ):
                found.append(file.name)
    assert found == []


# What is about several modules: all trainers, those of others, all ways to weaken labels, scribbles of two sources of one data set.
ABOUT_SEVERAL = {
    ("trainers", "contract"),
    ("trainers", "compiled"),
    ("trainers", "guests"),
    ("weak", "rules"),
    ("dataset_conversion", "acdc_scribbles"),
}


def test_a_test_lies_where_what_it_tests_lies():
    known = {(rooms.room_of(module), module.split(".")[-1]) for module in GRAPH}
    known |= {(room, name.split("_")[-1].lower()) for room, name in known if name.startswith("Dataset")}
    files = (REPOSITORY / "tests").glob("*/test_*.py")
    found = {(file.parent.name, file.stem.removeprefix("test_")) for file in files}
    found = {(room, name) for room, name in found if room not in ("golden", "docs", "faults")}
    assert found - known - ABOUT_SEVERAL == set()
