"""3D TIFFs, whose spacing lies in a JSON beside them: nothing that is made of them loses it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_ssl.cli import main
from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.evaluation.metrics import read_pair
from nnunet_ssl.preprocessing.round_cases import remove_cases
from nnunet_ssl.preprocessing.rounds import files_of_round
from tests.helpers.raw_data import phantom, use_folders

SPACING = [2.0, 1.0, 0.5]
FOLDERS = {"imagesTr": "abc", "imagesUn": "uv", "imagesTs": "t"}


def put(array: np.ndarray, file: Path, case: str, spacing: bool = True) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(file, array)
    if spacing:
        file.with_name(f"{case}.json").write_text(json.dumps({"spacing": SPACING}))


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    """`Dataset051_Tiff`, with three labeled and two unlabeled cases and a test case."""
    use_folders(monkeypatch, tmp_path)
    folder = tmp_path / "nnUNet_raw" / "Dataset051_Tiff"
    for images, cases in FOLDERS.items():
        for case in cases:
            image, labels = phantom(ord(case))
            put(image, folder / images / f"{case}_0000.tif", case)
            maps = tmp_path / "maps" if images == "imagesUn" else folder / images.replace("images", "labels")
            put(labels, maps / f"{case}.tif", case)
    description = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "ball": 1},
        "numTraining": 3,
        "file_ending": ".tif",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def spacings(folder: Path) -> dict[str, list[float]]:
    """Of every file, as nnU-Net reads them."""
    found = {}
    for file in sorted(folder.rglob("*.tif")):
        is_image = file.parent.name.startswith("images")
        _, properties = Tiff3DIO().read_images([str(file)]) if is_image else Tiff3DIO().read_seg(str(file))
        found[str(file.relative_to(folder))] = list(properties["spacing"])
    return found


def plan(number: int) -> None:
    assert main(["plan_and_preprocess", "-d", str(number), "-c", "2d", "-np", "1", "-npfp", "1", "--no_pbar"]) == 0


@pytest.mark.parametrize("copy", [[], ["--copy"]])
def test_weak_and_expanded_data_sets_keep_the_spacing_of_images_and_labels(raw, copy):
    assert main(["weaken", "-d", "51", "-o", "52", "--kind", "scribble", "-np", "1", *copy]) == 0
    assert main(["expand", "-d", "52", "-o", "53", "--method", "geodesic", "-np", "1", *copy]) == 0
    for name in ("Dataset052_Tiff_scribble", "Dataset053_Tiff_scribble_geodesic"):
        found = spacings(raw.with_name(name))
        assert len(found) == 2 * 3 + 2 + 2 + 3 and set(map(tuple, found.values())) == {tuple(SPACING)}


def test_dense_labels_that_are_kept_for_validation_keep_it(raw):
    assert main(["weaken", "-d", "51", "-o", "52", "--kind", "points", "-np", "1"]) == 0
    plan(52)
    references = RawDataset.open("52").preprocessed / "gt_segmentations_dense"
    assert spacings(references) == {f"{case}.tif": SPACING for case in "abc"}
    (references / "notes.json").write_text("{}")
    plan(52)
    assert len(spacings(references)) == 3 and (references / "notes.json").is_file()


@pytest.mark.parametrize("with_spacing", [True, False])
def test_label_maps_made_elsewhere_get_the_spacing_of_their_image(raw, with_spacing):
    """Whether they say one or not; nothing but cases and their spacing is left in the folder."""
    plan(51)
    maps = raw.parents[1] / "maps"
    if not with_spacing:
        for file in maps.glob("*.json"):
            file.unlink()
    words = ["pseudo_label", "-d", "51", "-c", "2d", "--from", str(maps), "-np", "1", "--no_pbar"]
    assert main(words) == 0
    folder = RawDataset.open("51").preprocessed / "pseudo_labels" / "round1" / "labels"
    wanted = {f"{case}.{ending}" for case in "uv" for ending in ("tif", "json")}
    assert {file.name for file in folder.iterdir()} == wanted
    assert set(map(tuple, spacings(folder).values())) == {tuple(SPACING)}
    (raw / "imagesUn" / "v_0000.tif").unlink()
    (maps / "v.tif").unlink()
    assert main(["preprocess_unlabeled", "-d", "51", "-c", "2d", "-np", "1"]) == 0
    assert main([*words, "--overwrite"]) == 0
    assert {file.name for file in folder.iterdir()} == {"u.tif", "u.json"}


def test_label_maps_of_another_spacing_are_refused(raw, capsys):
    plan(51)
    maps = raw.parents[1] / "maps"
    (maps / "u.json").write_text(json.dumps({"spacing": [3, 1, 1]}))
    assert main(["pseudo_label", "-d", "51", "-c", "2d", "--from", str(maps), "-np", "1", "--no_pbar"]) == 1
    assert "u.tif: spacing (3, 1, 1)" in capsys.readouterr().err


@pytest.mark.parametrize(("ending", "ours"), [(".tif", True), (".nii.gz", False)])
def test_a_json_beside_a_label_map_is_ours_only_where_nnunet_writes_one(tmp_path, ending, ours):
    file = tmp_path / "labels" / "u.json"
    put(phantom(0)[1], file.with_suffix(".tif"), "u")
    assert files_of_round(tmp_path, ["u"], ending)("labels/u.json", file) == ours
    made = SimpleNamespace(folder=tmp_path)
    remove_cases(made, [], ["u"], ending)
    assert file.is_file() != ours


def test_references_without_a_spacing_take_that_of_the_prediction(tmp_path):
    """nnU-Net copies label maps to gt_segmentations without the file beside them."""
    put(phantom(0)[1], tmp_path / "predictions" / "a.tif", "a")
    put(phantom(1)[1], tmp_path / "references" / "a.tif", "a", spacing=False)
    files = tmp_path / "predictions" / "a.tif", tmp_path / "references" / "a.tif"
    assert list(read_pair(*files, Tiff3DIO(), "")[2]) == SPACING


def test_an_ending_that_nnunet_does_not_read_is_named_with_those_that_it_does(raw, capsys):
    for file in raw.rglob("*.tif"):
        file.rename(file.with_suffix(".mhd"))
    content = json.loads((raw / "dataset.json").read_text()) | {"file_ending": ".mhd"}
    (raw / "dataset.json").write_text(json.dumps(content))
    for words in (["check"], ["plan_and_preprocess", "-npfp", "1"], ["split", "--labeled", "1"]):
        assert main([words[0], "-d", "51", *words[1:], "-np", "1"]) == 1
        said = capsys.readouterr().err
        assert "'file_ending' is '.mhd'" in said and ".nii.gz" in said and "damaged" not in said
