"""`nnunet_ssl weaken`: the data set it writes, what it refuses, and that nothing half-made is left."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.cli import main
from nnunet_ssl.data.list_update import update_list
from nnunet_ssl.data.ownership import RECORD
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.unlabeled_list import CaseRecord, UnlabeledList, hash_case
from nnunet_ssl.weak import contact_sheet
from nnunet_ssl.weak.boxes import filled_boxes
from tests.helpers.raw_data import read_array as read
from tests.helpers.raw_data import use_folders, write_split
from tests.helpers.raw_data import write_oriented as write

CASES = ("p1_a", "p1_b", "p2_a", "p3_a")
LABELS = {"background": 0, "liver": 1, "tumor": 2}
SHAPE = (4, 30, 26)  # z, y, x


def organ(seed: int) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:, 5 : 22 + seed, 4:20] = 1
    labels[2, 8:14, 8:14] = 2
    return labels


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    """`Dataset027_Organ` with all that a converted data set has."""
    use_folders(monkeypatch, tmp_path)
    folder = tmp_path / "nnUNet_raw" / "Dataset027_Organ"
    rng = np.random.default_rng(0)
    images = {case: "imagesTr" for case in CASES} | {"p4_a": "imagesUn", "p5_a": "imagesTs"}
    for seed, (case, where) in enumerate(images.items()):
        for channel in range(2):
            image = rng.normal(100, 20, SHAPE).astype(np.float32) + 50 * organ(seed)
            write(image, folder / where / f"{case}_{channel:04d}.nii.gz")
        if where != "imagesUn":
            write(organ(seed), folder / where.replace("images", "labels") / f"{case}.nii.gz")
    description = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": LABELS,
        "numTraining": len(CASES),
        "file_ending": ".nii.gz",
        "nnunet_ssl": {"converter": "hand"},
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    write_split(folder, (["p1_a", "p1_b", "p2_a"], ["p3_a"]))
    content = UnlabeledList(
        unlabeled={"p4_a": CaseRecord("x", "0")},
        labeled={case: CaseRecord(case, "1") for case in CASES},
        test={"p5_a": CaseRecord("y", "2")},
        groups={case: case[:2] for case in CASES},
    )
    content.save(folder / "unlabeled.json")
    return folder


def change(folder: Path, **entries) -> None:
    file = folder / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


def weaken(*arguments: object, kind: str = "scribble", np_: int = 1) -> int:
    return main(["weaken", "-d", "27", "-o", "127", "--kind", kind, "-np", str(np_), *map(str, arguments)])


def made(raw: Path, kind: str = "scribble") -> Path:
    return raw.with_name(f"Dataset127_Organ_{kind}")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != RECORD)


def refusal(capsys, raw: Path, *arguments: object, kind: str = "scribble") -> str:
    """What the command says when it fails; nothing beside the data set may be left."""
    before = {path.name for path in raw.parent.iterdir()}
    capsys.readouterr()
    assert weaken(*arguments, kind=kind) == 1
    assert {path.name for path in raw.parent.iterdir()} == before
    return capsys.readouterr().err


# --- what is written --------------------------------------------------------------------------------------------------


def test_a_weak_data_set_is_complete_and_keeps_geometry_dense_labels_lists_and_splits(raw, capsys):
    assert weaken("--rule", "skeleton") == 0
    target = made(raw)
    assert files(target) == sorted(
        [
            *[f"imagesTr/{case}_000{channel}.nii.gz" for case in CASES for channel in (0, 1)],
            *[f"{folder}/{case}.nii.gz" for case in CASES for folder in ("labelsTr", "labelsTr_dense")],
            *[
                f"{folder}/{case}_000{c}.nii.gz"
                for folder, case in (("imagesUn", "p4_a"), ("imagesTs", "p5_a"))
                for c in (0, 1)
            ],
            *["labelsTs/p5_a.nii.gz", "dataset.json", "unlabeled.json", "splits_final.json", "weak_labels.png"],
        ]
    )
    for name in ("unlabeled.json", "splits_final.json"):
        assert json.loads((target / name).read_text()) == json.loads((raw / name).read_text())
    for case in CASES:
        dense, weak = raw / "labelsTr" / f"{case}.nii.gz", target / "labelsTr" / f"{case}.nii.gz"
        assert (target / "labelsTr_dense" / f"{case}.nii.gz").read_bytes() == dense.read_bytes()
        for get in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize"):
            found, expected = (getattr(sitk.ReadImage(str(file)), get)() for file in (weak, dense))
            assert np.allclose(found, expected, atol=1e-6), get
        labels, sparse = read(dense), read(weak)
        assert np.array_equal(sparse[sparse != 3], labels[sparse != 3])
        for index in range(len(labels)):
            assert set(np.unique(sparse[index])) - {3} == set(np.unique(labels[index]))
    assert (target / "labelsTs" / "p5_a.nii.gz").read_bytes() == (raw / "labelsTs" / "p5_a.nii.gz").read_bytes()
    description = json.loads((target / "dataset.json").read_text())
    assert description["labels"] == {**LABELS, "ignore": 3}
    assert description["name"] == "Organ_scribble" and description["numTraining"] == 4
    record = description["nnunet_ssl"]
    assert record["converter"] == "hand"
    record["weaken"].pop("version")
    assert record["weaken"] == {
        "from": "Dataset027_Organ",
        "kind": "scribble",
        "rule": "skeleton",
        "options": {"components": None},
        "axis": 0,
        "seed": 0,
        "rules_version": 1,
    }
    printed = capsys.readouterr().out
    total = sum(organ(seed).size for seed in range(4))
    annotated = sum((read(target / "labelsTr" / f"{case}.nii.gz") != 3).sum() for case in CASES)
    assert f"4 cases, {100 * annotated / total:.2f} % of all voxels annotated" in printed
    assert RawDataset.open(127).labels.keys() == set(CASES)


def test_nnunet_accepts_the_weak_data_set(raw, monkeypatch):
    from multiprocessing.pool import ThreadPool

    from nnunetv2.experiment_planning import verify_dataset_integrity as nnunet

    threads = SimpleNamespace(get_context=lambda method: SimpleNamespace(Pool=ThreadPool))
    monkeypatch.setattr(nnunet, "multiprocessing", threads)  # the same check without the start of processes
    for kind in ("scribble", "boxes", "slices", "partial"):
        assert weaken("--overwrite", "-name", "Weak", kind=kind) == 0
        nnunet.verify_dataset_integrity(str(raw.with_name("Dataset127_Weak")), num_processes=1)


def test_images_are_hard_links_of_files_or_copies(raw, tmp_path):
    image = raw / "imagesTr" / "p1_a_0000.nii.gz"
    elsewhere = tmp_path / "elsewhere.nii.gz"
    shutil.move(image, elsewhere)
    image.symlink_to(elsewhere)
    for arguments, same in ((("-name", "A"), True), (("-name", "A", "--copy", "--overwrite"), False)):
        assert weaken(*arguments) == 0
        written = raw.with_name("Dataset127_A") / "imagesTr" / "p1_a_0000.nii.gz"
        assert not written.is_symlink() and written.samefile(elsewhere) is same
        assert written.read_bytes() == elsewhere.read_bytes()


def test_where_the_file_system_has_no_links_the_files_are_copied_and_the_user_is_told(raw, monkeypatch, capsys):
    def no_link(source, target):
        raise OSError(18, "Invalid cross-device link", str(source))

    monkeypatch.setattr("os.link", no_link)
    assert weaken() == 0
    printed = capsys.readouterr().out
    assert "cannot be linked" in printed and "are copies" in printed
    assert not (made(raw) / "imagesTr" / "p1_a_0000.nii.gz").samefile(raw / "imagesTr" / "p1_a_0000.nii.gz")


def test_the_number_of_processes_changes_nothing(raw):
    contents = []
    for processes in (1, 2):
        assert weaken("--overwrite", np_=processes) == 0
        contents.append({case: read(made(raw) / "labelsTr" / f"{case}.nii.gz").tobytes() for case in CASES})
    assert contents[0] == contents[1]


def test_the_contact_sheet_shows_the_weak_labels(raw):
    from matplotlib.image import imread

    sheets = []
    for arguments in (("--kind", "scribble"), ("--kind", "slices", "--every", "2")):
        assert main(["weaken", "-d", "27", "-o", "127", "-name", "W", "-np", "1", "--overwrite", *arguments]) == 0
        sheets.append(imread(raw.with_name("Dataset127_W") / "weak_labels.png"))
    assert all(min(sheet.shape[:2]) > 500 for sheet in sheets)
    assert sheets[0].shape == sheets[1].shape and not np.array_equal(*sheets)
    # scribbles are drawn in the colors of their classes, nearly opaque
    for red, green, blue in ((0x56, 0xB4, 0xE9), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)):
        drawn = np.abs(sheets[0][..., :3] - np.array([red, green, blue]) / 255).max(axis=2) < 0.06
        assert drawn.sum() > 500


def test_the_contact_sheet_of_partial_labels_says_what_is_not_annotated(raw, monkeypatch):
    drawn = []
    monkeypatch.setattr(contact_sheet, "write_contact_sheet", lambda *arguments: drawn.append(arguments))
    assert weaken(kind="partial") == 0
    ((_, rows, _, names, before, after),) = drawn
    assert names == {1: "liver", 2: "tumor", 3: contact_sheet.NOT_ANNOTATED}
    assert before.hidden == after.hidden == 0
    sources = json.loads((made(raw, "partial") / "dataset.json").read_text())["partial_labels"]["sources"]
    remarks = {tile.title.split(",")[0]: tile.remark for tiles in rows for tile in tiles}
    assert remarks == {case: f"({name} annotated)" for name, source in sources.items() for case in source["cases"]}
    for tile in (tile for tiles in rows for tile in tiles):
        kept = LABELS[tile.remark[1:].split()[0]]
        assert np.array_equal(tile.after, np.where((tile.before == 0) | (tile.before == kept), tile.before, 3))


def test_boxes_are_kept_beside_the_label_map(raw):
    assert weaken("--rule", "2d", kind="boxes") == 0
    target = made(raw, "boxes")
    content = json.loads((target / "boxes.json").read_text())
    assert (content["format"], content["rule"], content["margin_mm"], content["axis"]) == (1, "2d", 0.0, 0)
    assert set(content["cases"]) == set(CASES)
    of_case = content["cases"]["p1_a"]
    assert {"class": "tumor", "start": [2, 8, 8], "stop": [3, 14, 14]} in of_case
    assert sum(box["class"] == "liver" for box in of_case) == 3
    weak = read(target / "labelsTr" / "p1_a.nii.gz")
    inside = filled_boxes([(box["start"], box["stop"]) for box in of_case], SHAPE)
    assert np.array_equal(weak, np.where(inside, 3, 0))


def test_test_labels_without_an_image_are_named(raw, capsys):
    shutil.copy(raw / "labelsTs" / "p5_a.nii.gz", raw / "labelsTs" / "p9_a.nii.gz")
    assert weaken() == 0
    assert "Left out: " in (said := capsys.readouterr().out) and "without an image in imagesTs: p9_a." in said
    assert not (made(raw) / "labelsTs" / "p9_a.nii.gz").exists()


def test_hashes_of_images_changed_since_the_list_are_not_carried_over(raw):
    time.sleep(0.05)  # the clock of a file system has ticks of up to 10 ms
    write(np.zeros(SHAPE, np.float32), raw / "imagesUn" / "p4_a_0000.nii.gz")
    assert weaken() == 0
    carried = UnlabeledList.load(made(raw) / "unlabeled.json")
    assert carried.unlabeled == {"p4_a": CaseRecord("x", "")}
    assert {record.sha256 for record in carried.labeled.values()} == {"1"}
    update_list(RawDataset.open(127), 1, show_progress=False)
    found = UnlabeledList.load(made(raw) / "unlabeled.json").unlabeled["p4_a"]
    assert found.sha256 == hash_case(RawDataset.open(127).unlabeled["p4_a"])


@pytest.mark.parametrize("name", ["unlabeled.json", "dataset.json"])
def test_partial_labels_are_described_in_dataset_json_and_patients_stay_together(raw, capsys, name):
    if name == "dataset.json":
        (raw / "unlabeled.json").unlink()
        change(raw, groups={case: case[:2] for case in CASES})
    assert weaken(kind="partial") == 0
    target = made(raw, "partial")
    description = json.loads((target / "dataset.json").read_text())
    assert description["labels"] == LABELS  # no ignore label
    partial = description["partial_labels"]
    assert partial["default"] == "all" and set(partial["sources"]) == {"liver", "tumor"}
    of = {case: name for name, source in partial["sources"].items() for case in source["cases"]}
    assert set(of) == set(CASES) and of["p1_a"] == of["p1_b"] and set(of.values()) == {"liver", "tumor"}
    for case, name in of.items():
        dense, weak = (read(folder / "labelsTr" / f"{case}.nii.gz") for folder in (raw, target))
        assert np.array_equal(weak, np.where(dense == LABELS[name], dense, 0))
    assert not (target / "boxes.json").exists()


def test_dense_labels_are_kept_for_validation_beside_partial_ones(raw, monkeypatch):
    from nnunet_ssl import trainer

    assert weaken(kind="partial") == 0
    assert set(RawDataset.open(127).dense_files()) == set(CASES)
    description = json.loads((made(raw, "partial") / "dataset.json").read_text())
    asked = []
    monkeypatch.setattr(trainer.DenseLabels, "of", lambda *arguments: asked.append(arguments))
    for content, number in (({"labels": LABELS}, 0), (description, 1)):
        started = SimpleNamespace(
            label_manager=SimpleNamespace(has_ignore_label=False),
            dataset_json=content,
            preprocessed_dataset_folder_base=raw,
            plans_manager=SimpleNamespace(dataset_name="Dataset127_Organ_partial", plans_name="nnUNetPlans"),
            configuration_manager=None,
            cases=SimpleNamespace(validation=["p3_a"]),
            print_to_log_file=print,
        )
        assert trainer.nnUNetTrainerSSL.dense_labels(started) is None and len(asked) == number


def test_sources_may_annotate_several_classes(raw):
    change(raw, labels={**LABELS, "cyst": 3})
    assert weaken("--annotated", "liver,cyst", "tumor", kind="partial") == 0
    sources = json.loads((made(raw, "partial") / "dataset.json").read_text())["partial_labels"]["sources"]
    assert {name: source["annotated"] for name, source in sources.items()} == {
        "liver+cyst": ["liver", "cyst"],
        "tumor": ["tumor"],
    }


def test_a_fold_without_a_class_is_announced(raw, capsys):
    write_split(raw, (["p1_a"], ["p2_a", "p3_a"]))
    assert weaken(kind="partial") == 0
    assert capsys.readouterr().out.count("Warning: fold 0 has no training case with") == 1


def test_regions_keep_their_order_and_boxes_are_those_of_the_regions(raw):
    regions = {"background": 0, "whole": [1, 2], "core": [2]}
    change(raw, labels=regions, regions_class_order=[1, 2])
    assert weaken(kind="boxes") == 0
    description = json.loads((made(raw, "boxes") / "dataset.json").read_text())
    assert list(description["labels"].items()) == [*regions.items(), ("ignore", 3)]
    found = json.loads((made(raw, "boxes") / "boxes.json").read_text())["cases"]["p1_a"]
    assert {box["class"] for box in found} == {"whole", "core"}


def test_photographs_and_data_sets_that_list_their_files(raw, tmp_path):
    from skimage import io

    folder = tmp_path / "photographs"
    folder.mkdir()
    entries = {}
    for seed, case in enumerate(("one", "two")):
        labels = organ(seed)[2]
        io.imsave(
            folder / f"{case}.png", (labels[..., None] * np.array([60, 40, 20])).astype(np.uint8), check_contrast=False
        )
        io.imsave(folder / f"{case}_mask.png", labels, check_contrast=False)
        entries[case] = {"images": [str(folder / f"{case}.png")], "label": str(folder / f"{case}_mask.png")}
    shutil.rmtree(raw)
    raw.mkdir()
    description = {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": LABELS,
        "numTraining": 2,
        "file_ending": ".png",
    }
    (raw / "dataset.json").write_text(json.dumps({**description, "dataset": entries}))
    assert weaken("--rule", "cut") == 0
    target = made(raw)
    assert files(target) == sorted(
        ["dataset.json", "weak_labels.png", *[f"imagesTr/{case}_0000.png" for case in entries]]
        + [f"{labels}/{case}.png" for case in entries for labels in ("labelsTr", "labelsTr_dense")]
    )
    assert "dataset" not in json.loads((target / "dataset.json").read_text())
    weak = io.imread(target / "labelsTr" / "one.png")
    assert set(np.unique(weak)) == {0, 1, 2, 3} and np.array_equal(weak[weak != 3], organ(0)[2][weak != 3])


def test_an_image_with_another_ending_is_not_linked_under_a_name_that_it_does_not_have(raw, capsys):
    """nnU-Net reads such images where dataset.json lists them; under the ending of the data set nobody could."""
    sitk.WriteImage(sitk.ReadImage(str(raw / "imagesTr/p1_a_0000.nii.gz")), str(raw / "p1_a.mha"))
    entries = {
        case: {"images": [f"imagesTr/{case}_000{c}.nii.gz" for c in (0, 1)], "label": f"labelsTr/{case}.nii.gz"}
        for case in CASES
    }
    entries["p1_a"]["images"][0] = "p1_a.mha"
    change(raw, dataset=entries)
    assert "dataset.p1_a.images names" in refusal(capsys, raw) and not made(raw).exists()


# --- again and again --------------------------------------------------------------------------------------------------


def test_the_same_request_writes_nothing_another_is_refused_and_overwrite_replaces(raw, capsys):
    assert weaken("-name", "W") == 0
    target = raw.with_name("Dataset127_W")
    mark = target / "mine.txt"
    mark.write_text("x")
    assert weaken("-name", "W") == 0
    assert "already holds" in capsys.readouterr().out and mark.exists()
    assert "--overwrite" in refusal(capsys, raw, "-name", "W", "--seed", 1)
    before = (target / "dataset.json").read_bytes()
    assert "mine.txt" in refusal(capsys, raw, "-name", "W", "--seed", 1, "--overwrite")
    assert mark.exists() and (target / "dataset.json").read_bytes() == before
    mark.unlink()
    assert weaken("-name", "W", "--seed", 1, "--overwrite") == 0
    assert (target / "dataset.json").read_bytes() != before


@pytest.mark.parametrize(
    "change_source",
    [
        lambda f: shutil.copy(f / "labelsTr" / "p2_a.nii.gz", f / "labelsTr" / "p1_a.nii.gz"),
        lambda f: shutil.copy(f / "labelsTr" / "p2_a.nii.gz", f / "labelsTs" / "p5_a.nii.gz"),
        lambda f: _replace(f / "imagesTr" / "p2_a_0000.nii.gz", f / "imagesTr" / "p1_a_0000.nii.gz"),
        lambda f: [file.unlink() for file in (f / "imagesUn").iterdir()],
        lambda f: [file.unlink() for folder in ("imagesTs", "labelsTs") for file in (f / folder).iterdir()],
        lambda f: _write_list(f, groups={"p1_a": "p2", "p2_a": "p2"}),
        lambda f: _write_list(f, hidden_labels={"0": ["p1_b"]}),
        lambda f: write_split(f, (["p1_a", "p1_b"], ["p2_a", "p3_a"])),
    ],
    ids=["label", "test label", "image", "unlabeled image", "test image", "patient", "hidden label", "split"],
)
@pytest.mark.parametrize("copy", [(), ("--copy",)], ids=["links", "copies"])
def test_a_source_that_has_changed_is_another_request(raw, capsys, change_source, copy):
    assert weaken("-name", "W", *copy) == 0
    change_source(raw)
    assert "their images or labels" in refusal(capsys, raw, "-name", "W", *copy)


def _write_list(folder: Path, **changes) -> None:
    file = folder / "unlabeled.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_hashes_and_sources_in_the_list_of_the_source_change_nothing(raw, capsys):
    assert weaken("-name", "W") == 0
    update_list(RawDataset.open(27), 1, rehash=True)
    assert weaken("-name", "W") == 0 and "already holds" in capsys.readouterr().out


def _replace(source: Path, target: Path) -> None:
    """As a file is saved anew: what links to the old one stays as it is."""
    target.unlink()
    shutil.copy(source, target)


def test_a_result_of_an_earlier_version_is_compared_without_the_hash_of_the_labels(raw, capsys):
    assert weaken("-name", "W") == 0
    file = raw.with_name("Dataset127_W") / "dataset.json"
    content = json.loads(file.read_text())
    for key in ("source_labels_sha256", "source_lists_sha256"):
        assert list(content["nnunet_ssl"].pop(key)) == ["Dataset027_Organ"]
    file.write_text(json.dumps(content))
    assert weaken("-name", "W") == 0 and "already holds" in capsys.readouterr().out


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_data_set_with_an_ignore_label_is_refused(raw, capsys):
    change(raw, labels={**LABELS, "ignore": 3})
    assert "not dense" in refusal(capsys, raw)


@pytest.mark.parametrize("kind", ["scribble", "boxes", "partial"])
def test_a_data_set_with_partial_labels_is_refused(raw, capsys, kind):
    change(raw, partial_labels={"default": ["liver"]})
    said = refusal(capsys, raw, kind=kind)
    assert "dataset.json has the key 'partial_labels'" in said and "Weaken a data set with dense labels" in said


@pytest.mark.parametrize(
    "kind, arguments, part",
    [
        ("boxes", ("--rule", "cut"), "Allowed: 2d, 3d"),
        ("partial", ("--rule", "cut"), "Allowed: none"),
        ("slices", ("--rule", "cut"), "--every or --fraction"),
        ("slices", ("--every", 3, "--fraction", 0.5), "Give one of them"),
        ("slices", ("--fraction", 1), "a number between 0 and 1"),
        ("slices", ("--every", 1), "2 and more"),
        ("scribble", ("--margin", 3), "Its options: --components"),
        ("points", ("--rule", "erosion", "--margin", 3), "Its options: --radius, --background_points"),
        ("scribble", ("--annotated", "liver"), "for --kind partial"),
        ("partial", ("--annotated", "liver", "spleen"), "'spleen': no such class. Allowed: liver, tumor"),
        ("partial", ("--annotated", "liver"), "no source annotates tumor"),
        ("partial", ("--annotated", "liver,tumor", "tumor,liver"), "same classes"),
        ("scribble", ("-name", "a b"), "allowed are letters"),
    ],
)
def test_requests_that_mean_nothing_are_refused(raw, capsys, kind, arguments, part):
    assert part in refusal(capsys, raw, *arguments, kind=kind)


def test_partial_labels_of_regions_of_one_class_and_of_too_few_patients_are_refused(raw, capsys):
    change(raw, labels={"background": 0, "whole": [1, 2], "core": [2]}, regions_class_order=[1, 2])
    assert "regions" in refusal(capsys, raw, kind="partial")
    change(raw, labels={"background": 0, "organ": 1}, regions_class_order=None)
    assert "one foreground class (organ)" in refusal(capsys, raw, kind="partial")
    change(raw, labels={"background": 0, **{f"c{i}": i for i in range(1, 6)}})
    assert "5 sources for 3 patients" in refusal(capsys, raw, kind="partial")


def test_every_faulty_label_is_named_and_nothing_is_left(raw, capsys):
    labels = organ(0)
    labels[0, 0, 0] = 9
    write(labels, raw / "labelsTr" / "p1_b.nii.gz")
    whole = (raw / "labelsTr" / "p3_a.nii.gz").read_bytes()
    (raw / "labelsTr" / "p3_a.nii.gz").write_bytes(whole[: len(whole) // 2])
    message = refusal(capsys, raw)
    assert "2 of 4 cases cannot be used; nothing was written" in message
    assert "case p1_b" in message and "code(s) 9" in message and "case p3_a" in message and "truncated" in message


def test_a_case_in_which_nothing_would_be_annotated_is_refused(raw, capsys):
    write(np.ones(SHAPE, np.uint8), raw / "labelsTr" / "p1_a.nii.gz")
    assert "case p1_a: nothing of" in refusal(capsys, raw, kind="boxes")


def test_slices_of_images_with_one_slice_are_refused(raw, capsys):
    for case in CASES:
        for file in (raw / "labelsTr" / f"{case}.nii.gz", *(raw / "imagesTr").glob(f"{case}_*.nii.gz")):
            write(organ(0)[2:3], file)
    assert "has 1 slice along axis 0" in refusal(capsys, raw, kind="slices")


def test_a_label_of_another_shape_than_its_image_is_refused(raw, capsys):
    write(organ(0)[:3], raw / "labelsTr" / "p1_a.nii.gz")
    assert "They must lie on each other" in refusal(capsys, raw)


def test_an_id_that_another_data_set_has_is_refused(raw, capsys):
    assert "-o 27" in refusal(capsys, raw, "-o", 27)
    assert "-o 27" in refusal(capsys, raw, "-o", 27, "-name", "Organ")


def test_a_full_disk_leaves_nothing_and_says_so(raw, capsys, monkeypatch):
    import errno

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("nnunet_ssl.weak.relabeling.write_label", full)
    assert "no space left on the disk" in refusal(capsys, raw)


def test_a_label_that_was_not_written_completely_is_noticed(raw, capsys, monkeypatch):
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    original = SimpleITKIO.write_seg

    def short(self, seg: np.ndarray, output_fname: str, properties: dict) -> None:
        original(self, np.zeros_like(seg), output_fname, properties)

    monkeypatch.setattr(SimpleITKIO, "write_seg", short)
    assert "cannot be written" in refusal(capsys, raw)
