"""Reads golden files, runs their adapters and compares what our functions give with what the official code gave.

README.md in this folder says what the files hold and how to write an adapter.
"""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.golden import adapters

# largest allowed max|a-b| / max|b| by type of the expected array; integers and masks must be equal
TOLERANCES = {"float16": 1e-4, "float32": 1e-4, "float64": 1e-9}


class GoldenError(Exception):
    """A golden file, an adapter or a request that cannot be used; the message says what to repair."""


# ------------------------------------------------------------------------------------------------------- golden files


class _Inputs(Mapping[str, np.ndarray]):
    """The input arrays by key. An output is never handed out as an input."""

    def __init__(self, name: str, arrays: dict[str, np.ndarray]):
        self._name = name
        self._arrays = arrays

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._arrays:
            raise GoldenError(f"{self._name}: there is no input array {key!r}; inputs are {sorted(self._arrays)}")
        return self._arrays[key].copy()

    def __contains__(self, key: object) -> bool:
        return key in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


class GoldenFile:
    """One `<name>.npz` with its sidecar `<name>.json`, as an adapter sees it.

    Attributes:
        inputs: key -> input array (a copy on every access, so that no computation spoils another's input).
        outputs: names of the arrays that the adapter has to produce.
    """

    def __init__(self, name: str, arrays: dict[str, np.ndarray], sidecar: dict[str, Any]):
        self.name = name
        self._sidecar = sidecar
        described = sidecar.get("arrays", {})
        if set(described) != set(arrays):
            raise GoldenError(
                f"{name}: {name}.npz and {name}.json do not have the same arrays; "
                f"only in one of them: {sorted(set(described) ^ set(arrays))}"
            )
        roles = {key: entry.get("role") for key, entry in described.items()}
        unknown = sorted(key for key, role in roles.items() if role not in ("input", "output"))
        if unknown:
            raise GoldenError(f"{name}.json: role must be 'input' or 'output' for {unknown}")
        self.inputs = _Inputs(name, {key: arrays[key] for key in roles if roles[key] == "input"})
        self._expected = {key: arrays[key] for key in roles if roles[key] == "output"}
        self.outputs = tuple(self._expected)

    @classmethod
    def load(cls, folder: Path, name: str) -> GoldenFile:
        """Read `folder/<name>.npz` and `.json`. GoldenError if one of them is missing or not readable."""
        try:
            sidecar = json.loads((folder / f"{name}.json").read_text())
            with np.load(folder / f"{name}.npz", allow_pickle=False) as npz:
                arrays = {key: npz[key] for key in npz.files}
        except (OSError, ValueError) as error:
            raise GoldenError(f"{name}: cannot be read: {error}") from error
        return cls(name, arrays, sidecar)

    def expected(self) -> dict[str, np.ndarray]:
        """The official outputs, for the comparison; adapters do not call this."""
        return dict(self._expected)

    def constant(self, constant: str, key: str | None = None) -> Any:
        """A constant by name: of array `key` itself, else of its case, else of the file.

        Args:
            constant: its name in the sidecar.
            key: the array that the constant belongs to. For `<case>/in/<x>` and `<case>/out/<x>`, and for a bare `<case>`,
                the constants of this case count too. None: the file's constants only.

        Raises:
            GoldenError: it is in none of these places.
        """
        of_file = self._sidecar.get("constants", {})
        places = [of_file]
        if key is not None:
            of_case = of_file.get(key.split("/")[0])
            of_array = self._sidecar["arrays"].get(key, {}).get("constants", {})
            places = [of_array, of_case if isinstance(of_case, dict) else {}, of_file]
        for place in places:
            if constant in place:
                return place[constant]
        raise GoldenError(f"{self.name}: there is no constant {constant!r} of {key or 'the file'}")

    def tensor(self, key: str, requires_grad: bool = False) -> Tensor:
        """An input as a tensor of its own type."""
        return torch.from_numpy(self.inputs[key]).requires_grad_(requires_grad)

    def numbers(self, key: str) -> list[int] | list[float]:
        """A 1D (or scalar) input as Python numbers, for functions of plain numbers such as ramps."""
        return self.inputs[key].ravel().tolist()

    def number(self, key: str) -> int | float:
        """A scalar input as a Python number."""
        return self.inputs[key].item()

    def length(self, key: str) -> int:
        """Size of an array's first axis, also of an output: how many samples were labeled, say, is no value to reproduce."""
        array = self._expected[key] if key in self._expected else self.inputs[key]
        return len(array)

    def match(self, pattern: str) -> list[str]:
        """What the single group of `pattern` is in each array key that it matches as a whole, sorted, without repeats.

        `match(r"logits(\\dd)")` is `["2d", "3d"]` for a file with `logits2d` and `logits3d`. With it an adapter follows
        the keys a file has instead of a list of its own.
        """
        keys = [*self.inputs, *self.outputs]
        return sorted({found[1] for key in keys if (found := re.fullmatch(pattern, key))})

    def byproduct(self, key: str) -> np.ndarray:
        """A stored output that the official computation of a later output takes as its input.

        Only for arrays whose `meaning` says so, or for the values of a random draw that the file does not hold otherwise;
        `adapt` must still produce `key` itself.
        """
        if key not in self._expected:
            raise GoldenError(f"{self.name}: there is no output array {key!r}")
        return self._expected[key].copy()


