"""JSON files: one function reads them and says in one sentence what is wrong with a file, another what is wrong with a key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nnunet_ssl.data.texts import read_bytes
from nnunet_ssl.errors import UserError, excerpt

NAMES = {dict: "an object {...}", list: "a list [...]", str: "a text", int: "a whole number", float: "a number"}


def read_json(file: str | Path, kind: type = dict, *, remedy: str = "Correct it.", missing: str | None = None) -> Any:
    """The content of a JSON file, in UTF-8.

    Args:
        kind: of the top level, dict or list.
        remedy: how the user puts a faulty file right, for the message.
        missing: what to say instead where there is none.

    Raises:
        UserError: no such file, or it is none; no permission; another encoding, a byte order mark (which nnU-Net does not read);
            no JSON; a key twice; another top level.
    """
    try:
        text = read_bytes(file, remedy, missing).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not in UTF-8 ({error.reason} at byte {error.start}). Save it in UTF-8.") from error
    if text.startswith("\ufeff"):
        raise UserError(
            f"{file} begins with a byte order mark, which nnU-Net does not read. Save it in UTF-8 without one."
        )
    try:
        content = json.loads(text, object_pairs_hook=_without_repetition)
    except RecursionError:
        raise UserError(f"{file} is not valid JSON (nested too deep). {remedy}") from None
    except ValueError as error:  # json's own, a key twice, a number of thousands of digits
        raise UserError(f"{file} is not valid JSON ({str(error).partition(';')[0]}). {remedy}") from error
    if not isinstance(content, kind):
        raise UserError(f"{file} is {excerpt(content)}; allowed is {NAMES[kind]}. {remedy}")
    return content


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {excerpt(next(key for key in keys if keys.count(key) > 1))} occurs twice")
    return content


def expect(
    condition: bool, file: str | Path, key: str, found: object, allowed: str, remedy: str = "Correct it."
) -> None:
    """UserError that names the key and what was found, where `condition` is false."""
    if not condition:
        raise UserError(f"{file}: key '{key}' is {excerpt(found)}; allowed is {allowed}. {remedy}")
