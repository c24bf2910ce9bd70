"""A small raw data set, the ways to spoil it, and what each command may do then."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from tests.helpers.raw_data import write_image, write_raw_dataset, write_split

NAME, NUMBER = "Dataset041_Spoiled", "41"
OTHER, OTHER_NUMBER = "Dataset042_Sound", "42"
IMAGE = "imagesTr/a_0000.nii.gz"
UNLABELED = "imagesUn/u_0000.nii.gz"
LABEL = "labelsTr/a.nii.gz"
COMMANDS = {
    "check": ["check", "-d", NUMBER, "-np", "1"],
    "preprocess": ["preprocess_unlabeled", "-d", NUMBER, "-c", "2d", "-np", "1"],
    "weaken": ["weaken", "-d", NUMBER, "-o", "43", "--kind", "points", "-np", "1"],
    "merge": ["merge", "-i", NUMBER, OTHER_NUMBER, "-o", "44", "-f", "2", "-np", "1"],
    "split": ["split", "-d", NUMBER, "--labeled", "1", "--val_fraction", "0.4", "-np", "1"],
}
ALL = tuple(COMMANDS)
READS_IMAGES = ("check", "preprocess", "weaken", "merge")
READS_LABELS = ("check", "weaken", "merge")


@dataclass(frozen=True)
class Spoiled:
    """One way to spoil the data set.

    Attributes:
        words: what the message of every command in `refused` has; the others do the right thing.
    """

    name: str
    spoil: Callable[[Path], object]
    words: str
    refused: tuple[str, ...]
    right: tuple[str, ...] = ()


def write_sound(folder: Path) -> None:
    write_raw_dataset(folder, {"a": 0, "b": 1, "c": 2}, unlabeled={"u": 3, "v": 4}, test={"t": 5})


# ------------------------------------------------------------------------------------------------------- dataset.json


def _dataset_json(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        file = folder / "dataset.json"
        content = json.loads(file.read_text())
        changed = change(content)
        file.write_text(json.dumps(content if changed is None else changed))

    return spoil


def _bytes(content: bytes, name: str = "dataset.json") -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content)


def _with(key: str, value: object) -> Callable[[Path], None]:
    return _dataset_json(lambda content: content.__setitem__(key, value))


def _with_text(key: str, text: str) -> Callable[[Path], None]:
    """As UTF-8, which `json` would write with escapes."""

    def spoil(folder: Path) -> None:
        file = folder / "dataset.json"
        content = json.loads(file.read_text()) | {key: text}
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

    return spoil


def _labels(**labels: object) -> Callable[[Path], None]:
    return _with("labels", labels)


def _is_folder(folder: Path) -> None:
    (folder / "dataset.json").unlink()
    (folder / "dataset.json").mkdir()


FILES = [
    ("empty", _bytes(b""), "not valid JSON"),
    ("trailing comma", _bytes(b'{"labels": {"background": 0,},}'), "not valid JSON"),
    ("cut off", _bytes(b'{"labels": {"backgr'), "not valid JSON"),
    ("byte order mark", _bytes(b"\xef\xbb\xbf{}"), "byte order mark"),
    ("Latin-1", _bytes('{"name": "Größe"}'.encode("latin-1")), "not in UTF-8"),
    ("UTF-16", _bytes('{"name": "x"}'.encode("utf-16")), "not in UTF-8"),
    ("nested deep", _bytes(b"[" * 100000), "nested too deep"),
    ("huge number", _bytes(b'{"numTraining": ' + b"9" * 5000 + b"}"), "not valid JSON"),
    ("a list", _bytes(b"[]"), "allowed is an object"),
    ("null", _bytes(b"null"), "allowed is an object"),
    ("a key twice", _bytes(b'{"labels": {}, "labels": {}}'), "occurs twice"),
    ("a folder", _is_folder, "is a folder"),
    ("missing", lambda folder: (folder / "dataset.json").unlink(), "does not exist"),
]
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

# ----------------------------------------------------------------------------------------------------------- the files


def _voxels(name: str, change: Callable[[np.ndarray], np.ndarray], **geometry: tuple) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        image = sitk.ReadImage(str(folder / name))
        changed = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
        for key, value in geometry.items():
            getattr(changed, f"Set{key}")(value)
        sitk.WriteImage(changed, str(folder / name))

    return spoil


def _nifti(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Voxels that SimpleITK does not write."""

    def spoil(folder: Path) -> None:
        image = nibabel.load(folder / name)
        changed = change(np.asarray(image.dataobj))
        nibabel.save(nibabel.Nifti1Image(changed, image.affine, dtype=changed.dtype), folder / name)

    return spoil


