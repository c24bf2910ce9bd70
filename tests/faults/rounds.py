"""Label maps made elsewhere, rounds and plans, spoiled, for `nnunet_ssl pseudo_label`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from tests.faults.inputs import NAME, PLANNED, write_planned
from tests.faults.spoiling import (
    Scene,
    Spoil,
    Spoiled,
    broken_json,
    changed_json,
    content,
    damaged,
    gone,
    nothing,
    voxels,
)

MAP = "maps/u.nii.gz"
BASE = f"nnUNet_preprocessed/{NAME}"
PLANS = f"{BASE}/nnUNetPlans.json"
COMMANDS = {name: PLANNED[name] for name in ("pseudo_label", "preprocess")}


def _file(name: str, data: bytes = b"x") -> Spoil:
    def spoil(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)

    return spoil


def _copied(name: str) -> Spoil:
    return lambda root: shutil.copy(root / MAP, root / "maps" / name)


def _rows() -> list[Spoiled]:
    round_json = f"{BASE}/pseudo_labels/round1/round.json"
    maps: list = [
        *[(name, spoil, {"2D": "shape"}.get(name.split()[-1], said)) for name, spoil, said in damaged(MAP)],
        ("code 7", voxels(MAP, lambda array: array * 7), "holds 7"),
        ("fractions", voxels(MAP, lambda array: array / np.float32(2)), "no labels"),
        ("other shape", voxels(MAP, lambda array: array[1:]), "shape"),
        ("other spacing", voxels(MAP, lambda array: array, Spacing=(1.0, 1.0, 2.0)), "spacing"),
        ("other origin", voxels(MAP, lambda array: array, Origin=(0.0, 9.0, 0.0)), "origin"),
        ("turned", voxels(MAP, lambda array: array, Direction=(-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)), "direction"),
        ("of a labeled case", _copied("a.nii.gz"), "is (are) not unlabeled"),
        ("of a test case", _copied("t.nii.gz"), "is (are) not unlabeled"),
        ("with a channel", _copied("u_0000.nii.gz"), "is (are) not unlabeled"),
        ("no folder", lambda root: shutil.rmtree(root / "maps"), "maps"),
        ("empty folder", lambda root: (shutil.rmtree(root / "maps"), (root / "maps").mkdir()), "holds no label map"),
        ("a file", lambda root: (shutil.rmtree(root / "maps"), content(b"x", "maps")(root)), "allowed is a folder"),
    ]
    options: list = [
        ("unknown class", nothing, "allowed after '='", ("--map", "1=liver")),
        ("superscript", nothing, "allowed before '='", ("--map", "²=ball")),
        ("a huge number", nothing, "allowed before '='", ("--map", "9" * 5000 + "=ball")),
        ("a word", nothing, "allowed before '='", ("--map", "one=ball")),
        ("two signs", nothing, "allowed are pairs", ("--map", "1=ball=2")),
        ("no sign", nothing, "allowed are pairs", ("--map", "1", "2")),
        ("without class", nothing, "allowed after '='", ("--map", "1=")),
        (
            "a list for a class",
            content(b'{"1": ["ball"]}', "map.json"),
            "allowed after '='",
            ("--map", "{root}/map.json"),
        ),
        ("null for a class", content(b'{"1": null}', "map.json"), "allowed after '='", ("--map", "{root}/map.json")),
        ("no file", nothing, "does not exist", ("--map", "{root}/nowhere.json")),
        *[
            (*row, ("--map", "{root}/map.json"))
            for row in broken_json("map.json")
            if not row[0].endswith(("missing", "a folder"))
        ],
        ("name outside", nothing, "letters, digits", ("-o", "../x")),
        ("name empty", nothing, "letters, digits", ("-o", "")),
        ("name hidden", nothing, "letters, digits", ("-o", ".x")),
        ("name with a space", nothing, "letters, digits", ("-o", "a b")),
        ("name too long", nothing, "letters, digits", ("-o", "a" * 300)),
        ("previous unknown", nothing, "no finished round 'x'", ("--previous", "x")),
        ("previous outside", nothing, "no finished round", ("--previous", "../x")),
        ("drop without previous", nothing, "--previous", ("--drop", "0.5")),
        ("drop NaN", nothing, "allowed are numbers", ("--drop", "nan")),
        ("drop negative", nothing, "allowed are numbers", ("--drop=-0.1",)),
        ("drop all", nothing, "allowed are numbers", ("--drop", "1")),
        ("confidence of maps", nothing, "--min_confidence", ("--min_confidence", "0.5")),
        ("trainer of maps", nothing, "-tr", ("-tr", "nnUNetTrainer")),
        (
            "fold unknown",
            content(b'[{"train": ["a", "b"], "val": ["c"]}]', f"{BASE}/splits_final.json"),
            "has 1 fold",
            ("-f", "7"),
        ),
        ("fold without splits", nothing, "splits_final.json", ("-f", "0")),
        ("configuration unknown", nothing, "have no configuration", ("-c", "4d")),
        ("plans unknown", nothing, "does not exist", ("-p", "x")),
        ("plans outside", nothing, "path separator", ("-p", "../x")),
    ]
    rounds: list = [
        *[(f"round {name.split()[-1]}", _made(spoil), words) for name, spoil, words in broken_json(round_json)],
        ("round of another format", _file(round_json, b'{"format": 9}'), "not the description of a round"),
        ("round without cases", _file(round_json, b'{"format": 1}'), "not the description of a round"),
        ("cases a list", _file(round_json, b'{"format": 1, "cases": []}'), "not the description of a round"),
        ("a folder that is no round", _file(f"{BASE}/pseudo_labels/mine/x"), "round.json"),
    ]
    table = [Spoiled(f"maps {row[0]}", *row[1:3], ("pseudo_label",), (), *row[3:]) for row in (*maps, *options)]
    table.append(Spoiled("rounds a file", _file(f"{BASE}/pseudo_labels"), "pseudo_labels", ("pseudo_label",)))
    both = ("pseudo_label", "preprocess")
    table += [Spoiled(*row, both) for row in (*rounds, *broken_json(PLANS))]
    table += [
        Spoiled("plans without configurations", _plans(configurations=None), "configurations", both),
        Spoiled("plans of a number", _plans(configurations=5), "configurations", both),
        Spoiled("plans without 2d", _plans(configurations={}), "have no configuration", both),
        Spoiled("plans that go outside", _identifier("../../x"), "path separator", both),
        Spoiled("plans of an empty folder", _identifier(""), "is empty", both),
        Spoiled("plans with an unknown reader", _plans(image_reader_writer="NoIO"), "NoIO", both),
    ]
    right: list = [
        ("hidden files", content(b"x", "maps/._u.nii.gz")),
        ("one of two cases", gone("maps/v.nii.gz")),
        ("float32 labels", voxels(MAP, lambda array: array.astype(np.float32))),
    ]
    return table + [Spoiled(f"maps {name}", spoil, "", (), ("pseudo_label",)) for name, spoil in right]


def _made(spoil: Spoil) -> Spoil:
    """`spoil` where there is a round."""
    file = f"{BASE}/pseudo_labels/round1/round.json"

    def make_and_spoil(root: Path) -> None:
        _file(file, b"{}")(root)
        spoil(root)

    return make_and_spoil


def _plans(**changes: object) -> Spoil:
    return changed_json(PLANS, lambda held: {**held, **changes})


def _identifier(name: str) -> Spoil:
    return changed_json(PLANS, lambda held: held["configurations"]["2d"].__setitem__("data_identifier", name))


SCENES = [Scene(write_planned, ".", COMMANDS, _rows())]