def grad(output: Tensor, inputs: Tensor) -> Tensor:
    """d output / d inputs by autograd, of the inputs' shape; zeros where the output does not depend on them."""
    if output.grad_fn is None:
        return torch.zeros_like(inputs)
    (gradient,) = torch.autograd.grad(output, inputs, retain_graph=True, allow_unused=True)
    return torch.zeros_like(inputs) if gradient is None else gradient


def grad_sums(output: Tensor, inputs: Tensor) -> Tensor:
    """`[sum |g|, sum g^2]` in float64 of the gradient g of output with respect to inputs, for files that store only these."""
    gradient = grad(output, inputs).double()
    return torch.stack((gradient.abs().sum(), (gradient**2).sum()))


# ----------------------------------------------------------------------------------------------------------- adapters


@dataclass(frozen=True)
class Adapter:
    """The module `tests/golden/adapters/<name>.py`.

    Attributes:
        trainer: class name of the trainer in whose `train_step` the functions `uses` are called; None without one.
        uses: dotted names of the functions of nnunet_ssl that are under golden values here and that the trainer calls.
        reference_only: dotted names of the others the adapter calls -> why no trainer calls them.
        not_followed: output arrays that reproduce a defect of the released code -> which defect.
        single_precision: output arrays of type float64 whose values the official code computed in float32.
    """

    name: str
    module: ModuleType
    trainer: str | None
    uses: tuple[str, ...]
    reference_only: dict[str, str]
    not_followed: dict[str, str]
    single_precision: tuple[str, ...] = ()

    def adapt(self, file: GoldenFile) -> dict[str, Any]:
        return self.module.adapt(file)


def adapter_names() -> list[str]:
    """Names of the golden files that have an adapter."""
    return sorted(m.name for m in pkgutil.iter_modules(adapters.__path__) if not m.name.startswith("_"))


def load_adapter(name: str) -> Adapter:
    """The adapter of golden file `name`.

    Raises:
        GoldenError: there is none.
    """
    if name not in adapter_names():
        raise GoldenError(f"{name}: no adapter; there is none at tests/golden/adapters/{name}.py")
    module = importlib.import_module(f"{adapters.__name__}.{name}")
    return Adapter(
        name=name,
        module=module,
        trainer=module.TRAINER,
        uses=tuple(module.USES),
        reference_only=dict(module.REFERENCE_ONLY),
        not_followed=dict(getattr(module, "NOT_FOLLOWED", {})),
        single_precision=tuple(getattr(module, "SINGLE_PRECISION", ())),
    )


def record_calls(monkeypatch, dotted_name: str) -> list[tuple[tuple, dict]]:
    """Replace a function of nnunet_ssl, wherever it was imported, by one that notes its calls and then does its work.

    Args:
        monkeypatch: pytest's fixture; undoes the replacement.
        dotted_name: such as `nnunet_ssl.losses.consistency.softmax_mse`.

    Returns:
        the (args, kwargs) of the calls, which grows while the test runs.
    """
    module_name, _, function_name = dotted_name.rpartition(".")
    original = getattr(importlib.import_module(module_name), function_name)
    calls: list[tuple[tuple, dict]] = []

    def recorder(*args, **kwargs):
        calls.append((args, kwargs))
        return original(*args, **kwargs)

    for module in [
        m
        for n, m in sys.modules.items()
        if n.startswith(("nnunet_ssl", "tests.golden.adapters", "tests.golden.reference"))
    ]:
        for attribute, value in list(vars(module).items()):
            if value is original:
                monkeypatch.setattr(module, attribute, recorder)
    return calls


# --------------------------------------------------------------------------------------------------------- comparison


