"""`nnunet_ssl expand`: the data set it writes, what it refuses, and that nothing half-made is left."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.cli import main
from nnunet_ssl.data.ownership import RECORD
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.unlabeled_list import CaseRecord, UnlabeledList
from nnunet_ssl.weak.seed_expansion import Geodesic, RandomWalker, expand_seeds
from tests.helpers.raw_data import ORIENTED, use_folders, write_split
from tests.helpers.raw_data import read_array as read
from tests.helpers.raw_data import write_oriented as write

CASES = ("a", "b", "c")
IGNORE = 3
LABELS = {"background": 0, "liver": 1, "tumor": 2, "ignore": IGNORE}
SHAPE = (3, 22, 20)  # z, y, x


def organ(seed: int) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 5 : 16 + seed, 4:16] = 1
    labels[:, 8:12, 8:12] = 2
    return labels


def bone(seed: int) -> np.ndarray:
    """What no seed lies in, between the organ and the background: whose it is cannot be told."""
    mask = np.zeros(SHAPE, bool)
    mask[:, 16 + seed : 19 + seed, 6:14] = True
    return mask


def scribbles() -> np.ndarray:
    labels = np.full(SHAPE, IGNORE, np.uint8)
    labels[:, 2, 3:17], labels[:, 14, 6:14], labels[:, 10, 9:11] = 0, 1, 2
    return labels


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    """`Dataset127_Organ`: scribbles for training, dense labels for validation and testing, unlabeled images."""
    use_folders(monkeypatch, tmp_path)
    folder = tmp_path / "nnUNet_raw" / "Dataset127_Organ"
    rng = np.random.default_rng(0)
    images = {case: "imagesTr" for case in CASES} | {"u": "imagesUn", "t": "imagesTs"}
    for seed, (case, where) in enumerate(images.items()):
        for channel, contrast in enumerate((100, -60)):
            image = rng.normal(100, 4, SHAPE) + contrast * organ(seed).astype(float) + 300 * bone(seed)
            write(image.astype(np.float32), folder / where / f"{case}_{channel:04d}.nii.gz")
        if where == "imagesTr":
            write(scribbles(), folder / "labelsTr" / f"{case}.nii.gz")
            write(organ(seed), folder / "labelsTr_dense" / f"{case}.nii.gz")
        elif where == "imagesTs":
            write(organ(seed), folder / "labelsTs" / f"{case}.nii.gz")
    description = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": LABELS,
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
        "nnunet_ssl": {"weaken": {"kind": "scribble"}},
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    write_split(folder, (["a", "b"], ["c"]))
    UnlabeledList(
        unlabeled={"u": CaseRecord("x", "0")},
        labeled={case: CaseRecord(case, "1") for case in CASES},
        test={"t": CaseRecord("y", "2")},
        groups={"a": "p1", "b": "p1"},
    ).save(folder / "unlabeled.json")
    return folder


def expand(*arguments: object, method: str = "random_walker", np_: int = 1) -> int:
    return main(["expand", "-d", "127", "-o", "128", "--method", method, "-np", str(np_), *map(str, arguments)])


def made(raw: Path, method: str = "random_walker") -> Path:
    return raw.with_name(f"Dataset128_Organ_{method}")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != RECORD)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files(folder)}


def refusal(capsys, raw: Path, *arguments: object, method: str = "random_walker") -> str:
    """What the command says when it fails; nothing beside the data set may be left."""
    before = {path.name for path in raw.parent.iterdir()}
    capsys.readouterr()
    assert expand(*arguments, method=method) == 1
    assert {path.name for path in raw.parent.iterdir()} == before
    return capsys.readouterr().err


@pytest.mark.parametrize("method", ["random_walker", "geodesic"])
def test_labels_are_denser_and_everything_else_is_as_it_was(raw, capsys, method):
    before = contents(raw)
    assert expand(method=method) == 0
    target = made(raw, method)
    assert contents(raw) == before
    assert set(files(target)) == {*before, "expanded_labels.png"}
    changed = {name for name in before if (target / name).read_bytes() != before[name]}
    assert changed == {"dataset.json", "splits_final.json", *(f"labelsTr/{case}.nii.gz" for case in CASES)}
    assert json.loads((target / "splits_final.json").read_text()) == json.loads(before["splits_final.json"])
    for seed, case in enumerate(CASES):
        labels, seeds = read(target / "labelsTr" / f"{case}.nii.gz"), scribbles()
        known = labels != IGNORE
        assert np.array_equal(labels[seeds != IGNORE], seeds[seeds != IGNORE])
        assert known.sum() > 4 * (seeds != IGNORE).sum()
        assert (labels == organ(seed))[known & ~bone(seed)].mean() > 0.99
        image = sitk.ReadImage(str(target / "labelsTr" / f"{case}.nii.gz"))
        assert np.allclose(image.GetSpacing(), ORIENTED["spacing"]) and np.allclose(
            image.GetOrigin(), ORIENTED["origin"]
        )
        assert np.allclose(image.GetDirection(), ORIENTED["direction"])
    description = json.loads((target / "dataset.json").read_text())
    assert description["labels"] == LABELS and description["name"] == f"Organ_{method}"
    assert description["nnunet_ssl"]["weaken"] == {"kind": "scribble"}
    assert description["nnunet_ssl"]["expand"]["method"] == method
    opened = RawDataset.open(128)
    assert (set(opened.labeled), set(opened.unlabeled), set(opened.test)) == ({"a", "b", "c"}, {"u"}, {"t"})
    said = capsys.readouterr().out
    share = np.mean([read(target / "labelsTr" / f"{case}.nii.gz") != IGNORE for case in CASES])
    assert f"{100 * share:.2f} % now" in said and "1 cases in imagesUn, 1 in imagesTs" in said


@pytest.fixture
def without_sheet(monkeypatch):
    """Drawing takes most of the time of the command on data this small."""
    monkeypatch.setattr("nnunet_ssl.weak.contact_sheet.write_contact_sheet", lambda *arguments: None)


@pytest.mark.parametrize(
    "method, arguments, expected, per_slice",
    [
        ("geodesic", ("--threshold", 0.05, "--weight", 0.9, "--iterations", 2), Geodesic(0.9, 0.05, 2), False),
        ("geodesic", ("--slices",), Geodesic(), True),
        ("random_walker", ("--threshold", 0.6, "--beta", 10), RandomWalker(10, 0.6), True),
        ("random_walker", ("--volume",), RandomWalker(), False),
    ],
)
def test_options_reach_the_method(raw, without_sheet, method, arguments, expected, per_slice):
    assert expand(*arguments, method=method) == 0
    image = np.stack([read(raw / "imagesTr" / f"a_{channel:04d}.nii.gz") for channel in range(2)])
    labels = read(made(raw, method) / "labelsTr" / "a.nii.gz")
    assert np.array_equal(
        labels, expand_seeds(image, scribbles(), IGNORE, ORIENTED["spacing"][::-1], expected, per_slice)
    )
    recorded = json.loads((made(raw, method) / "dataset.json").read_text())["nnunet_ssl"]["expand"]
    assert recorded["per_slice"] == per_slice and recorded["options"]["threshold"] == expected.threshold


def test_processes_do_not_matter_and_the_sheet_shows_the_classes(raw):
    from matplotlib.image import imread

    results = []
    for processes in (1, 2):
        assert expand("--overwrite", method="geodesic", np_=processes) == 0
        results.append([read(made(raw, "geodesic") / "labelsTr" / f"{case}.nii.gz") for case in CASES])
    assert np.array_equal(*results)
    sheet = imread(made(raw, "geodesic") / "expanded_labels.png")[..., :3]
    # the first class: thin and opaque before, an area that the image is seen through after
    opaque = np.abs(sheet - np.array([0xD5, 0x5E, 0x00]) / 255).max(axis=2) < 0.1
    reddish = sheet[..., 0] - sheet[..., 2] > 0.25
    half = sheet.shape[1] // 2
    assert opaque[:, :half].sum() > 50 and reddish.sum() > 3 * opaque.sum()


def test_a_case_with_seeds_of_one_class_is_kept_as_it_is_and_named(raw, without_sheet, capsys):
    only = np.where(scribbles() == 0, 0, IGNORE).astype(np.uint8)
    write(only, raw / "labelsTr" / "b.nii.gz")
    assert expand() == 0
    assert np.array_equal(read(made(raw) / "labelsTr" / "b.nii.gz"), only)
    assert "nothing was expanded in 1 case(s), such as b" in capsys.readouterr().out


def test_labels_of_regions_are_codes_as_in_the_file(raw, without_sheet):
    description = json.loads((raw / "dataset.json").read_text())
    description |= {
        "labels": {"background": 0, "whole": [1, 2], "tumor": 2, "ignore": IGNORE},
        "regions_class_order": [1, 2],
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    assert expand() == 0
    assert set(np.unique(read(made(raw) / "labelsTr" / "a.nii.gz"))) == {0, 1, 2, IGNORE}


def test_the_same_request_writes_nothing_another_is_refused_and_overwrite_replaces(raw, without_sheet, capsys):
    assert expand() == 0
    written = {path: path.stat().st_mtime_ns for path in made(raw).rglob("*")}
    assert expand() == 0
    assert "already holds these expanded labels" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in made(raw).rglob("*")} == written
    assert "--overwrite" in refusal(capsys, raw, "--threshold", 0.5)
    dense = raw / "labelsTr_dense" / "b.nii.gz"
    content = dense.read_bytes()
    dense.unlink()
    assert "their images or labels" in refusal(capsys, raw)
    dense.write_bytes(content)
    first = read(made(raw) / "labelsTr" / "a.nii.gz")
    assert expand("--threshold", 0, "--overwrite") == 0
    assert (read(made(raw) / "labelsTr" / "a.nii.gz") == IGNORE).sum() == 0 < (first == IGNORE).sum()


@pytest.mark.parametrize(
    "method, arguments, words",
    [
        ("geodesic", ("--beta", 10), "--beta does nothing for --method geodesic. Its options: --weight, --threshold"),
        ("random_walker", ("--iterations", 2), "--iterations does nothing"),
        ("random_walker", ("--threshold", 1.5), "--threshold is 1.5; allowed is a number from 0 to 1"),
        ("geodesic", ("--weight", "nan"), "--weight is nan"),
        ("geodesic", ("--iterations", 0), "allowed are numbers from 1 to 10000"),
        ("geodesic", ("-name", "a b"), "-name a b"),
    ],
)
def test_options_that_cannot_be_are_refused(raw, capsys, method, arguments, words):
    assert words in refusal(capsys, raw, *arguments, method=method)


def test_data_that_cannot_be_expanded_is_refused_by_name(raw, capsys):
    write(np.where(scribbles() == 2, 7, scribbles()).astype(np.uint8), raw / "labelsTr" / "b.nii.gz")
    write(scribbles()[:2], raw / "labelsTr" / "c.nii.gz")
    said = refusal(capsys, raw)
    assert "2 of 3 cases cannot be used" in said
    assert "b.nii.gz holds the code(s) 7" in said and "c.nii.gz has the shape 20 x 22 x 2" in said


def test_labels_without_an_ignore_label_are_refused_with_the_way_to_get_one(raw, capsys):
    description = json.loads((raw / "dataset.json").read_text())
    del description["labels"]["ignore"]
    (raw / "dataset.json").write_text(json.dumps(description))
    assert "`nnunet_ssl weaken` makes sparse labels" in refusal(capsys, raw)


def test_partial_labels_are_refused(raw, capsys):
    description = json.loads((raw / "dataset.json").read_text())
    description["partial_labels"] = {"default": ["liver"]}
    (raw / "dataset.json").write_text(json.dumps(description))
    said = refusal(capsys, raw)
    assert "dataset.json has the key 'partial_labels'" in said and "Expand a data set in which" in said


def test_an_id_that_another_data_set_has_is_refused(raw, capsys):
    assert "-o 127" in refusal(capsys, raw, "-o", 127)
    assert "-o 127" in refusal(capsys, raw, "-o", 127, "-name", "Organ")


def test_a_full_disk_leaves_nothing_and_says_so(raw, capsys, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("nnunet_ssl.weak.relabeling.write_label", full)
    assert "no space left on the disk" in refusal(capsys, raw)
