"""Any folder of images and sparse label maps: names, codes, and one value that means "not annotated"."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.cli import main
from nnunet_ssl.data.splits import load_splits
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.dataset_conversion.scribble_folder import parse_labels
from nnunet_ssl.errors import UserError
from tests.helpers.acdc_release import placed, read
from tests.helpers.paths import shared_dir

SHAPE = (4, 8, 6)  # z, y, x
LABELS = ("--unlabeled_value", "255", "--labels", "liver=1", "tumor=5")


def mask(case: str) -> np.ndarray:
    """Dense mask with the codes 0, 1 and 5."""
    array = np.zeros(SHAPE, np.uint8)
    array[1:3, 2:6, 1:3] = 1
    array[1:3, 2:6, 3:5] = 5
    return np.roll(array, sum(map(ord, case)) % 2, axis=2)


def sparse(case: str, unlabeled: int = 255) -> np.ndarray:
    array = np.full(SHAPE, unlabeled, np.int16)
    array[:, 3] = mask(case)[:, 3]
    return array


def write(array: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.0, 3.0))
    sitk.WriteImage(image, str(path))
    return path


def image_of(case: str) -> np.ndarray:
    return np.random.default_rng(sum(map(ord, case))).normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def folders(tmp_path) -> Path:
    """Images a, b, c and d, sparse labels of the first three, masks of a and b; test images t and u with a mask of t."""
    for case in "abcd":
        write(image_of(case), tmp_path / "images" / f"{case}.nii.gz")
    for case in "abc":
        write(sparse(case), tmp_path / "sparse" / f"{case}.nii.gz")
    for case in "ab":
        write(mask(case), tmp_path / "masks" / f"{case}.nii.gz")
    for case in "tu":
        write(image_of(case), tmp_path / "test" / f"{case}.nii.gz")
    write(mask("t"), tmp_path / "test_masks" / "t.nii.gz")
    (tmp_path / "images" / ".DS_Store").write_text("x")
    (tmp_path / "images" / "._a.nii.gz").write_text("x")
    (tmp_path / "images" / "readme.txt").write_text("x")
    return tmp_path


def convert(folders: Path, *arguments: str, labels: tuple[str, ...] = LABELS) -> int:
    places = ["-i", str(folders / "images"), "-l", str(folders / "sparse")]
    return main(["convert", "scribbles", *places, "-d", "128", "-np", "1", *labels, *arguments])


def with_all(folders: Path) -> list[str]:
    return [
        "--dense", str(folders / "masks"), "--test_images", str(folders / "test"), "--test_labels", str(folders / "test_masks")
    ]  # fmt: skip


def test_codes_are_mapped_and_what_is_not_annotated_becomes_the_ignore_label(raw, folders, capsys):
    assert convert(folders, *with_all(folders)) == 0
    target = raw / "Dataset128_Scribbles"
    assert placed(target) == {
        "imagesTr": ["a", "b", "c"],
        "labelsTr": ["a", "b", "c"],
        "labelsTr_dense": ["a", "b"],
        "imagesUn": ["d"],
        "imagesTs": ["t", "u"],
        "labelsTs": ["t"],
    }
    description = json.loads((target / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, "liver": 1, "tumor": 2, "ignore": 3}
    assert description["channel_names"] == {"0": "image"}
    codes = {0: 0, 1: 1, 5: 2, 255: 3}
    for folder, case, array in (
        ("labelsTr", "b", sparse("b")),
        ("labelsTr_dense", "a", mask("a")),
        ("labelsTs", "t", mask("t")),
    ):
        found = read(target / folder / f"{case}.nii.gz")[0]
        np.testing.assert_array_equal(found, np.vectorize(codes.get)(array))
    np.testing.assert_array_equal(read(target / "imagesUn" / "d_0000.nii.gz")[0], image_of("d"))
    printed = capsys.readouterr().out
    assert "2 masks in labelsTr_dense" in printed and "2 of 2 sparse labels agree with the mask" in printed
    assert "1 case(s) of imagesTr have no dense mask" in printed and "annotated   12.50 %" in printed


@pytest.mark.parametrize("place", ["images", "sparse", "masks", "test", "test_masks"])
def test_no_file_vanishes_for_an_ending_in_upper_case(raw, folders, capsys, place):
    (folders / place / ("t.nii.gz" if place.startswith("test") else "b.nii.gz")).rename(folders / place / "b.NII.GZ")
    assert convert(folders, *with_all(folders)) == 1
    assert f"{folders / place / 'b.NII.GZ'}: " in (said := capsys.readouterr().err) and "Rename it to b.nii.gz" in said
    assert not list(raw.glob("*"))


def test_the_unlabeled_value_and_the_labels_are_required(raw, folders, capsys):
    for missing in ("--unlabeled_value", "--labels"):
        arguments = LABELS[2:] if missing == "--unlabeled_value" else LABELS[:2]
        with pytest.raises(SystemExit):
            convert(folders, labels=arguments)
        assert f"the following arguments are required: {missing}" in capsys.readouterr().err


def test_a_value_that_was_not_named_is_refused_with_file_and_values(raw, folders, capsys):
    assert convert(folders, labels=("--unlabeled_value", "255", "--labels", "liver=1")) == 1
    errors = capsys.readouterr().err
    assert f"{folders / 'sparse' / 'a.nii.gz'} holds the codes (0, 1, 5, 255); allowed is {{0, 1, 255}}" in errors
    assert "3 of 4 cases cannot be converted" in errors
    assert not list(raw.glob("*"))


def test_a_wrong_unlabeled_value_is_noticed(raw, folders, capsys):
    # every code is known, but 7 marks nothing: what nobody annotated would become background
    labels = ("--unlabeled_value", "7", "--labels", "background=255", "air=0", "liver=1", "tumor=5")
    assert convert(folders, labels=labels) == 1
    assert "none of the 3 sparse labels has a voxel of the code 7" in capsys.readouterr().err


def test_the_code_0_may_mean_not_annotated_if_the_background_has_another(raw, folders):
    for case in "abc":
        array = sparse(case)
        write(
            np.select([array == 255, array == 0], [0, 9], array).astype(np.uint8), folders / "sparse" / f"{case}.nii.gz"
        )
    assert convert(folders, labels=("--unlabeled_value", "0", "--labels", "liver=1", "background=9", "tumor=5")) == 0
    found = read(raw / "Dataset128_Scribbles" / "labelsTr" / "a.nii.gz")[0]
    np.testing.assert_array_equal(found, np.vectorize({0: 0, 1: 1, 5: 2, 255: 3}.get)(sparse("a")))


@pytest.mark.parametrize(
    "labels, value, message",
    [
        (["liver=1"], 0, "0 is taken, so which code is the background"),
        (["liver=0"], 255, "0 is taken, so which code is the background"),
        (["liver=1", "tumor=255"], 255, "--unlabeled_value 255 is also the code of a class"),
        (["liver=1", "tumor=1"], 255, "the name or the code occurs twice"),
        (["liver=1", "liver=2"], 255, "the name or the code occurs twice"),
        (["liver"], 255, "expected NAME=CODE"),
        (["liver=1.5"], 255, "expected NAME=CODE"),
        (["ignore=255"], 255, "made from --unlabeled_value"),
        (["background=0"], 255, "no class beside the background"),
    ],
)
def test_labels_that_contradict_each_other_are_refused(labels, value, message):
    with pytest.raises(UserError, match=message):
        parse_labels(labels, value)


def test_labels_keep_the_order_in_which_they_were_given():
    labels, codes = parse_labels(["tumor=5", "background=2", "liver=1"], -1)
    assert labels == {"background": 0, "tumor": 1, "liver": 2}
    assert codes == {2: 0, 5: 1, 1: 2}


def test_channels_suffixes_and_other_endings_are_understood(raw, folders):
    for case in "abcd":
        (folders / "images" / f"{case}.nii.gz").unlink()
        for channel in range(2):
            write(image_of(case) + channel, folders / "images" / f"{case}_{channel:04d}.mha")
    for case in "abc":
        (folders / "sparse" / f"{case}.nii.gz").rename(folders / "sparse" / f"{case}_0000_scribble.nii.gz")
    write(mask("a"), folders / "sparse" / "a_mask_scribble.nrrd")
    arguments = ["--label_suffix", "_scribble", "--channel_names", "T1", "CT"]
    arguments += ["--dense", str(folders / "sparse"), "--dense_suffix", "_mask_scribble"]
    assert convert(folders, *arguments) == 0
    target = raw / "Dataset128_Scribbles"
    assert placed(target)["labelsTr"] == ["a", "b", "c"] and placed(target)["labelsTr_dense"] == ["a"]
    assert json.loads((target / "dataset.json").read_text())["channel_names"] == {"0": "T1", "1": "CT"}
    np.testing.assert_allclose(read(target / "imagesTr" / "b_0001.nii.gz")[0], image_of("b") + 1)


def test_lists_and_budgets_go_by_patient_where_a_pattern_says_who_that_is(raw, tmp_path, capsys):
    for case in ("p1_a", "p1_b", "p2_a", "p3_a", "p4_a"):
        write(image_of(case), tmp_path / "images" / f"{case}.nii.gz")
        write(sparse(case), tmp_path / "sparse" / f"{case}.nii.gz")
        write(mask(case), tmp_path / "masks" / f"{case}.nii.gz")
    for part, entries in (("train", "p1_a\np3_a\n"), ("val", "p2\n"), ("test", "p4\n")):
        (tmp_path / f"{part}.list").write_text(entries)
    lists = [str(tmp_path / f"{part}.list") for part in ("train", "val", "test")]
    dense = ("--dense", str(tmp_path / "masks"))
    pattern = ("--patient_pattern", r"(p\d+)")
    assert convert(tmp_path, *dense, *pattern, "--labeled", "1", "--split", *lists) == 0
    target = raw / "Dataset128_Scribbles"
    assert load_splits(target / "splits_final.json") == [{"train": ["p1_a", "p1_b"], "val": ["p2_a"]}]
    assert placed(target)["imagesUn"] == ["p3_a"]
    assert placed(target)["labelsTs"] == ["p4_a"]
    assert UnlabeledList.load(target / "unlabeled.json").groups["p1_b"] == "p1"
    # the mask of an unlabeled case is not even opened
    (tmp_path / "masks" / "p3_a.nii.gz").write_text("x")
    assert convert(tmp_path, *dense, *pattern, "--labeled", "1", "--split", *lists, "--overwrite") == 0
    for wrong, message in (
        ("(", "no regular expression"),
        ("p1", "needs a group"),
        (r"(x\d)", "finds no patient in 'p1_a'"),
        (r"(x)?", "finds no patient in 'p1_a'"),
    ):
        assert convert(tmp_path, "--patient_pattern", wrong) == 1
        assert message in capsys.readouterr().err


BROKEN = {
    "stranger": (lambda f: write(sparse("z"), f / "sparse" / "z.nii.gz"), "z.nii.gz is a label without an image"),
    "two labels": (lambda f: write(sparse("a"), f / "sparse" / "a_0000.nii.gz"), "case a has two labels"),
    "two images": (lambda f: write(image_of("a"), f / "images" / "a.nrrd"), "case a occurs twice"),
    "channels": (
        lambda f: write(image_of("a"), f / "images" / "a_0001.nii.gz"),
        "has the channel(s) 0000, 0001, expected are 0000",
    ),
    "geometry": (lambda f: write(sparse("a")[:3], f / "sparse" / "a.nii.gz"), "shape of the label"),
    "mask geometry": (lambda f: write(mask("a")[:, :7], f / "masks" / "a.nii.gz"), "shape of the dense mask"),
    "mask codes": (
        lambda f: write(sparse("a"), f / "masks" / "a.nii.gz"),
        "masks/a.nii.gz holds the codes (0, 1, 5, 255); allowed is {0, 1, 5}",
    ),
    "test twice": (lambda f: write(image_of("a"), f / "test" / "a.nii.gz"), "A test case must not be trained on"),
    "no images": (lambda f: [path.unlink() for path in (f / "images").glob("*.nii.gz")], "holds no image"),
}


@pytest.mark.parametrize("break_it, message", BROKEN.values(), ids=BROKEN)
def test_folders_that_do_not_fit_together_are_refused(raw, folders, capsys, break_it, message):
    break_it(folders)
    assert convert(folders, *with_all(folders)) == 1
    assert message in capsys.readouterr().err
    assert not list(raw.glob("*"))


def test_more_classes_than_a_byte_holds(raw, folders):
    names = [f"class{code}={code}" for code in range(1, 255) if code != 5]
    assert (
        convert(
            folders,
            labels=(
                "--unlabeled_value",
                "255",
                "--labels",
                "background=0",
                *names,
                "last=5",
                "x=256",
                "y=257",
                "z=258",
            ),
        )
        == 0
    )
    labels = json.loads((raw / "Dataset128_Scribbles/dataset.json").read_text())["labels"]
    assert (labels["last"], labels["ignore"]) == (254, 258)
    for file in sorted((raw / "Dataset128_Scribbles/labelsTr").iterdir()):
        case = file.name.removesuffix(".nii.gz")
        written = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
        assert np.array_equal(written == 258, sparse(case) == 255) and np.array_equal(written == 254, sparse(case) == 5)


def test_a_suffix_without_masks_is_refused(raw, folders, capsys):
    assert convert(folders, "--dense_suffix", "_gt") == 1
    assert "--dense_suffix _gt belongs to --dense or --test_labels" in capsys.readouterr().err


def test_a_suffix_that_no_label_has_and_test_labels_without_images_are_refused(raw, folders, capsys):
    assert convert(folders, "--label_suffix", "_scribble") == 1
    assert "holds no label CASE_scribble.nii.gz of the 4 cases" in capsys.readouterr().err
    assert convert(folders, "--test_labels", str(folders / "test_masks")) == 1
    assert "--test_labels without --test_images" in capsys.readouterr().err


def test_images_and_labels_in_one_folder_need_suffixes_for_all_that_is_no_image(raw, tmp_path, capsys):
    for case in "ab":
        write(image_of(case), tmp_path / "all" / f"{case}.nii.gz")
        write(sparse(case), tmp_path / "all" / f"{case}_scribble.nii.gz")
        write(mask(case), tmp_path / "all" / f"{case}_mask.nii.gz")
    place = str(tmp_path / "all")
    arguments = ["convert", "scribbles", "-i", place, "-l", place, "-d", "128", "-np", "1", *LABELS]
    assert main(arguments) == 1
    assert "holds images and labels. Say how the names of the labels end" in capsys.readouterr().err
    # the masks would pass for unlabeled images
    assert main([*arguments, "--label_suffix", "_scribble"]) == 1
    assert "2 training case(s) have no sparse label" in capsys.readouterr().err
    assert main([*arguments, "--label_suffix", "_scribble", "--dense", place, "--dense_suffix", "_mask"]) == 0
    target = raw / "Dataset128_Scribbles"
    assert placed(target)["imagesTr"] == placed(target)["labelsTr_dense"] == ["a", "b"]


def test_the_id_has_no_default():
    from nnunet_ssl.dataset_conversion import scribble_folder

    parser = argparse.ArgumentParser()
    scribble_folder.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["-i", "a", "-l", "b", *LABELS])


# --- a real case ------------------------------------------------------------------------------------------------------


def test_a_real_prostate_with_scribbles_whose_value_255_is_not_annotated(raw):
    data = str(shared_dir("data", "prostate_scribble"))
    arguments = ["convert", "scribbles", "-i", data, "-l", data, "-d", "128", "-np", "1", "--label_suffix", "_scribble"]
    arguments += ["--dense", data, "--dense_suffix", "_lab", "--labels", "zone1=1", "zone2=2"]
    assert main([*arguments, "--unlabeled_value", "254"]) == 1
    assert main([*arguments, "--unlabeled_value", "255"]) == 0
    target = raw / "Dataset128_Scribbles"
    found = read(target / "labelsTr" / "Prostatex.nii.gz")[0]
    values, counts = np.unique(found, return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist())) == {0: 542, 1: 3544, 2: 267, 3: 696063}
    dense = read(target / "labelsTr_dense" / "Prostatex.nii.gz")[0]
    assert np.unique(dense).tolist() == [0, 1, 2]
