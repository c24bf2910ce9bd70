"""The functions and classes that methods are made of, by room and module, with the first lines of their docstrings; and the batch.

As a command, `python -m tests.helpers.functions` writes docs/functions.md.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.paths import REPOSITORY

PAGE = REPOSITORY / "docs" / "functions.md"
ROOMS = {
    "ramps.py": "Schedules",
    "losses": "Losses",
    "predictions": "Predictions",
    "patches": "Patches",
    "networks": "Networks",
}
"""File or folder of nnunet_ssl/ -> title."""

_OF_THE_ENGINE = ("keep_logits", "without_unlabeled", "from_loader")  # methods of a batch that methods do not call

HEAD = """# What methods are made of

The fields of a batch, and every public function and class of `nnunet_ssl/{ramps.py,losses,predictions,patches,networks}` with the
first line of its docstring; the rest of the docstring has equation, shapes and source
(`python -c "help('nnunet_ssl.losses.consistency')"`). Seams are in [how to add a method](add_a_method.md).
`python -m tests.helpers.functions` writes this page from the docstrings.
"""


def first_line(docstring: str | None) -> str:
    """The first line of a docstring, with those below that its sentence goes on in."""
    taken: list[str] = []
    for line in (docstring or "").strip().split("\n\n")[0].splitlines():
        if taken and taken[-1].endswith((".", ":", "?")):
            break
        taken.append(line.strip())
    return " ".join(taken)


def public(module: Path) -> Iterator[tuple[str, str]]:
    """Name and first line of the docstring of what a module defines; arguments are named."""
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            name = node.name
            if isinstance(node, ast.FunctionDef):
                name += (
                    f"({', '.join(a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs))})"
                )
            yield name, first_line(ast.get_docstring(node))


def modules(room: str) -> list[Path]:
    path = REPOSITORY / "nnunet_ssl" / room
    return [path] if path.is_file() else sorted(file for file in path.glob("*.py") if file.stem != "__init__")


def batch() -> list[str]:
    """The attributes and methods of a batch, from the docstrings of its class."""
    parts = [
        "\n## The batch",
        "\nA step's patches on the training device: L labeled ones, U unlabeled ones, C channels.\n",
    ]
    tree = ast.parse((REPOSITORY / "nnunet_ssl" / "engine" / "batch.py").read_text(encoding="utf-8"))
    (cls,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "SSLBatch")
    _, attributes = ast.get_docstring(cls).split("Attributes:\n")
    for name, text in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE):
        parts.append(f"* `{name}`: {' '.join(text.split())}")
    for node in cls.body:
        if (
            isinstance(node, ast.FunctionDef)
            and node.name not in _OF_THE_ENGINE
            and (docstring := ast.get_docstring(node))
        ):
            names = ", ".join(a.arg for a in node.args.args[1:])
            call = node.name if node.decorator_list else f"{node.name}({names})"
            parts.append(f"* `{call}`: {first_line(docstring)}")
    return parts


def page() -> str:
    parts = [HEAD.rstrip(), *batch()]
    for room, title in ROOMS.items():
        parts.append(f"\n## {title}")
        for file in modules(room):
            dotted = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
            docstring = first_line(ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))))
            parts.append(f"\n`{dotted}`: {docstring}\n")
            parts += [f"* `{name}`: {line}" for name, line in public(file)]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