def _as_array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def compare(produced: Any, expected: np.ndarray, single: bool = False) -> tuple[float, str | None]:
    """Whether `produced` (tensor, array, number or nested list) matches `expected`.

    Matched means: equal shape; integers and masks equal; floating point max|a-b| <= tolerance * max|b| with the
    tolerance of the expected type. Infinities and NaN must stand at the same places.

    Args:
        single: the values were computed in float32, whatever the type they are stored in.

    Returns:
        the relative error max|a-b| / max|b| (0 where both are 0; infinite where it cannot be formed), and None, or what
        is wrong.
    """
    a = _as_array(produced)
    if a.shape != expected.shape:
        return math.inf, f"shape {a.shape}, expected {expected.shape}"
    if a.dtype.kind not in "biuf":
        return math.inf, f"type {a.dtype}, expected {expected.dtype}"
    if expected.dtype.kind != "f":
        wrong = int((a != expected).sum())
        return (math.inf, f"{wrong} of {a.size} values differ, and must not") if wrong else (0.0, None)
    a, b = a.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return math.inf, "NaN or infinity where the other has none"
    difference = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    scale = float(np.abs(b[finite]).max(initial=0.0))
    tolerance = TOLERANCES["float32" if single else expected.dtype.name]
    error = difference / scale if scale > 0 else (0.0 if difference == 0 else math.inf)
    return error, None if error <= tolerance else f"relative error {error:.3g}, allowed {tolerance:g}"


@dataclass
class Report:
    """How one golden file fared.

    Attributes:
        expected, produced, matched: numbers of output arrays: in the file, given by the adapter, equal.
        missing: outputs that were not produced, and are not excused by `not_followed`.
        mismatched: output -> what is wrong with what was produced.
        not_followed: outputs that the adapter lists as not followed -> why.
        max_rel_err: largest relative error over the outputs produced; None if nothing was.
        error: the traceback if the adapter or the file failed as a whole.
    """

    name: str
    expected: int = 0
    produced: int = 0
    matched: int = 0
    missing: list[str] = field(default_factory=list)
    mismatched: dict[str, str] = field(default_factory=dict)
    not_followed: dict[str, str] = field(default_factory=dict)
    max_rel_err: float | None = None
    error: str | None = None

    @property
    def complete(self) -> bool:
        accounted = self.matched + len(self.not_followed)
        return self.error is None and self.expected > 0 and accounted == self.expected

    def as_json(self) -> dict[str, Any]:
        """The record that `--json` writes; `max_rel_err` is null where it is not a finite number."""
        error = self.max_rel_err
        return {
            "expected": self.expected,
            "produced": self.produced,
            "matched": self.matched,
            "missing": self.missing,
            "mismatched": self.mismatched,
            "not_followed": self.not_followed,
            "max_rel_err": error if error is not None and math.isfinite(error) else None,
        }

    def __str__(self) -> str:
        error = "-" if self.max_rel_err is None else f"{self.max_rel_err:.2e}"
        lines = [
            f"{self.name}: matched {self.matched} / produced {self.produced} / expected {self.expected}, "
            f"largest error {error}{'' if self.complete else '  FAILED'}"
        ]
        lines += [f"  mismatch      {key}: {why}" for key, why in self.mismatched.items()]
        lines += [f"  missing       {key}" for key in self.missing]
        lines += [f"  not followed  {key}: {why}" for key, why in self.not_followed.items()]
        return "\n".join(lines + ([self.error] if self.error else []))


def check(file: GoldenFile, adapter: Adapter) -> Report:
    """Run the adapter on the file and compare. What the adapter raises ends up in the report, as a failure."""
    expected = file.expected()
    report = Report(file.name, expected=len(expected))
    report.not_followed = {key: why for key, why in adapter.not_followed.items() if key in expected}
    produced: dict[str, Any] = {}
    try:
        produced = adapter.adapt(file)
    except Exception:  # a broken adapter must not keep the other files from being checked; it fails this one
        report.error = traceback.format_exc()
    for key, official in expected.items():
        if key in produced:
            report.produced += 1
            error, problem = compare(produced[key], official, key in adapter.single_precision)
            if key in report.not_followed:
                problem = "produced, although the adapter lists it as not followed"
                del report.not_followed[key]
            report.max_rel_err = max(error, report.max_rel_err or 0.0)
            if problem is None:
                report.matched += 1
            else:
                report.mismatched[key] = problem
        elif key not in report.not_followed:
            report.missing.append(key)
    return report


def check_folder(folder: Path, names: list[str] | None = None) -> tuple[list[Report], list[str], list[str]]:
    """Check golden files of a folder.

    Args:
        folder: any folder with `<name>.npz` and `<name>.json`.
        names: the files to check; None or empty for all that have an adapter.

    Returns:
        the reports; the names of files without an adapter, if no names were given; messages about what could not be
        checked, each of which is a failure.
    """
    available = sorted(path.stem for path in folder.glob("*.npz")) if folder.is_dir() else []
    if not available:
        return [], [], [f"{folder}: no golden files (*.npz) in this folder"]
    without_adapter = [] if names else [name for name in available if name not in adapter_names()]
    reports, problems = [], []
    for name in names or [name for name in available if name not in without_adapter]:
        try:
            if name not in available:
                raise GoldenError(f"{name}: there is no {name}.npz in {folder}; there are {', '.join(available)}")
            adapter = load_adapter(name)
            reports.append(check(GoldenFile.load(folder, name), adapter))
        except GoldenError as error:
            problems.append(str(error))
    return reports, without_adapter, problems
