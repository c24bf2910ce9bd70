"""A golden file of other numbers, made of a stored one."""

from __future__ import annotations

import json

import numpy as np
from torch import Tensor

from tests.golden.framework import GoldenFile
from tests.helpers.paths import REPOSITORY

DATA = REPOSITORY / "tests" / "golden" / "data"
Arrays = dict[str, Tensor | float]


def redrawn(name: str, arrays: Arrays, dropped: tuple[str, ...] = (), sidecar: dict | None = None) -> GoldenFile:
    """The stored file with these arrays in place of its own, and without outputs that others of them would change."""
    sidecar = sidecar or json.loads((DATA / f"{name}.json").read_text())
    with np.load(DATA / f"{name}.npz") as npz:
        stored = {key: npz[key] for key in npz.files}
    assert arrays.keys() <= stored.keys()
    for key in dropped:
        constants = sidecar["arrays"].pop(key).get("constants")
        stored.pop(key)
        sidecar["constants"] |= {key: constants} if constants else {}
    for key, value in arrays.items():
        array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        stored[key] = array.astype(stored[key].dtype)
    return GoldenFile(name, stored, sidecar)
