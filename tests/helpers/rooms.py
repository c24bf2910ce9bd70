"""The rooms of the package: who imports whom, and how large each is.

As a command, `python -m tests.helpers.rooms` prints the table and writes it into docs/architecture.md.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from tests.helpers.paths import REPOSITORY

# A room may import rooms of earlier rows, and none of its own row or below but itself.
ORDER = (
    ("errors", "ramps"),
    ("networks", "patches", "data"),
    ("predictions", "weak"),
    ("losses",),
    ("engine", "preprocessing", "dataset_conversion", "plans"),
    ("discovery", "dataloading", "evaluation"),
    ("seams",),
    ("trainer",),
    ("commands", "weak_trainer", "partial_trainer"),
    ("trainers", "cli"),
    ("benchmarks",),
)
# Classes and converters are looked up by name: these modules import what lies above them.
LOOK_UPS = {"nnunet_ssl.discovery.variants": "trainers"}

MARKS = ("<!-- rooms -->", "<!-- end of rooms -->")
_TOP_LEVEL = ("trainers", "dataset_conversion", "plans")


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module that is shipped, and of the benchmarks."""
    found = {}
    for top in ("nnunet_ssl", *_TOP_LEVEL, "benchmarks"):
        for file in sorted((REPOSITORY / top).rglob("*.py")):
            parts = list(file.relative_to(REPOSITORY).with_suffix("").parts)
            parts = ["nnunet_ssl", *parts] if top in _TOP_LEVEL else parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def room_of(module: str) -> str:
    """`nnunet_ssl.losses.region` -> losses; `nnunet_ssl.trainer` -> trainer."""
    first, *rest = module.split(".")
    return rest[0] if first == "nnunet_ssl" and rest else first


def imports(file: Path, known: dict[str, Path]) -> set[str]:
    """Modules of ours that a file imports anywhere, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & known.keys()) or {node.module}
    return found


def graph() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports."""
    known = modules()
    return {module: imports(file, known) - {module} for module, file in known.items()}


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other."""
    reach = {node: set(targets) for node, targets in edges.items()}
    for middle in reach:
        for node in reach:
            if middle in reach[node]:
                reach[node] |= reach[middle]
    groups = {frozenset(b for b in reach[a] if a in reach[b]) for a in reach if a in reach[a]}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def room_graph(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """Room -> other rooms that it imports; look-ups by name and the package itself, which holds its version, left out."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, targets in edges.items():
        left_out = {room_of(module), LOOK_UPS.get(module), "nnunet_ssl"}
        found[room_of(module)] |= {room_of(t) for t in targets} - left_out
    return dict(found)


def table() -> str:
    """Rooms from the lowest to the highest: files, lines, rooms that it imports and that import it."""
    files = modules()
    rooms = room_graph(graph())
    order = [room for row in ORDER for room in row]
    rows = ["| room | files | lines | imports | is imported by |", "|---|---|---|---|---|"]
    for room in order:
        own = [file for module, file in files.items() if room_of(module) == room]
        lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in own)
        down = ", ".join(r for r in order if r in rooms.get(room, ()))
        up = ", ".join(r for r in order if room in rooms.get(r, ()))
        rows.append(f"| {room} | {len(own)} | {lines} | {down or '-'} | {up or '-'} |")
    return "\n".join(rows)


def write_table() -> None:
    """Put the table between the marks of docs/architecture.md."""
    page = REPOSITORY / "docs" / "architecture.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(f"{MARKS[0]}\n")
    _, _, after = rest.partition(MARKS[1])
    page.write_text(f"{before}{MARKS[0]}\n{table()}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    write_table()
    print(table())
