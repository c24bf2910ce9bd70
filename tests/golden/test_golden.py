"""The golden command: our functions give what official code gave, and the command notices when they do not."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from tests.golden import adapters, framework
from tests.golden.__main__ import main
from tests.golden.framework import GoldenError, GoldenFile, compare
from tests.helpers.paths import REPOSITORY, shared_dir

DATA = REPOSITORY / "tests" / "golden" / "data"
KEPT = tuple(sorted(path.stem for path in DATA.glob("*.npz")))


def write(folder: Path, name: str, arrays: dict, outputs: set, constants: dict | None = None, own: dict | None = None):
    """A golden file. `outputs`: keys with role output; `own`: key -> constants of this array."""
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    described = {
        key: {
            "role": "output" if key in outputs else "input",
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "meaning": "see the function that drew it",
            "source": "drawn in a test",
            **({"constants": own[key]} if own and key in own else {}),
        }
        for key, array in arrays.items()
    }
    sidecar = {"schema": 1, "name": name, "constants": constants or {}, "notes": [], "arrays": described}
    np.savez(folder / f"{name}.npz", **arrays)
    (folder / f"{name}.json").write_text(json.dumps(sidecar))


def copy_changed(folder: Path, name: str, change) -> None:
    """The kept file `name` with `change(key, array)` in place of each output array."""
    text = (DATA / f"{name}.json").read_text()
    roles = {key: entry["role"] for key, entry in json.loads(text)["arrays"].items()}
    with np.load(DATA / f"{name}.npz") as npz:
        arrays = {key: change(key, npz[key]) if roles[key] == "output" else npz[key] for key in npz.files}
    np.savez(folder / f"{name}.npz", **arrays)
    (folder / f"{name}.json").write_text(text)


def run(*arguments) -> tuple[int, dict]:
    """Exit status and JSON record of the command."""
    *_, folder = [a for a in arguments if isinstance(a, Path)]
    record = folder.parent / f"{folder.name}.report.json"
    status = main([*map(str, arguments), "--json", str(record)])
    return status, json.loads(record.read_text())


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "golden"
    path.mkdir()
    return path


@pytest.fixture
def with_adapter(monkeypatch):
    """Makes an adapter named `stub` out of a function; keyword arguments become its module attributes."""

    def make(adapt, **attributes):
        module = ModuleType(f"{adapters.__name__}.stub")
        for key, value in {"TRAINER": None, "USES": (), "REFERENCE_ONLY": {}, **attributes}.items():
            setattr(module, key, value)
        module.adapt = adapt
        monkeypatch.setitem(sys.modules, module.__name__, module)
        names = framework.adapter_names()
        monkeypatch.setattr(framework, "adapter_names", lambda: [*names, "stub"])

    return make


# ----------------------------------------------------------------------------------------------------- the real files


def test_the_command_finds_every_array_of_the_kept_files_matched(tmp_path, monkeypatch, capsys):
    record = tmp_path / "report.json"
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "argv", ["golden", "tests/golden/data", "--json", str(record)])
    with pytest.raises(SystemExit) as done:
        runpy.run_path("tests/golden/__main__.py", run_name="__main__")
    printed = "".join(capsys.readouterr())
    assert done.value.code == 0, printed
    assert f"{len(KEPT)} of {len(KEPT)} files complete" in printed
    report = json.loads(record.read_text())
    for name in KEPT:
        entries = json.loads((DATA / f"{name}.json").read_text())["arrays"].values()
        expected = sum(entry["role"] == "output" for entry in entries)
        found, not_followed = report[name], framework.load_adapter(name).not_followed
        assert found["expected"] == expected
        assert found["produced"] == found["matched"] == expected - len(not_followed)
        assert found["missing"] == [] and found["not_followed"] == not_followed
        assert 0 <= found["max_rel_err"] <= framework.TOLERANCES["float32"]


def test_the_command_passes_on_the_whole_data_pack_and_lists_the_files_without_adapter(capsys):
    golden = shared_dir("golden")
    assert main([str(golden)]) == 0
    printed = capsys.readouterr().out
    with_adapter = framework.adapter_names()
    for path in golden.glob("*.npz"):
        assert (f"\n{path.stem}: no adapter" in printed) == (path.stem not in with_adapter)


@pytest.mark.parametrize("name", KEPT)
def test_the_kept_files_are_those_of_the_data_pack(name):
    golden = shared_dir("golden")
    with np.load(DATA / f"{name}.npz") as ours, np.load(golden / f"{name}.npz") as original:
        assert set(ours.files) == set(original.files)
        assert all(np.array_equal(ours[key], original[key], equal_nan=True) for key in ours.files)


@pytest.mark.parametrize("name", KEPT)
def test_no_adapter_echoes_the_stored_outputs(folder, name):
    copy_changed(folder, name, lambda key, array: array * 1.5 + 1)
    status, report = run(folder, name)
    assert status == 1
    assert report[name]["matched"] == 0
    assert report[name]["produced"] + len(report[name]["not_followed"]) == report[name]["expected"]


@pytest.mark.parametrize(
    "name, key", [("mean_teacher", "grad_loss_wrt_student_logits"), ("ssl4mis_common", "softmax_mse2d")]
)
def test_one_wrong_value_in_one_array_is_a_mismatch_of_this_array(folder, name, key):
    def change(k, array):
        if k == key:
            array.flat[3] += 3e-4 * np.abs(array).max()
        return array

    copy_changed(folder, name, change)
    status, report = run(folder)
    assert status == 1
    assert list(report[name]["mismatched"]) == [key]
    assert report[name]["matched"] == report[name]["expected"] - 1
    assert report[name]["max_rel_err"] == pytest.approx(3e-4, rel=0.01)


# ------------------------------------------------------------------------------------------- other draws of the files


def softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def one_hot(labels, classes):
    return np.stack([labels == c for c in range(classes)], 1).astype(np.float64)


def dice_and_gradient(logits, labels, smooth):
    """Squared Dice loss and its gradient by hand: dL/dp, then through the softmax."""
    p, y = softmax(logits), one_hot(labels, logits.shape[1])
    axes = (0, *range(2, p.ndim))
    top, bottom = 2 * (p * y).sum(axes) + smooth, (p**2).sum(axes) + (y**2).sum(axes) + smooth
    per_class = (1, -1) + (1,) * (p.ndim - 2)
    wrt_p = -(2 * y / bottom.reshape(per_class) - (top / bottom**2).reshape(per_class) * 2 * p) / p.shape[1]
    return np.mean(1 - top / bottom), p * (wrt_p - (wrt_p * p).sum(1, keepdims=True))


def ce_and_gradient(logits, labels):
    p, y = softmax(logits), one_hot(labels, logits.shape[1])
    return -np.log((p * y).sum(1)).mean(), (p - y) / labels.size


def mse_and_gradient(student, teacher):
    p, q = softmax(student), softmax(teacher)
    wrt_p = 2 * (p - q) / p.size
    return ((p - q) ** 2).mean(), p * (wrt_p - (wrt_p * p).sum(1, keepdims=True))


def official_ramp(iteration, weight, length):
    return weight * np.exp(-5 * (1 - np.clip(iteration // 150, 0, length) / length) ** 2)


def official_ema(init, students, steps, decay):
    teacher, after = init.astype(np.float64), []
    for student, step in zip(students, steps):
        alpha = min(1 - 1 / (step + 1), decay)
        teacher = alpha * teacher + (1 - alpha) * student
        after.append(teacher)
    return np.stack(after).astype(np.float32)


def draw_step(rng, labeled, unlabeled, channels, classes, spatial) -> dict[str, np.ndarray]:
    n = labeled + unlabeled
    return {
        "image": rng.normal(size=(n, channels, *spatial)).astype(np.float32),
        "label": rng.integers(0, classes, (n, *spatial)),
        "student_logits": rng.normal(0, 2, (n, classes, *spatial)).astype(np.float32),
        "teacher_logits": rng.normal(0, 2, (unlabeled, classes, *spatial)).astype(np.float32),
        "noise_normal": rng.normal(size=(unlabeled, channels, *spatial)).astype(np.float32),
    }


def mean_teacher_step(step, constants, iteration, consistency_on=True) -> dict[str, np.ndarray]:
    unlabeled = len(step["teacher_logits"])
    labeled = len(step["student_logits"]) - unlabeled
    logits, label = step["student_logits"].astype(np.float64), step["label"][:labeled]
    ce, grad_ce = ce_and_gradient(logits[:labeled], label)
    dice, grad_dice = dice_and_gradient(logits[:labeled], label, 1e-5)
    mse, grad_mse = mse_and_gradient(logits[labeled:], step["teacher_logits"].astype(np.float64))
    if not consistency_on:
        mse, grad_mse = 0.0, 0 * grad_mse
    weight = official_ramp(iteration, constants["consistency"], constants["consistency_rampup"])
    noise = np.clip(constants["noise_sigma"] * step["noise_normal"], -constants["noise_clip"], constants["noise_clip"])
    out = {
        "teacher_input": step["image"][labeled:] + noise,
        "loss_ce": ce,
        "loss_dice": dice,
        "supervised_loss": (ce + dice) / 2,
        "consistency_loss": mse,
        "loss": (ce + dice) / 2 + weight * mse,
        "grad_loss_wrt_student_logits": np.concatenate([(grad_ce + grad_dice) / 2, weight * grad_mse]),
        "grad_consistency_wrt_student_logits": np.concatenate([0 * grad_ce, grad_mse]),
    }
    return {key: np.float32(value) for key, value in out.items()} | {"consistency_weight": np.float64(weight)}


def draw_mean_teacher(folder: Path, seed: int, volume: dict, slices: dict, constants: dict) -> None:
    rng = np.random.default_rng(seed)
    step = draw_step(rng, **volume)
    outputs = mean_teacher_step(step, constants, constants["iter_num"])

    step_2d = draw_step(rng, **slices)
    stored_2d = ("loss_ce", "loss_dice", "supervised_loss", "consistency_weight", "consistency_loss", "loss")
    for stage, iteration in (("before1000", 900), ("after1000", 7500)):
        values = mean_teacher_step(step_2d, constants, iteration, consistency_on=iteration >= 1000)
        outputs |= {f"mc2d_{stage}_{key}": values[key] for key in stored_2d}
    inputs = step | {f"mc2d_{key}": value for key, value in step_2d.items()}

    shapes = {"a": (int(rng.integers(2, 9)),), "b": (3, int(rng.integers(2, 5)))}
    for parameter, shape in shapes.items():
        init = inputs[f"ema_teacher_init_{parameter}"] = rng.normal(size=shape).astype(np.float32)
        for sequence, first, count in (("from0", 0, 5), ("cross", 97, 9)):
            students = rng.normal(size=(count, *shape)).astype(np.float32)
            inputs[f"ema_{sequence}_student_{parameter}"] = students
            outputs[f"ema_{sequence}_teacher_{parameter}"] = official_ema(
                init, students, range(first, first + count), constants["ema_decay"]
            )
    inputs["ramp_iters"] = np.sort(rng.integers(0, 40000, 9))
    outputs["ramp_weights_f64"] = np.array(
        [official_ramp(i, constants["consistency"], constants["consistency_rampup"]) for i in inputs["ramp_iters"]]
    )
    inputs["poly_iters"] = np.sort(rng.integers(0, 30000, 4))
    outputs["poly_lr_f64"] = 0.01 * (1 - inputs["poly_iters"] / 30000) ** 0.9
    write(folder, "mean_teacher", inputs | outputs, set(outputs), constants)


def draw_ssl4mis_common(
    folder: Path, seed: int, shapes: dict[str, tuple], lengths: dict[str, int], smooth: float
) -> None:
    rng = np.random.default_rng(seed)
    inputs, outputs, own = {}, {}, {}
    for group, length in lengths.items():
        x, down = rng.uniform(0, 1.3 * length, 11), rng.uniform(0, length, 8)
        inputs |= {f"ramp_length_{group}": np.int64(length), f"ramp_x_{group}": x, f"cosine_x_{group}": down}
        outputs[f"sigmoid_rampup_{group}"] = np.exp(-5 * (1 - np.clip(x, 0, length) / length) ** 2)
        outputs[f"linear_rampup_{group}"] = np.minimum(x / length, 1)
        outputs[f"cosine_rampdown_{group}"] = 0.5 * (np.cos(np.pi * down / length) + 1)
        for ramp in ("sigmoid_rampup", "linear_rampup", "cosine_rampdown"):
            own[f"{ramp}_{group}"] = {"rampup_length": length}

    own["consistency_weight"] = {"consistency": 2.5, "consistency_rampup": 31.0}
    inputs["iters"] = np.sort(rng.integers(0, 6000, 13))
    outputs["consistency_weight"] = np.array([official_ramp(i, 2.5, 31) for i in inputs["iters"]])
    own["poly_lr"] = {"base_lr": 0.03, "max_iterations": 777}
    inputs["poly_lr_iters"] = np.sort(rng.integers(0, 777, 6))
    outputs["poly_lr"] = 0.03 * (1 - inputs["poly_lr_iters"] / 777) ** 0.9

    own["ema_teacher"] = {"ema_decay": 0.6}
    inputs["ema_init"] = rng.normal(size=4).astype(np.float32)
    inputs["ema_student"] = rng.normal(size=(7, 4)).astype(np.float32)
    outputs["ema_teacher"] = official_ema(inputs["ema_init"], inputs["ema_student"], range(7), 0.6)
    inputs["ema_late_steps"] = np.array([120, 4000, 333])
    outputs["ema_teacher_late"] = np.concatenate(
        [official_ema(inputs["ema_init"], inputs["ema_student"][:1], [step], 0.99) for step in inputs["ema_late_steps"]]
    )
    for dim, shape in shapes.items():
        a, b = (rng.normal(0, 2, shape).astype(np.float32) for _ in range(2))
        labels = rng.integers(0, shape[1], (shape[0], *shape[2:])).astype(np.int16)
        inputs |= {f"logits{dim}": a, f"logits{dim}_b": b, f"labels{dim}": labels}
        a, b = a.astype(np.float64), b.astype(np.float64)
        p, q = softmax(a), softmax(b)
        axes = (0, *range(2, a.ndim))
        dice, dice_grad = dice_and_gradient(a, labels, smooth)
        own[f"dice_loss{dim}"] = {"smooth": smooth}
        values = {
            "dice_loss{}": dice,
            "dice_loss{}_grad": dice_grad,
            "ce_loss{}": ce_and_gradient(a, labels)[0],
            "softmax_mse{}": (p - q) ** 2,
            "sigmoid_mse{}": (1 / (1 + np.exp(-a)) - 1 / (1 + np.exp(-b))) ** 2,
            "softmax_kl{}": (q * np.log(q / p)).mean(),
            "softmax_dice{}": (1 - (2 * (p * q).sum(axes) + 1e-5) / (p.sum(axes) + q.sum(axes) + 1e-5)).mean(),
            "symmetric_mse{}": ((a - b) ** 2).mean(),
        }
        outputs |= {key.format(dim): np.float32(value) for key, value in values.items()}
    write(folder, "ssl4mis_common", inputs | outputs, set(outputs), own=own)


MEAN_TEACHER_DRAWS = [
    (
        {"labeled": 1, "unlabeled": 3, "channels": 2, "classes": 3, "spatial": (4, 6, 5)},
        {"labeled": 3, "unlabeled": 1, "channels": 3, "classes": 5, "spatial": (7, 9)},
        {
            "iter_num": 1234,
            "labeled_bs": 1,
            "consistency": 0.7,
            "consistency_rampup": 60,
            "noise_sigma": 0.3,
            "noise_clip": 0.4,
            "ema_decay": 0.9,
        },
    ),
    (
        {"labeled": 4, "unlabeled": 1, "channels": 1, "classes": 6, "spatial": (3, 4, 8)},
        {"labeled": 1, "unlabeled": 4, "channels": 1, "classes": 2, "spatial": (12, 5)},
        {
            "iter_num": 60000,
            "labeled_bs": 4,
            "consistency": 12.0,
            "consistency_rampup": 3,
            "noise_sigma": 0.1,
            "noise_clip": 0.02,
            "ema_decay": 0.999,
        },
    ),
]


@pytest.mark.parametrize("draw", range(len(MEAN_TEACHER_DRAWS)))
def test_mean_teacher_matches_an_independent_computation_on_other_draws(folder, draw):
    volume, slices, constants = MEAN_TEACHER_DRAWS[draw]
    draw_mean_teacher(folder, draw, volume, slices, constants)
    status, report = run(folder)
    assert status == 0, report
    assert report["mean_teacher"]["matched"] == 27


@pytest.mark.parametrize(
    "shapes, lengths, smooth",
    [
        ({"2d": (3, 6, 9, 5), "3d": (1, 3, 4, 6, 5)}, {"a": 7, "b": 333}, 1e-3),
        ({"2d": (1, 2, 8, 8), "3d": (5, 4, 3, 3, 7)}, {"a": 40, "b": 1, "c": 12}, 1e-5),
    ],
)
def test_ssl4mis_common_matches_an_independent_computation_on_other_draws(folder, shapes, lengths, smooth):
    draw_ssl4mis_common(folder, 11, shapes, lengths, smooth)
    status, report = run(folder)
    assert status == 0, report
    assert report["ssl4mis_common"]["matched"] == 20 + 3 * len(lengths)


# ------------------------------------------------------------------------------------------------- what does not match


@pytest.mark.parametrize(
    "produced, expected",
    [
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.zeros(1), np.zeros(())),
        ([1, 2, 4], np.array([1, 2, 3])),
        ([1.0, 2.5], np.array([1, 2])),
        ([True, False], np.array([True, True])),
        (torch.tensor([1.0, 2.001]), np.array([1.0, 2.0], np.float32)),
        ([1.0, 1 + 2e-9], np.array([1.0, 1.0])),
        ([1.0, np.nan], np.array([1.0, 1.0], np.float32)),
        ([1.0, np.inf], np.array([1.0, 1.0], np.float32)),
        ([1.0, 0.0], np.array([1.0, np.nan], np.float32)),
        ([-np.inf], np.array([np.inf])),
        ([1e-30], np.zeros(1, np.float32)),
        (["1"], np.array([1])),
    ],
)
def test_a_wrong_value_type_or_shape_does_not_match(produced, expected):
    error, problem = compare(produced, expected)
    assert problem
    assert error > 0


@pytest.mark.parametrize(
    "produced, expected",
    [
        (torch.tensor([1.0, 2.0001], requires_grad=True), np.array([1.0, 2.0], np.float32)),
        ([1.0, 1 + 0.5e-9], np.array([1.0, 1.0])),
        ([0.0001, 1000.0], np.array([0.0, 1000.0], np.float32)),
        (torch.tensor([3, 4], dtype=torch.int32), np.array([3, 4], np.int64)),
        ([1, 0], np.array([True, False])),
        ([np.nan, -np.inf, 2.0], np.array([np.nan, -np.inf, 2.0], np.float32)),
        (0.0, np.float64(0)),
        (np.zeros((0, 3)), np.zeros((0, 3), np.float32)),
    ],
)
def test_equal_values_match_whatever_holds_them(produced, expected):
    error, problem = compare(produced, np.asarray(expected))
    assert problem is None
    assert error <= 1e-4


def test_an_output_that_is_not_produced_is_missing_and_fails(folder, with_adapter, capsys):
    write(folder, "stub", {"x": 1.0, "y": 2.0, "z": 3.0}, {"y", "z"})
    with_adapter(lambda file: {"y": 2.0, "something else": 1.0})
    status, report = run(folder)
    assert status == 1
    assert report["stub"] == {
        "expected": 2,
        "produced": 1,
        "matched": 1,
        "missing": ["z"],
        "mismatched": {},
        "not_followed": {},
        "max_rel_err": 0.0,
    }
    assert "missing       z" in capsys.readouterr().out


def test_a_wrong_shape_and_an_integer_off_by_one_fail(folder, with_adapter):
    write(folder, "stub", {"shape": np.zeros((2, 3)), "count": np.array([4, 5])}, {"shape", "count"})
    with_adapter(lambda file: {"shape": np.zeros((3, 2)), "count": [4, 6]})
    status, report = run(folder)
    assert status == 1
    assert set(report["stub"]["mismatched"]) == {"shape", "count"}
    assert report["stub"]["max_rel_err"] is None


def test_a_listed_defect_is_excused_but_only_while_it_is_not_produced(folder, with_adapter):
    write(folder, "stub", {"x": 1.0, "good": 2.0, "defect": 3.0}, {"good", "defect"})
    reason = {"defect": "halves the batch twice", "of another draw": "the same"}
    with_adapter(lambda file: {"good": 2.0}, NOT_FOLLOWED=reason)
    status, report = run(folder)
    assert status == 0
    assert report["stub"]["not_followed"] == {"defect": "halves the batch twice"}
    assert report["stub"]["missing"] == []
    assert report["stub"]["matched"] == 1

    with_adapter(lambda file: {"good": 2.0, "defect": 3.0}, NOT_FOLLOWED=reason)
    status, report = run(folder)
    assert status == 1
    assert "not followed" in report["stub"]["mismatched"]["defect"]


def test_what_was_computed_in_single_precision_has_its_tolerance(folder, with_adapter):
    write(folder, "stub", {"x": 1.0, "single": 2.0, "double": 3.0}, {"single", "double"})
    found = {"single": 2.0001, "double": 3.0001}
    with_adapter(lambda file: found, SINGLE_PRECISION=("single", "of another draw"))
    status, report = run(folder)
    assert status == 1
    assert list(report["stub"]["mismatched"]) == ["double"]


@pytest.mark.parametrize("name", framework.adapter_names())
def test_single_precision_is_claimed_for_stored_arrays_of_double_precision_only(name):
    single = framework.load_adapter(name).single_precision
    if single:
        source = DATA if (DATA / f"{name}.npz").exists() else shared_dir("golden")
        expected = GoldenFile.load(source, name).expected()
        assert {str(expected[key].dtype) for key in single} == {"float64"}


def test_an_adapter_that_raises_fails_its_file_and_not_the_others(folder, with_adapter, capsys):
    write(folder, "stub", {"x": 1.0, "y": 2.0}, {"y"})
    copy_changed(folder, "ssl4mis_common", lambda key, array: array)
    with_adapter(lambda file: {"y": file.inputs["no such input"]})
    status, report = run(folder)
    assert status == 1
    assert report["stub"]["missing"] == ["y"] and report["stub"]["max_rel_err"] is None
    assert report["ssl4mis_common"]["matched"] == 26
    assert "no input array 'no such input'" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------- requests


def test_an_unknown_name_and_a_name_without_adapter_fail_while_others_are_checked(folder, capsys):
    write(folder, "nobody", {"x": 1.0, "y": 2.0}, {"y"})
    copy_changed(folder, "ssl4mis_common", lambda key, array: array)
    status, report = run(folder)
    assert status == 0
    assert "nobody: no adapter" in capsys.readouterr().out

    status, report = run(folder, "ssl4mis_common.npz", "nobody", "typo")
    assert status == 1
    assert list(report) == ["ssl4mis_common"]
    messages = capsys.readouterr().err
    assert "nobody: no adapter" in messages
    assert "there is no typo.npz" in messages


def test_a_folder_without_golden_files_fails(folder, capsys):
    assert main([str(folder)]) == 1
    assert main([str(folder / "absent")]) == 1
    assert capsys.readouterr().err.count("no golden files") == 2


def test_a_missing_or_contradicting_sidecar_fails(folder, with_adapter, capsys):
    with_adapter(lambda file: {"y": 2.0})
    np.savez(folder / "stub.npz", x=1.0, y=2.0)
    assert main([str(folder)]) == 1
    assert "stub: cannot be read" in capsys.readouterr().err
    write(folder, "stub", {"x": 1.0, "y": 2.0}, {"y"})
    np.savez(folder / "stub.npz", x=1.0)
    assert main([str(folder)]) == 1
    assert "only in one of them: ['y']" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------- what adapters see


@pytest.fixture
def file() -> GoldenFile:
    arrays = {"case/in/x": np.arange(3.0), "case/out/y": np.array(7), "plain2d": np.zeros(2), "plain3d": np.zeros(2)}
    sidecar = {
        "constants": {"t": 1, "eps": 5, "case": {"t": 2, "of_case": 3}},
        "arrays": {
            "case/in/x": {"role": "input"},
            "case/out/y": {"role": "output", "constants": {"t": 4}},
            "plain2d": {"role": "input"},
            "plain3d": {"role": "output"},
        },
    }
    return GoldenFile("file", arrays, sidecar)


def test_a_constant_of_the_array_wins_over_its_case_and_that_over_the_file(file):
    assert file.constant("t", "case/out/y") == 4
    assert file.constant("t", "case/in/x") == file.constant("t", "case") == 2
    assert file.constant("t", "plain2d") == file.constant("t") == 1
    assert file.constant("eps", "case/out/y") == 5
    with pytest.raises(GoldenError, match="of_case"):
        file.constant("of_case", "plain2d")


def test_an_adapter_cannot_take_an_output_for_an_input_unless_it_says_so(file):
    with pytest.raises(GoldenError, match="no input array 'case/out/y'"):
        file.inputs["case/out/y"]
    with pytest.raises(GoldenError, match="no output array 'case/in/x'"):
        file.byproduct("case/in/x")
    assert file.byproduct("case/out/y") == 7
    assert set(file.outputs) == {"case/out/y", "plain3d"}


def test_changing_an_input_in_place_does_not_change_the_next_reading_of_it(file):
    file.inputs["case/in/x"][0] = 100
    file.tensor("case/in/x").add_(1)
    assert file.numbers("case/in/x") == [0.0, 1.0, 2.0]


def test_match_finds_the_varying_part_of_keys(file):
    assert file.match(r"plain(\dd)") == ["2d", "3d"]
    assert file.match(r"plai(\dd)") == []


def test_grad_is_zero_where_the_output_does_not_depend_on_the_input():
    x, other = torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)
    assert torch.equal(framework.grad((2 * x).sum(), x), torch.full((3,), 2.0))
    assert torch.equal(framework.grad((2 * x).sum(), other), torch.zeros(2))
    assert torch.equal(framework.grad(torch.zeros(()), x), torch.zeros(3))


# --------------------------------------------------------------------------------------------- what adapters may hold

COMPUTING_METHODS = re.compile(
    "abs|add|argmax|clamp|clip|cos|div|dot|einsum|exp|log|log_softmax|matmul|max|mean|min|mul|norm|pow|prod|sigmoid|"
    "softmax|sqrt|square|std|sub|sum|tanh|var|where"
)
ALLOWED_TORCH = {"stack", "cat", "as_tensor", "from_numpy"}


def arithmetic_in(source: str) -> list[str]:
    """Operators and tensor functions in the source of an adapter that compute instead of reshaping."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div, ast.Pow, ast.MatMult, ast.FloorDiv)):
            found.append(ast.unparse(node))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            library = owner in ("np", "torch", "F") and node.func.attr not in ALLOWED_TORCH
            if library or COMPUTING_METHODS.fullmatch(node.func.attr):
                found.append(ast.unparse(node))
    return found


