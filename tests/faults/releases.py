"""Small releases of public data sets, spoiled, for `nnunet_ssl convert`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk

from nnunet_ssl.dataset_conversion.case_lists import shipped_list
from tests.faults.spoiling import Row, Scene, Spoil, Spoiled, content, damaged, gone, nothing, replaced, voxels
from tests.helpers import acdc_release
from tests.helpers.acdc_release import SPACING
from tests.helpers.raw_data import write_image

SHAPE = (4, 8, 6)  # z, y, x
LISTS = "release/lists/train.list"


def _image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, SHAPE).astype(np.float32)


def _label(*codes: int) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    for index, code in enumerate(codes):
        label[1:3, 2:6, 2 * index : 2 * index + 2] = code
    return label


def _scene(write, commands: Mapping[str, list[str]], rows: list[Row], right: list[tuple[str, Spoil]]) -> Scene:
    """Rows of one data set; the commands are named by their words."""
    named = {name: ["convert", *words, "-np", "1"] for name, words in commands.items()}
    refused = tuple(named)
    table = [Spoiled(f"{refused[0]} {row[0]}", *row[1:3], refused, (), *row[3:]) for row in rows]
    table += [Spoiled(f"{refused[0]} {name}", spoil, "", (), refused) for name, spoil in right]
    return Scene(write, ".", named, table)


def _images(*names: str, words: Mapping[str, str]) -> list[Row]:
    """`damaged` images of a release, whose messages differ in some words."""
    rows = [row for name in names for row in damaged(name)]
    return [
        (name, spoil, next((w for end, w in words.items() if name.endswith(end)), said)) for name, spoil, said in rows
    ]


# of a file that is listed and then no file
NO_FILE = {"dangling link": "is a link to", "link to itself": "is a link to"}
# by the checks that channels and labels of a case have in common
DIMENSIONS = {" 2D": "dimensions", " 4D": "dimensions"}
OPTIONS: list = [
    ("option labeled 0", nothing, "Ask for 1 to", ("--labeled", "0")),
    ("option labeled 99", nothing, "Ask for 1 to", ("--labeled", "99")),
    ("option labeled NaN", nothing, "neither a number nor a file", ("--labeled", "nan")),
    ("option labeled a word", nothing, "neither a number nor a file", ("--labeled", "many")),
    ("option labeled a folder", nothing, "neither a number nor a file", ("--labeled", "{root}/release")),
    ("option id 0", nothing, "between 1 and 999", ("-d", "0")),
    ("option id 1000", nothing, "between 1 and 999", ("-d", "1000")),
    ("option name outside", nothing, "allowed are letters", ("-name", "../x")),
    ("option name empty", nothing, "allowed are letters", ("-name", "")),
    ("option no folder", nothing, "expected a folder", ("-i", "{root}/nowhere")),
    ("option a file", lambda root: (root / "x").write_text("x"), "expected a folder", ("-i", "{root}/x")),
    ("option an empty folder", lambda root: (root / "x").mkdir(), "is empty", ("-i", "{root}/x")),
    ("option no lists", nothing, "no such file or folder", ("--split", "{root}/nowhere")),
]


def _list(lines: bytes) -> Spoil:
    def spoil(root: Path) -> None:
        (root / LISTS).parent.mkdir(exist_ok=True)
        (root / LISTS).write_bytes(lines)

    return spoil


def _lists(case: str, unknown: str = "unknown") -> list:
    given = ("--split", "{root}/" + LISTS)
    return [
        ("list empty", _list(b""), "train.list", given),
        ("list unknown case", _list(f"{case}\nnobody9\n".encode()), unknown, given),
        ("list outside", _list(f"{case}\n../../{case}x\n".encode()), unknown, given),
        ("list twice", _list(f"{case}\n{case}.nii.gz\n".encode()), "more than once", given),
        ("list UTF-16", _list(case.encode("utf-16")), "train.list", given),
        ("list binary", _list(b"\x00\xff\x00\xfe"), "train.list", given),
    ]


# --------------------------------------------------------------------------------------------------------------------- LA

LA_TRAIN, LA_TEST = shipped_list("la_train80.list")[:2], shipped_list("la_test20.list")[:1]


def _la_case(kind: str, file: str) -> str:
    """A file of the labeled, unlabeled or test case."""
    case = {"labeled": LA_TRAIN[0], "unlabeled": LA_TRAIN[1], "test": LA_TEST[0]}[kind]
    return f"release/Training Set/{case}/{file}"


def write_la(root: Path) -> None:
    for seed, case in enumerate((*LA_TRAIN, *LA_TEST)):
        folder = root / "release" / "Training Set" / case
        write_image(_image(seed), folder / "lgemri.nrrd")
        write_image(_label(255), folder / "laendo.nrrd")


def _nrrd(name: str) -> list[Row]:
    def with_value(value: float) -> Spoil:
        def change(array: np.ndarray) -> np.ndarray:
            array = array.astype(np.float32)
            array.flat[7] = value
            return array

        return voxels(name, change)

    def detached(root: Path) -> None:
        image = sitk.ReadImage(str(root / name))
        sitk.WriteImage(image, str((root / name).with_suffix(".nhdr")))
        (root / name).write_bytes((root / name).with_suffix(".nhdr").read_bytes())

    def text(old: bytes, new: bytes) -> Spoil:
        return lambda root: (root / name).write_bytes((root / name).read_bytes().replace(old, new, 1))

    return [
        (f"{name} {what}", spoil, words)
        for what, spoil, words in (
            ("NaN", with_value(float("nan")), "NaN"),
            ("infinite", with_value(float("-inf")), "infinite"),
            ("2D", voxels(name, lambda array: array[0]), "dimensions"),
            ("4D", voxels(name, lambda array: np.stack([array, array])), "dimensions"),
            ("cut off", lambda root: (root / name).write_bytes((root / name).read_bytes()[:-99]), "truncated"),
            ("empty", content(b"", name), "cannot be read"),
            ("a web page", content(b"<html>404</html>", name), "cannot be read"),
            ("voxels elsewhere", detached, "another file"),
            ("spacing 0", text(b"(1,0,0)", b"(0,0,0)"), name),
            ("spacing NaN", text(b"(1,0,0)", b"(nan,0,0)"), name),
            ("huge", text(b"sizes: 6 8 4", b"sizes: 600000 800000 400000"), name),
            ("dangling link", replaced(name, lambda path: path.symlink_to("/nowhere/x")), "is a link to"),
        )
    ]


def _la_rows() -> list:
    label, test_label = _la_case("labeled", "laendo.nrrd"), _la_case("test", "laendo.nrrd")
    other = {"spacing": {"Spacing": (1.0, 1.0, 2.5)}, "origin": {"Origin": (0.0, 9.0, 0.0)}}
    turned = {"direction": {"Direction": (-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)}}
    rows: list = [*_nrrd(_la_case("labeled", "lgemri.nrrd")), *_nrrd(_la_case("unlabeled", "lgemri.nrrd"))]
    for name in (label, test_label):
        rows += [
            (f"{name} code 7", voxels(name, lambda array: np.where(array > 0, 7, array)), "holds the codes"),
            (f"{name} codes mixed", voxels(name, lambda array: array - (array > 0) * np.arange(6)), "holds the codes"),
            (f"{name} fractions", voxels(name, lambda array: array / np.float32(512)), "holds the codes"),
            (f"{name} other shape", voxels(name, lambda array: array[1:]), "shape"),
            (
                f"{name} cut off",
                lambda root, name=name: (root / name).write_bytes((root / name).read_bytes()[:90]),
                "truncated",
            ),
        ]
        for what, geometry in (other | turned).items():
            rows.append((f"{name} other {what}", voxels(name, lambda array: array, **geometry), what))
    twice = f"release/Testing Set/{LA_TRAIN[0]}"

    def copy(root: Path) -> None:
        shutil.copytree((root / _la_case("labeled", "x")).parent, root / twice)

    def h5_beside(root: Path) -> None:
        folder = root / "release" / ("Q" * 20)
        folder.mkdir()
        (folder / "mri_norm2.h5").write_bytes(b"x")

    return [
        *rows,
        ("no label of the labeled", gone(label), "Ask for 1 to 1", ("--labeled", "2")),
        ("label without image", gone(_la_case("labeled", "lgemri.nrrd")), "label without an image"),
        ("empty case folder", lambda root: (root / "release" / ("Q" * 20)).mkdir(), "case folder without"),
        ("a case twice", copy, "occurs twice"),
        ("both forms", h5_beside, "mixes the two forms"),
        ("a list beside it", content(b"nobody9", "release/train.list"), "unknown"),
        ("spacing 0", nothing, "--spacing", ("--spacing", "0")),
        ("spacing negative", nothing, "--spacing", ("--spacing=-1",)),
        ("spacing NaN", nothing, "--spacing", ("--spacing", "nan")),
        ("spacing infinite", nothing, "--spacing", ("--spacing", "inf")),
        ("spacing of two", nothing, "--spacing", ("--spacing", "1", "1")),
        *OPTIONS,
        *_lists(LA_TRAIN[0]),
    ]


LA = _scene(
    write_la,
    {"LA": ["LA", "-i", "{root}/release", "-d", "51", "--labeled", "1"]},
    _la_rows(),
    [
        ("hidden files", content(b"x", _la_case("labeled", "._lgemri.nrrd"))),
        ("label of an unlabeled case", content(b"x", _la_case("unlabeled", "laendo.nrrd"))),
        ("masks of 1", voxels(_la_case("labeled", "laendo.nrrd"), lambda array: array // 255)),
    ],
)


def write_la_h5(root: Path) -> None:
    for seed, case in enumerate((*LA_TRAIN, *LA_TEST)):
        folder = root / "release" / case
        folder.mkdir(parents=True)
        with h5py.File(folder / "mri_norm2.h5", "w") as file:
            file["image"], file["label"] = _image(seed), _label(1)


def _h5(name: str, change) -> Spoil:
    def spoil(root: Path) -> None:
        with h5py.File(root / name, "a") as file:
            change(file)

    return spoil


def _set(key: str, value) -> Spoil:
    def change(file: h5py.File) -> None:
        del file[key]
        if value is not None:
            file[key] = value

    return _h5(f"release/{LA_TRAIN[0]}/mri_norm2.h5", change)


LA_H5 = _scene(
    write_la_h5,
    {"LA h5": ["LA", "-i", "{root}/release", "-d", "52", "--labeled", "1"]},
    [
        ("no image", _set("image", None), "'image' is missing"),
        ("no label", _set("label", None), "'label' is missing"),
        ("an image of 2 axes", _set("image", _image(0)[0]), "three axes"),
        ("an image of 4 axes", _set("image", _image(0)[None]), "three axes"),
        ("an image of words", _set("image", [b"a", b"b"]), "whole and real numbers"),
        ("an image of complex numbers", _set("image", _image(0) * 1j), "whole and real numbers"),
        ("an image of one number", _set("image", 1.0), "three axes"),
        ("an empty image", _set("image", np.zeros((0, 3, 3))), "voxels"),
        (
            "a group",
            _h5(f"release/{LA_TRAIN[0]}/mri_norm2.h5", lambda f: (f.pop("image"), f.create_group("image"))),
            "group",
        ),
        ("NaN", _set("image", _image(0) * np.nan), "NaN"),
        ("beyond float32", _set("image", np.full(SHAPE, 1e300)), "float32"),
        ("a label of other shape", _set("label", _label(1)[1:]), "shape"),
        ("a label of other codes", _set("label", _label(3)), "holds the codes"),
        ("a label with NaN", _set("label", _label(1) * np.nan), "NaN"),
        ("an external link", _set("image", h5py.ExternalLink("/etc/x.h5", "image")), "another file"),
        ("no h5", content(b"<html>", f"release/{LA_TRAIN[0]}/mri_norm2.h5"), "cannot be read"),
        (
            "cut off",
            lambda r: (r / f"release/{LA_TRAIN[0]}/mri_norm2.h5").write_bytes(
                (r / f"release/{LA_TRAIN[0]}/mri_norm2.h5").read_bytes()[:-300]
            ),
            "mri_norm2.h5",
        ),
    ],
    [
        ("half precision", _set("image", _image(0).astype(np.float16))),
        ("a label of bool", _set("label", _label(1).astype(bool))),
        ("big-endian", _set("image", _image(0).astype(">f8"))),
    ],
)

# ------------------------------------------------------------------------------------------------------------------- ACDC

ACDC_TRAIN, ACDC_OTHERS = acdc_release.TRAIN[:2], (*acdc_release.VALIDATION[:1], *acdc_release.TEST[:1])


def write_acdc(root: Path) -> None:
    for patient in (*ACDC_TRAIN, *ACDC_OTHERS):
        acdc_release.write_patient(root / "release" / "training", patient, number_4d=0)
        acdc_release.write_scribbles(root / "scribbles", patient)


def _acdc(patient: str, end: str) -> str:
    return f"release/training/{patient}/{patient}_frame01{end}.nii.gz"


def _acdc_rows() -> list:
    labeled, unlabeled = (_acdc(patient, "") for patient in ACDC_TRAIN)
    label, info = _acdc(ACDC_TRAIN[0], "_gt"), f"release/training/{ACDC_TRAIN[0]}/Info.cfg"
    return [
        *_images(labeled, unlabeled, words=NO_FILE | DIMENSIONS | {"a folder": "label without an image"}),
        (
            f"{label} code 9",
            voxels(label, lambda array: np.where(array == 2, 9, array), Spacing=SPACING),
            "holds the codes",
        ),
        (f"{label} fractions", voxels(label, lambda array: array / np.float32(2), Spacing=SPACING), "holds the codes"),
        (f"{label} other shape", voxels(label, lambda array: array[1:]), "shape"),
        (f"{label} other spacing", voxels(label, lambda array: array, Spacing=(1.4, 1.4, 5.0)), "spacing"),
        ("label without image", gone(labeled), "label without an image"),
        ("frame missing", lambda root: (gone(labeled)(root), gone(label)(root)), "names frame 1"),
        ("Info.cfg without ED", content(b"ES: 12\n", info), "key ED"),
        ("Info.cfg a word", content(b"ED: first\nES: 12\n", info), "key ED"),
        ("Info.cfg Latin-1", content("ED: 1\nES: 12\nName: Größe\n".encode("latin-1"), info), "Info.cfg"),
        ("Info.cfg superscript", content("ED: ²\nES: 12\n".encode(), info), "key ED"),
        ("Info.cfg huge", content(b"ED: " + b"9" * 5000 + b"\nES: 12\n", info), "Info.cfg"),
        ("an empty patient", lambda root: (root / "release/training/patient149").mkdir(), "patient's folder without"),
        (
            "a frame twice",
            lambda root: shutil.copytree(
                root / f"release/training/{ACDC_TRAIN[0]}", root / f"release/x/{ACDC_TRAIN[0]}"
            ),
            "twice",
        ),
        ("h5 beside it", content(b"x", f"release/{ACDC_TRAIN[0]}_frame01.h5"), "mixes NIfTI files"),
        ("spacing", nothing, "--spacing is for h5", ("--spacing", "1", "1", "1")),
        *OPTIONS,
        *_lists(ACDC_TRAIN[0], "expected are entries like patient001")[:2],
        *_lists(ACDC_TRAIN[0])[3:],  # an entry may have a path, of which the patient counts
    ]


ACDC = _scene(
    write_acdc,
    {"ACDC": ["ACDC", "-i", "{root}/release", "-d", "53", "--labeled", "1"]},
    _acdc_rows(),
    [
        ("label of an unlabeled case", content(b"x", _acdc(ACDC_TRAIN[1], "_gt"))),
        ("no label of one frame", gone(_acdc(ACDC_TRAIN[0], "_gt"))),
        ("no Info.cfg", gone(f"release/training/{ACDC_TRAIN[0]}/Info.cfg")),
    ],
)


def _scribble_rows() -> list:
    name = f"scribbles/{ACDC_TRAIN[0]}_frame01_scribble.nii.gz"
    return [
        *_images(name, words=NO_FILE | DIMENSIONS | {"a folder": "no sparse label", "beyond float32": "float32"}),
        (
            f"{name} code 9",
            voxels(name, lambda array: np.where(array == 2, 9, array), Spacing=SPACING),
            "holds the codes",
        ),
        (f"{name} other shape", voxels(name, lambda array: array[1:]), "shape"),
        ("no scribble", gone(name), "no sparse label"),
        ("no folder", lambda root: shutil.rmtree(root / "scribbles"), "expected a folder"),
        ("empty folder", lambda root: (shutil.rmtree(root / "scribbles"), (root / "scribbles").mkdir()), "is empty"),
        (
            "a mask for a scribble",
            lambda root: [
                p.write_bytes((root / _acdc(p.name[:10], "_gt")).read_bytes()) for p in (root / "scribbles").iterdir()
            ],
            "has a voxel of the code 4",
        ),
    ]


ACDC_SCRIBBLES = _scene(
    write_acdc,
    {
        "ACDC scribbles": [
            "ACDC",
            "-i",
            "{root}/release",
            "-d",
            "54",
            "--labeled",
            "1",
            "--scribbles",
            "{root}/scribbles",
        ]
    },
    _scribble_rows(),
    [],
)

# ------------------------------------------------------------------------------------------------------------------ BraTS

BRATS = [f"BraTS20_Training_{number:03d}" for number in range(4)]
SEQUENCES = ("t1", "t1ce", "t2", "flair")


def write_brats(root: Path) -> None:
    for seed, case in enumerate(BRATS):
        folder = root / "release" / "MICCAI_BraTS2020_TrainingData" / case
        for index, sequence in enumerate(SEQUENCES):
            write_image(_image(10 * seed + index), folder / f"{case}_{sequence}.nii.gz")
        write_image(_label(1, 2, 4), folder / f"{case}_seg.nii.gz")
    _list(f"{BRATS[0]}\n{BRATS[1]}\n".encode())(root)
    (root / LISTS).with_name("test.list").write_text(f"{BRATS[2]}\n")


def _brats(index: int, kind: str) -> str:
    return f"release/MICCAI_BraTS2020_TrainingData/{BRATS[index]}/{BRATS[index]}_{kind}.nii.gz"


def _brats_rows() -> list:
    second, label = _brats(0, "t1ce"), _brats(0, "seg")
    place = "release/MICCAI_BraTS2020_TrainingData"
    lists = [(*row[:2], row[2]) for row in _lists(BRATS[0])]
    return [
        *_images(second, _brats(1, "flair"), words=NO_FILE | DIMENSIONS | {"a folder": "missing"}),
        (f"{label} code 3", voxels(label, lambda array: np.where(array == 4, 3, array)), "holds the codes"),
        (f"{label} fractions", voxels(label, lambda array: array / np.float32(3)), "holds the codes"),
        (f"{label} other shape", voxels(label, lambda array: array[1:]), "shape"),
        (f"{label} other origin", voxels(label, lambda array: array, Origin=(1.0, 0.0, 0.0)), "origin"),
        (
            f"{label} cut off",
            lambda root: (root / label).write_bytes((root / label).read_bytes()[:40]),
            "cannot be read",
        ),
        (f"{second} other shape", voxels(second, lambda array: array[1:]), "shape"),
        (f"{second} other spacing", voxels(second, lambda array: array, Spacing=(1.0, 1.0, 2.0)), "spacing"),
        ("sequence missing", gone(second), "missing t1ce"),
        (
            "sequence twice",
            lambda root: shutil.copy(root / second, root / second.replace("_t1ce", "_T1CE")),
            "one sequence twice",
        ),
        (
            "two segmentations",
            lambda root: shutil.copy(root / label, root / label.replace("_seg", "_seg2")),
            "more than one file",
        ),
        (
            "an unknown image",
            lambda root: (gone(label)(root), shutil.copy(root / second, root / second.replace("t1ce", "dwi"))),
            "neither an image sequence",
        ),
        ("two years", lambda root: _renamed(root / place, BRATS[3], "BraTS19_x_1"), "more than one year"),
        ("an unknown year", lambda root: _renamed(root / place, BRATS[3], "BraTS17_x_1"), "is unknown"),
        (
            "a case twice",
            lambda root: shutil.copytree(root / place / BRATS[0], root / place / "HGG" / BRATS[0]),
            "Remove one of them",
        ),
        ("codes of 2024", _as_2024, "resection cavity"),
        *[(name, spoil, words, *options) for name, spoil, words, *options in OPTIONS if not name.endswith("no lists")],
        *lists,
    ]


def _renamed(folder: Path, old: str, new: str) -> None:
    for file in list((folder / old).iterdir()):
        file.rename(file.with_name(file.name.replace(old, new)))
    (folder / old).rename(folder / new)


def _as_2024(root: Path) -> None:
    names = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f", "seg": "seg"}
    for number, case in enumerate(BRATS):
        folder = root / "release" / "MICCAI_BraTS2020_TrainingData" / case
        new = f"BraTS-GLI-{number:05d}-000"
        for old, name in names.items():
            (folder / f"{case}_{old}.nii.gz").rename(folder / f"{new}-{name}.nii.gz")
        folder.rename(folder.with_name(new))
    _list(b"BraTS-GLI-00000-000\nBraTS-GLI-00001-000\n")(root)
    (root / LISTS).with_name("test.list").write_text("BraTS-GLI-00002-000\n")


BRATS_SCENE = _scene(
    write_brats,
    {
        "BraTS": [
            "BraTS",
            "-i",
            "{root}/release/MICCAI_BraTS2020_TrainingData",
            "-d",
            "55",
            "--labeled",
            "1",
            "--split",
            "{root}/release/lists",
        ]
    },
    _brats_rows(),
    [
        ("hidden files", content(b"x", _brats(0, "t1").replace("BraTS20_Training_000_", "._BraTS20_Training_000_"))),
        ("label of an unlabeled case", content(b"x", _brats(1, "seg"))),
    ],
)

# ------------------------------------------------------------------------------------------------------- scribbles, MSCMR


def write_scribbles(root: Path) -> None:
    for seed, case in enumerate("abcd"):
        write_image(_image(seed), root / "release" / f"{case}.nii.gz")
    for case in "abc":
        sparse = np.full(SHAPE, 255, np.int16)
        sparse[:, 3] = _label(1, 5)[:, 3]
        write_image(sparse, root / "sparse" / f"{case}.nii.gz")
        write_image(_label(1, 5), root / "masks" / f"{case}.nii.gz")
    write_image(_image(9), root / "tests" / "t.nii.gz")
    write_image(_label(1, 5), root / "test_masks" / "t.nii.gz")


def _scribbles_rows() -> list:
    image, sparse, mask = "release/a.nii.gz", "sparse/a.nii.gz", "masks/a.nii.gz"
    words = NO_FILE | DIMENSIONS
    return [
        *_images(image, "release/d.nii.gz", sparse, mask, words=words),
        (f"{sparse} code 9", voxels(sparse, lambda array: np.where(array == 1, 9, array)), "holds the codes"),
        (f"{sparse} fractions", voxels(sparse, lambda array: array / np.float32(2)), "holds the codes"),
        (f"{sparse} other shape", voxels(sparse, lambda array: array[1:]), "shape"),
        (f"{sparse} other origin", voxels(sparse, lambda array: array, Origin=(1.0, 0.0, 0.0)), "origin"),
        (f"{mask} not annotated", voxels(mask, lambda array: np.where(array == 1, 255, array)), "holds the codes"),
        ("label without image", gone(image), "label without an image"),
        ("a case twice", content(b"x", "release/a.nrrd"), "occurs twice"),
        ("two labels", content(b"x", "sparse/a_0000.nii.gz"), "two labels"),
        ("a second channel", content(b"x", "release/a_0001.nii.gz"), "channel(s)"),
        ("A beside a", lambda root: shutil.copy(root / image, root / "release/A.nii.gz"), "upper and lower case"),
        ("x beside x_seg", lambda root: shutil.copy(root / image, root / "release/a_seg.nii.gz"), "a_seg"),
        (
            "a test case twice",
            lambda root: shutil.copy(root / image, root / "tests/a.nii.gz"),
            "must not be trained on",
        ),
        ("no labels", lambda root: shutil.rmtree(root / "sparse"), "expected a folder"),
        (
            "dense for sparse",
            lambda root: (shutil.rmtree(root / "sparse"), shutil.copytree(root / "masks", root / "sparse")),
            "255",
        ),
        ("value of a class", nothing, "One code cannot mean both", ("--unlabeled_value", "1")),
        ("labels without number", nothing, "expected NAME=CODE", ("--labels", "liver")),
        ("labels a number twice", nothing, "occurs twice", ("--labels", "liver=1", "tumor=1")),
        ("labels ignore", nothing, "Leave it out", ("--labels", "ignore=1", "tumor=5")),
        ("labels beyond one byte", nothing, "holds the codes", ("--labels", "liver=1", "tumor=99999999999999999999")),
        ("pattern no expression", nothing, "no regular expression", ("--patient_pattern", "(")),
        ("pattern without group", nothing, "needs a group", ("--patient_pattern", "a")),
        ("pattern other", nothing, "does not match", ("--patient_pattern", "(p)")),
        *OPTIONS,
        *_lists("a"),
    ]


SCRIBBLES = _scene(
    write_scribbles,
    {
        "scribbles": [
            *("scribbles", "-i", "{root}/release", "-l", "{root}/sparse", "-d", "56", "--unlabeled_value", "255"),
            *("--labels", "liver=1", "tumor=5", "--dense", "{root}/masks"),
            *("--test_images", "{root}/tests", "--test_labels", "{root}/test_masks"),
        ]
    },
    _scribbles_rows(),
    [
        ("hidden files", content(b"x", "release/._a.nii.gz")),
        ("odd ids", lambda root: (root / "release/d.nii.gz").rename(root / "release/Fall [2] ü.1.nii.gz")),
    ],
)


def write_mscmr(root: Path) -> None:
    for part, subjects in {"train": (2, 9), "val": (1,), "TestSet": (3,)}.items():
        for subject in subjects:
            folder = root / "release" / part
            write_image(_image(subject), folder / "images" / f"subject{subject}_DE.nii.gz")
            mask = _label(1, 2, 3)
            if part == "train":
                sparse = np.full(SHAPE, 4, np.uint8)
                sparse[:, 3] = mask[:, 3]
                write_image(sparse, folder / "labels" / f"subject{subject}_DE_scribble.nii.gz")
            else:
                write_image(mask, folder / "labels" / f"subject{subject}_DE_manual.nii.gz")


def _mscmr_rows() -> list:
    image, label = "release/train/images/subject2_DE.nii.gz", "release/train/labels/subject2_DE_scribble.nii.gz"
    mask = "release/TestSet/labels/subject3_DE_manual.nii.gz"
    return [
        *_images(
            image,
            label,
            words=NO_FILE
            | DIMENSIONS
            | {"subject2_DE.nii.gz a folder": "without an image", "a folder": "no sparse label"},
        ),
        (f"{label} code 9", voxels(label, lambda array: np.where(array == 1, 9, array)), "holds the codes"),
        (f"{mask} not annotated", voxels(mask, lambda array: np.where(array == 1, 4, array)), "holds the codes"),
        ("label without image", gone(image), "label without an image"),
        ("no label", gone(label), "no sparse label"),
        ("no part", lambda root: (root / "release/train").rename(root / "release/cases"), "none of the folders"),
        (
            "an image twice",
            lambda root: shutil.copy(root / image, root / "release/val/images/subject2_DE.nii.gz"),
            "occurs twice",
        ),
        ("a label twice", content(b"x", "release/val/labels/subject2_DE_scribble.nii.gz"), "differ"),
        *OPTIONS,
    ]


MSCMR = _scene(
    write_mscmr,
    {"MSCMR": ["MSCMR", "-i", "{root}/release", "-d", "57"]},
    _mscmr_rows(),
    [],
)

SCENES = [LA, LA_H5, ACDC, ACDC_SCRIBBLES, BRATS_SCENE, SCRIBBLES, MSCMR]
