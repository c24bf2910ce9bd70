"""A small raw data set, the ways to spoil it, and what each command may do then."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ssl import cli
from tests.faults.spoiling import (
    Scene,
    Spoil,
    Spoiled,
    broken_json,
    changed_json,
    content,
    images,
    nifti,
    replaced,
    voxels,
    with_voxel,
)
from tests.helpers.raw_data import phantom, write_image, write_raw_dataset, write_split

NAME, NUMBER = "Dataset041_Spoiled", "41"
OTHER, OTHER_NUMBER = "Dataset042_Sound", "42"
IMAGE = "imagesTr/a_0000.nii.gz"
UNLABELED = "imagesUn/u_0000.nii.gz"
LABEL = "labelsTr/a.nii.gz"
# given a data set that is planned and preprocessed
PLANNED = {
    "check": ["check", "-d", NUMBER, "-np", "1"],
    "preprocess": ["preprocess_unlabeled", "-d", NUMBER, "-c", "2d", "-np", "1"],
    "pseudo_label": ["pseudo_label", "-d", NUMBER, "-c", "2d", "--from", "{root}/maps", "-np", "1", "--no_pbar"],
    "weaken": ["weaken", "-d", NUMBER, "-o", "43", "--kind", "points", "-np", "1"],
    "merge": ["merge", "-i", NUMBER, OTHER_NUMBER, "-o", "44", "-f", "2", "-np", "1"],
    "split": ["split", "-d", NUMBER, "--labeled", "1", "--val_fraction", "0.4", "-np", "1"],
}
# given a raw data set alone
PLAN = {"plan": ["plan_and_preprocess", "-d", NUMBER, "-c", "2d", "-np", "1", "-npfp", "1", "--no_pbar"]}
# given a raw data set with sparse labels
EXPAND = {"expand": ["expand", "-d", NUMBER, "-o", "43", "--method", "geodesic", "-np", "1"]}
COMMANDS = PLANNED | PLAN | EXPAND
ALL = tuple(COMMANDS)
MAKE_LABELS = ("weaken", "expand", "merge")  # read label maps, and images where they need them
READS_LABELS = ("check", "weaken", "merge", "expand")
PREPROCESS = ("preprocess", "pseudo_label", "plan")


def write_planned(root: Path) -> None:
    """Two data sets, of which the first is planned and preprocessed, and label maps of its unlabeled cases."""
    write_with_maps(root)
    assert cli.main(PLAN["plan"]) == 0


def write_with_maps(root: Path) -> None:
    for name in (NAME, OTHER):
        write_sound(root / "nnUNet_raw" / name)
    for case, seed in (("u", 3), ("v", 4)):
        write_image(phantom(seed)[1], root / "maps" / f"{case}.nii.gz")


def write_raw(root: Path) -> None:
    write_sound(root / "nnUNet_raw" / NAME)


def write_sparse(root: Path) -> None:
    """Every second slice is annotated."""
    write_raw(root)
    folder = root / "nnUNet_raw" / NAME
    for file in (folder / "labelsTr").iterdir():
        image = sitk.ReadImage(str(file))
        labels = sitk.GetArrayFromImage(image)
        labels[::2] = 2
        write_image(labels, file)
    _with("labels", {"background": 0, "ball": 1, "ignore": 2})(folder)


def write_sound(folder: Path) -> None:
    write_raw_dataset(folder, {"a": 0, "b": 1, "c": 2}, unlabeled={"u": 3, "v": 4}, test={"t": 5})


# ------------------------------------------------------------------------------------------------------- dataset.json


def _dataset_json(change: Callable[[dict], object]) -> Spoil:
    return changed_json("dataset.json", change)


def _with(key: str, value: object) -> Spoil:
    return _dataset_json(lambda content: content.__setitem__(key, value))


def _with_text(key: str, text: str) -> Spoil:
    """As UTF-8, which `json` would write with escapes."""

    def spoil(folder: Path) -> None:
        file = folder / "dataset.json"
        held = json.loads(file.read_text()) | {key: text}
        file.write_text(json.dumps(held, ensure_ascii=False), encoding="utf-8")

    return spoil


def _labels(**labels: object) -> Spoil:
    return _with("labels", labels)


KEYS = [
    ("no labels", _dataset_json(lambda c: c.pop("labels") and None), "labels"),
    ("no file ending", _dataset_json(lambda c: c.pop("file_ending") and None), "file_ending"),
    ("no channels", _dataset_json(lambda c: c.pop("channel_names") and None), "channel_names"),
    ("labels a list", _with("labels", ["background", "ball"]), "labels"),
    ("labels empty", _with("labels", {}), "labels"),
    ("no background", _labels(ball=1), "background"),
    ("background 1", _labels(background=1, ball=0), "labels.background"),
    ("label null", _labels(background=0, ball=None), "labels.ball"),
    ("label a word", _labels(background=0, ball="one"), "labels.ball"),
    ("label negative", _labels(background=0, ball=-1), "labels.ball"),
    ("label half", _labels(background=0, ball=1.5), "labels.ball"),
    ("label true", _labels(background=0, ball=True), "labels.ball"),
    ("label huge", _labels(background=0, ball=10**30), "labels.ball"),
    ("label twice", _labels(background=0, ball=1, cube=1), "labels.cube"),
    ("ignore first", _labels(background=0, ignore=1, ball=2), "labels.ignore"),
    ("ignore text", _labels(background=0, ball=1, ignore="2"), "labels.ignore"),
    ("region without order", _labels(background=0, both=[1, 2], ball=1), "regions_class_order"),
    ("ending a number", _with("file_ending", 5), "file_ending"),
    ("ending without dot", _with("file_ending", "nii.gz"), "file_ending"),
    ("channels a list", _with("channel_names", ["MR"]), "channel_names"),
    ("channels from 1", _with("channel_names", {"1": "MR"}), "channel_names"),
    ("channels empty", _with("channel_names", {}), "channel_names"),
    ("channel null", _with("channel_names", {"0": None}), "channel_names"),
    ("numTraining text", _with("numTraining", "3"), "numTraining"),
    ("numTraining other", _with("numTraining", 4), "numTraining"),
    ("dataset a list", _with("dataset", []), "dataset"),
    ("dataset without label", _with("dataset", {"a": {"images": ["imagesTr/a_0000.nii.gz"]}}), "dataset.a"),
    ("dataset outside", _with("dataset", {"../a": {"images": ["x"], "label": "y"}}), "case id"),
]

LABELS = [
    ("label NaN", nifti(LABEL, with_voxel(float("nan"))), "NaN"),
    ("label fraction", nifti(LABEL, with_voxel(0.5)), "no labels"),
    ("label negative number", nifti(LABEL, lambda a: a.astype(np.int16) - 1), "no labels"),
    ("label cut off", lambda f: (f / LABEL).write_bytes((f / LABEL).read_bytes()[:-20]), "cannot be read"),
    ("label empty file", lambda f: (f / LABEL).write_bytes(b""), "cannot be read"),
    ("label missing", lambda f: (f / LABEL).unlink(), "label"),
    ("label dangling", replaced(LABEL, lambda p: p.symlink_to("/nowhere/x")), "link"),
    (
        "label without image",
        lambda f: (f / LABEL).with_name("z.nii.gz").write_bytes((f / LABEL).read_bytes()),
        "no image",
    ),
    ("hidden label", lambda f: (f / "labelsTr/._a.nii.gz").write_bytes(b"x"), "hidden"),
    ("label with channel", lambda f: (f / LABEL).rename(f / "labelsTr/a_0000.nii.gz"), "label"),
    ("label HU", nifti(LABEL, lambda a: a.astype(np.int16) - 1024), "no labels"),
]
GRIDS = [
    ("label unknown code", voxels(LABEL, lambda a: a * 3), "3"),
    ("label other shape", voxels(LABEL, lambda a: a[1:]), "shape"),
    ("label other spacing", voxels(LABEL, lambda a: a, Spacing=(1.0, 1.0, 2.0)), "spacing"),
    ("label other origin", voxels(LABEL, lambda a: a, Origin=(0.0, 9.0, 0.0)), "origin"),
    ("label turned", voxels(LABEL, lambda a: a, Direction=(-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)), "direction"),
]
SAME_ID = lambda f: write_image(np.ones((16, 24, 20), np.float32), f / "imagesUn/a_0000.nii.gz")  # noqa: E731
CASES = [
    ("one id twice", SAME_ID, "occur once"),
    (
        "x beside x_seg",
        lambda f: write_image(np.ones((16, 24, 20), np.float32), f / "imagesUn/a_seg_0000.nii.gz"),
        "a_seg",
    ),
    (
        "A beside a",
        lambda f: write_image(np.ones((16, 24, 20), np.float32), f / "imagesUn/A_0000.nii.gz"),
        "upper and lower case",
    ),
    ("test label dangling", replaced("labelsTs/t.nii.gz", lambda p: p.symlink_to("/nowhere/x")), "is a link to"),
    ("test label a pipe", replaced("labelsTs/t.nii.gz", os.mkfifo), "no regular file"),
    ("hidden image", lambda f: (f / "imagesTr/._a_0000.nii.gz").write_bytes(b"x"), "hidden"),
]
# with which planning, which takes seconds, is not tried
PLANNED_OFTEN = (
    "other keys",
    "other scripts",
    "constant image",
    "int64",
    "other file",
    "hidden test label",
    "no test labels",
)
RIGHT: list[tuple[str, Spoil]] = [
    (
        "labels as text",
        _dataset_json(lambda c: {**c, "labels": {k: v if k == "ignore" else str(v) for k, v in c["labels"].items()}}),
    ),
    ("labels in lists", _dataset_json(lambda c: {**c, "labels": {**c["labels"], "ball": [1]}})),
    ("hidden unlabeled", lambda f: (f / "imagesUn/._u_0000.nii.gz").write_bytes(b"x")),
    ("odd ids", lambda f: (f / UNLABELED).rename(f / "imagesUn/Fall [2] ü.1_0000.nii.gz")),
    ("hidden test label", lambda f: (f / "labelsTs/._t.nii.gz").write_bytes(b"x")),
    ("no test labels", lambda f: shutil.rmtree(f / "labelsTs")),
    ("other keys", _with("comment", {"x": [1]})),
    ("ids of four digits", lambda f: (f / UNLABELED).rename(f / "imagesUn/0000_0000.nii.gz")),
    ("other scripts", _with_text("description", "肝臓 Größe")),
    ("constant image", voxels(UNLABELED, lambda a: a * 0 + 7)),
    ("int64", nifti(UNLABELED, lambda a: a.astype(np.int64))),
    ("big-endian", nifti(UNLABELED, lambda a: a.astype(">f4"))),
    ("other file", lambda f: (f / "notes.txt").write_text("x")),
]


def _splits(*folds: tuple[list, list]) -> Spoil:
    return lambda folder: write_split(folder, *folds)


SPLITS = [
    ("splits an object", content(b'{"train": ["a"], "val": ["b"]}', "splits_final.json"), "allowed is a list"),
    ("splits empty", content(b"[]", "splits_final.json"), "must be a list"),
    ("splits numbers", content(b'[{"train": [1], "val": [2]}]', "splits_final.json"), "list of case ids"),
    ("splits with endings", _splits((["a.nii.gz", "b.nii.gz"], ["c.nii.gz"])), "without file ending"),
    ("splits with channels", _splits((["a_0000", "b_0000"], ["c_0000"])), "without file ending and channel"),
    ("splits with unlabeled", _splits((["a", "b", "u"], ["c"])), "not labeled cases"),
    ("splits outside", _splits((["../a", "b"], ["c"])), "path separator"),
    ("splits a case twice", _splits((["a", "a"], ["c"])), "more than once"),
    ("splits without training", _splits(([], ["c"])), "empty"),
    ("splits not JSON", content(b"[", "splits_final.json"), "not valid JSON"),
]


def _list(held: object) -> Spoil:
    return content(json.dumps(held).encode(), "unlabeled.json")


EMPTY = {"format": 1, "unlabeled": {}, "labeled": {}, "test": {}}
LISTS = [
    ("list not JSON", content(b"{", "unlabeled.json"), "not valid JSON"),
    ("list a list", _list([]), "allowed is an object"),
    ("list other format", _list({**EMPTY, "format": 9}), "format"),
    ("list misspelled", _list({**EMPTY, "group": {}}), "group"),
    ("list groups a list", _list({**EMPTY, "groups": ["a"]}), "groups"),
    ("list record text", _list({**EMPTY, "unlabeled": {"u": "x"}}), "unlabeled.u"),
    ("list outside", _list({**EMPTY, "unlabeled": {"../u": {"source": "", "sha256": ""}}}), "path separator"),
]


def _table() -> list[Spoiled]:
    rows = [Spoiled(*row, refused=ALL) for row in (*broken_json("dataset.json"), *KEYS, *CASES)]
    listing = (
        "dangling link",
        "link to itself",
        "a pipe",
        "a folder",
        "upper case",
        "other ending",
        "without channel",
        "without underscore",
        "second channel",
    )
    for row in images(IMAGE):
        if row[0] == f"{IMAGE} sheared":  # the first one: nnU-Net itself chooses another reader
            reading = ("check", *PREPROCESS, "split")
            rows.append(Spoiled(*row[:2], "", refused=(), right=reading))
            # its label map does not
            rows.append(Spoiled(*row[:2], "must lie on each other", refused=("expand", "weaken")))
            rows.append(Spoiled(*row[:2], "would read all with one", refused=("merge",)))
            continue
        reading = ("check", *PREPROCESS, "merge", "split")
        rows.append(Spoiled(*row, refused=ALL if row[0].endswith(listing) else reading))
        if not row[0].endswith(listing):
            words = "the shape" if row[2] == "axes" else row[2]
            rows.append(Spoiled(*row[:2], words, refused=("expand",)))
    for row in images(UNLABELED):
        rows.append(
            Spoiled(*row, refused=ALL if row[0].endswith(listing) else ("check", *PREPROCESS, "merge", "split"))
        )
    listed = ("label with channel", "label missing", "label dangling", "label without image", "hidden label")
    rows += [Spoiled(*row, refused=ALL if row[0] in listed else (*READS_LABELS, "plan")) for row in LABELS]
    for row in GRIDS:  # nnU-Net takes labels that lie elsewhere, so that `check` and planning only warn of them
        unusable = row[0].endswith(("unknown code", "other shape"))
        by_check = ((*READS_LABELS, "plan"), ()) if unusable else (MAKE_LABELS, ("check", "plan"))
        rows.append(Spoiled(*row, *by_check))
    for name, spoil in RIGHT:
        # label maps made elsewhere have the old ids; planning takes seconds
        left_out = {"pseudo_label"} if name in ("odd ids", "ids of four digits") else set()
        left_out |= {"plan"} if name in PLANNED_OFTEN else set()
        right = tuple(command for command in ALL if command not in left_out)
        rows.append(Spoiled(name, spoil, "", (), right))
    rows.append(
        Spoiled(
            "no count",
            _dataset_json(lambda c: c.pop("numTraining") and None),
            "numTraining",
            ("plan",),
            (*PLANNED, "expand"),
        )
    )
    for row in SPLITS:
        # `check` lists unknown cases among its warnings, and a training case among the unlabeled ones as a leak
        by_check = {"without file ending": ((), ("check",)), "not labeled cases": ((), ())}
        refused, right = by_check.get(" ".join(row[2].split()[:3]), (("check",), ()))
        rows.append(Spoiled(*row, (*PREPROCESS, "weaken", "expand", "split", *refused), right))
    rows += [Spoiled(*row, refused=ALL) for row in LISTS]
    return rows


TABLE = _table()


def _scene(write: Callable[[Path], None], commands: dict[str, list[str]]) -> Scene:
    return Scene(write, f"nnUNet_raw/{NAME}", commands, TABLE)


SCENES = [_scene(write_planned, PLANNED), _scene(write_raw, PLAN), _scene(write_sparse, EXPAND)]