def test_the_search_for_arithmetic_finds_some():
    source = "y = 0.5 * (a + b)\nz = torch.relu(y)\nw = z.mean()\nv = torch.stack([z[: len(a) - len(b)]])"
    assert arithmetic_in(source) == ["0.5 * (a + b)", "torch.relu(y)", "z.mean()"]


def test_adapters_contain_no_arithmetic():
    for path in sorted(Path(inspect.getfile(adapters)).parent.glob("*.py")):
        assert arithmetic_in(path.read_text()) == [], path.name


def library_functions_in(module: ModuleType) -> set[str]:
    """Dotted names of the functions of nnunet_ssl that stand in a module's namespace."""
    members = [value for value in vars(module).values() if getattr(value, "__module__", "").startswith("nnunet_ssl")]
    return {f"{value.__module__}.{value.__qualname__}" for value in members}


@pytest.mark.parametrize("name", framework.adapter_names())
def test_an_adapter_lists_what_it_uses_and_calls_all_of_it(name, monkeypatch):
    adapter = framework.load_adapter(name)
    listed = set(adapter.uses) | set(adapter.reference_only)
    assert not set(adapter.uses) & set(adapter.reference_only)
    assert all(adapter.reference_only.values())
    assert library_functions_in(adapter.module) <= listed
    library_modules = [v for v in vars(adapter.module).values() if inspect.ismodule(v) and "nnunet_ssl" in v.__name__]
    assert not library_modules, "import functions, not modules, so that what an adapter uses can be seen"

    helpers = library_functions_in(importlib.import_module(f"{adapters.__name__}._common"))
    calls = {dotted: framework.record_calls(monkeypatch, dotted) for dotted in listed | helpers}
    source = DATA if (DATA / f"{name}.npz").exists() else shared_dir("golden")
    assert framework.check(GoldenFile.load(source, name), adapter).complete
    assert {dotted for dotted, made in calls.items() if made} == listed