def _header(name: str, offset: int, packed: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = bytearray(gzip.decompress((folder / name).read_bytes()))
        content[offset : offset + len(packed)] = packed
        (folder / name).write_bytes(gzip.compress(bytes(content)))

    return spoil


def _spacing(name: str, value: float) -> Callable[[Path], None]:
    return _header(name, 76 + 4 * 2, struct.pack("<f", value))


def _set(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.float64 if abs(value) > 1e38 else np.float32)
        array.flat[array.size // 2] = value
        return array

    return change


def _replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return spoil


def _sheared(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        image = nibabel.load(folder / name)
        affine = image.affine.copy()
        affine[0, 1] = 0.4
        changed = nibabel.Nifti1Image(np.asarray(image.dataobj), affine)
        changed.set_sform(affine, code=1)
        changed.set_qform(None, code=0)
        nibabel.save(changed, folder / name)

    return spoil


def _two_dimensional(array: np.ndarray) -> np.ndarray:
    return array[0]


def images(name: str) -> list[tuple[str, Callable[[Path], object], str]]:
    """Ways to spoil one image, which every command that reads images refuses, naming the file."""
    return [
        (f"{name} {what}", spoil, words)
        for what, spoil, words in (
            ("NaN", _nifti(name, _set(float("nan"))), "NaN"),
            ("infinite", _nifti(name, _set(float("inf"))), "infinite"),
            ("beyond float32", _nifti(name, _set(1e300)), "float32"),
            ("complex", _nifti(name, lambda a: a.astype(np.complex64)), "complex64"),
            ("RGB", _nifti(name, lambda a: np.zeros(a.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])), "type"),
            ("2D", _voxels(name, _two_dimensional), "axes"),
            ("4D", _nifti(name, lambda a: np.stack([a, a], -1)), "axes"),
            ("cut off", lambda f: (f / name).write_bytes((f / name).read_bytes()[:-900]), "cannot be read"),
            ("more announced", _header(name, 42, struct.pack("<h", 99)), "announced by the header"),
            ("spacing 0", _spacing(name, 0.0), "spacing"),
            ("spacing negative", _spacing(name, -1.0), "spacing"),
            ("spacing NaN", _spacing(name, float("nan")), "spacing"),
            ("sheared", _sheared(name), "right angles"),
            ("empty file", lambda f: (f / name).write_bytes(b""), "cannot be read"),
            ("a web page", lambda f: (f / name).write_text("<html>404</html>"), "cannot be read"),
            (
                "without underscore",
                lambda f: (f / name).rename((f / name).with_name("x.0000.nii.gz")),
                "number of its channel",
            ),
            ("dangling link", _replaced(name, lambda p: p.symlink_to("/nowhere/x.nii.gz")), "is a link to"),
            ("link to itself", _replaced(name, lambda p: p.symlink_to(p)), name),
            ("a pipe", _replaced(name, os.mkfifo), "no regular file"),
            ("a folder", _replaced(name, os.mkdir), "is a folder"),
            ("upper case", lambda f: (f / name).rename((f / name).with_name("x_0000.NII.GZ")), "x_0000.NII.GZ"),
            ("other ending", lambda f: (f / name).rename((f / name).with_name("x_0000.nii")), "Rename or convert it"),
            ("without channel", lambda f: (f / name).rename((f / name).with_name("x.nii.gz")), "number of its channel"),
            (
                "second channel",
                lambda f: write_image(np.zeros((4, 4, 4), np.float32), f / name.replace("_0000", "_0001")),
                "channel",
            ),
        )
    ]


LABELS = [
    ("label NaN", _nifti(LABEL, _set(float("nan"))), "NaN"),
    ("label fraction", _nifti(LABEL, _set(0.5)), "no labels"),
    ("label negative number", _nifti(LABEL, lambda a: a.astype(np.int16) - 1), "no labels"),
    ("label cut off", lambda f: (f / LABEL).write_bytes((f / LABEL).read_bytes()[:-20]), "cannot be read"),
    ("label empty file", lambda f: (f / LABEL).write_bytes(b""), "cannot be read"),
    ("label missing", lambda f: (f / LABEL).unlink(), "label"),
    ("label dangling", _replaced(LABEL, lambda p: p.symlink_to("/nowhere/x")), "link"),
    (
        "label without image",
        lambda f: (f / LABEL).with_name("z.nii.gz").write_bytes((f / LABEL).read_bytes()),
        "no image",
    ),
    ("hidden label", lambda f: (f / "labelsTr/._a.nii.gz").write_bytes(b"x"), "hidden"),
    ("label with channel", lambda f: (f / LABEL).rename(f / "labelsTr/a_0000.nii.gz"), "label"),
    ("label HU", _nifti(LABEL, lambda a: a.astype(np.int16) - 1024), "no labels"),
]
GRIDS = [
    ("label unknown code", _voxels(LABEL, lambda a: a * 3), "3"),
    ("label other shape", _voxels(LABEL, lambda a: a[1:]), "shape"),
    ("label other spacing", _voxels(LABEL, lambda a: a, Spacing=(1.0, 1.0, 2.0)), "spacing"),
    ("label other origin", _voxels(LABEL, lambda a: a, Origin=(0.0, 9.0, 0.0)), "origin"),
    ("label turned", _voxels(LABEL, lambda a: a, Direction=(-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)), "direction"),
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
    ("test label dangling", _replaced("labelsTs/t.nii.gz", lambda p: p.symlink_to("/nowhere/x")), "is a link to"),
    ("test label a pipe", _replaced("labelsTs/t.nii.gz", os.mkfifo), "no regular file"),
    ("hidden image", lambda f: (f / "imagesTr/._a_0000.nii.gz").write_bytes(b"x"), "hidden"),
]
RIGHT: list[tuple[str, Callable[[Path], object]]] = [
    ("labels as text", _labels(background="0", ball="1")),
    ("labels in lists", _labels(background=0, ball=[1])),
    ("hidden unlabeled", lambda f: (f / "imagesUn/._u_0000.nii.gz").write_bytes(b"x")),
    ("odd ids", lambda f: (f / UNLABELED).rename(f / "imagesUn/Fall [2] ü.1_0000.nii.gz")),
    ("hidden test label", lambda f: (f / "labelsTs/._t.nii.gz").write_bytes(b"x")),
    ("no test labels", lambda f: shutil.rmtree(f / "labelsTs")),
    ("other keys", _with("comment", {"x": [1]})),
    ("ids of four digits", lambda f: (f / UNLABELED).rename(f / "imagesUn/0000_0000.nii.gz")),
    ("other scripts", _with_text("description", "肝臓 Größe")),
    ("no count", _dataset_json(lambda c: c.pop("numTraining") and None)),
    ("constant image", _voxels(UNLABELED, lambda a: a * 0 + 7)),
    ("int64", _nifti(UNLABELED, lambda a: a.astype(np.int64))),
    ("big-endian", _nifti(UNLABELED, lambda a: a.astype(">f4"))),
    ("other file", lambda f: (f / "notes.txt").write_text("x")),
]


def _splits(*folds: tuple[list, list]) -> Callable[[Path], None]:
    return lambda folder: write_split(folder, *folds)


SPLITS = [
    ("splits an object", _bytes(b'{"train": ["a"], "val": ["b"]}', "splits_final.json"), "allowed is a list"),
    ("splits empty", _bytes(b"[]", "splits_final.json"), "must be a list"),
    ("splits numbers", _bytes(b'[{"train": [1], "val": [2]}]', "splits_final.json"), "list of case ids"),
    ("splits with endings", _splits((["a.nii.gz", "b.nii.gz"], ["c.nii.gz"])), "without file ending"),
    ("splits with channels", _splits((["a_0000", "b_0000"], ["c_0000"])), "without file ending and channel"),
    ("splits with unlabeled", _splits((["a", "b", "u"], ["c"])), "not labeled cases"),
    ("splits outside", _splits((["../a", "b"], ["c"])), "path separator"),
    ("splits a case twice", _splits((["a", "a"], ["c"])), "more than once"),
    ("splits without training", _splits(([], ["c"])), "empty"),
    ("splits not JSON", _bytes(b"[", "splits_final.json"), "not valid JSON"),
]


def _list(content: object) -> Callable[[Path], None]:
    return _bytes(json.dumps(content).encode(), "unlabeled.json")


EMPTY = {"format": 1, "unlabeled": {}, "labeled": {}, "test": {}}
LISTS = [
    ("list not JSON", _bytes(b"{", "unlabeled.json"), "not valid JSON"),
    ("list a list", _list([]), "allowed is an object"),
    ("list other format", _list({**EMPTY, "format": 9}), "format"),
    ("list misspelled", _list({**EMPTY, "group": {}}), "group"),
    ("list groups a list", _list({**EMPTY, "groups": ["a"]}), "groups"),
    ("list record text", _list({**EMPTY, "unlabeled": {"u": "x"}}), "unlabeled.u"),
    ("list outside", _list({**EMPTY, "unlabeled": {"../u": {"source": "", "sha256": ""}}}), "path separator"),
]


def _table() -> list[Spoiled]:
    rows = [Spoiled(*row, refused=ALL) for row in (*KEYS, *CASES)]
    rows += [Spoiled(f"dataset.json {name}", spoil, words, ALL) for name, spoil, words in FILES]
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
    for row in (*images(IMAGE), *images(UNLABELED)):
        if row[0] == f"{IMAGE} sheared":  # the first one: nnU-Net itself chooses another reader
            rows.append(
                Spoiled(row[0], row[1], "", refused=("weaken", "merge"), right=("check", "preprocess", "split"))
            )
            continue
        reading = ("check", "preprocess", "merge", "split")
        rows.append(Spoiled(*row, refused=ALL if row[0].endswith(listing) else reading))
    listed = ("label with channel", "label missing", "label dangling", "label without image", "hidden label")
    rows += [Spoiled(*row, refused=ALL if row[0] in listed else READS_LABELS) for row in LABELS]
    for row in GRIDS:  # nnU-Net takes labels that lie elsewhere, so that `check` only warns of them
        unusable = row[0].endswith(("unknown code", "other shape"))
        by_check = ((*READS_LABELS,), ()) if unusable else (("weaken", "merge"), ("check",))
        rows.append(Spoiled(*row, *by_check))
    rows += [Spoiled(name, spoil, "", (), ALL) for name, spoil in RIGHT]
    for row in SPLITS:
        # `check` lists unknown cases among its warnings, and a training case among the unlabeled ones as a leak
        by_check = {"without file ending": ((), ("check",)), "not labeled cases": ((), ())}
        refused, right = by_check.get(" ".join(row[2].split()[:3]), (("check",), ()))
        rows.append(Spoiled(*row, ("preprocess", "weaken", "split", *refused), right))
    rows += [Spoiled(*row, refused=ALL) for row in LISTS]
    return rows


TABLE = _table()
