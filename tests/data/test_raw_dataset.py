"""A raw data set as it lies on disk: folders that are resolved once, files of cases, and what is refused."""

from __future__ import annotations

import json

import pytest
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_ssl.data.raw_dataset import RawDataset, read_case, read_label_map
from nnunet_ssl.errors import UserError
from tests.helpers.raw_data import phantom, use_folders, write_image, write_raw_dataset

NAME = "Dataset801_Balls"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    use_folders(monkeypatch, tmp_path)
    folder = tmp_path / "nnUNet_raw" / NAME
    write_raw_dataset(folder, {"lab_0": 0, "lab_1": 1}, {"unl_0": 2}, {"tes_0": 3}, channels=2)
    return folder


def change(folder, **changes) -> None:
    file = folder / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_data_set_knows_its_folders_its_number_and_what_dataset_json_says(folder, tmp_path):
    raw = RawDataset.open(801)
    assert (raw.name, raw.id, raw.folder) == (NAME, "801", folder)
    assert raw.preprocessed == tmp_path / "nnUNet_preprocessed" / NAME
    assert (raw.file_ending, raw.channel_names, raw.number_of_channels) == (".nii.gz", ["MR", "MR"], 2)
    assert raw.reader_writer_class is SimpleITKIO


def test_the_preprocessed_folder_is_asked_for_only_where_it_is_needed(folder, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed")
    raw = RawDataset.open(NAME)
    assert raw.label_files("labeled")
    with pytest.raises(UserError, match="nnUNet_preprocessed"):
        raw.preprocessed  # noqa: B018


def test_every_section_has_its_images_and_the_labels_that_are_there(folder):
    raw = RawDataset.open(801)
    assert raw.images("unlabeled") == {"unl_0": [str(folder / "imagesUn" / f"unl_0_000{c}.nii.gz") for c in (0, 1)]}
    assert list(raw.images("labeled")) == ["lab_0", "lab_1"]
    assert raw.label_files("labeled")["lab_1"] == str(folder / "labelsTr" / "lab_1.nii.gz")
    assert raw.label_files("test") == {"tes_0": str(folder / "labelsTs" / "tes_0.nii.gz")}
    assert raw.label_files("unlabeled") == {}
    (folder / "labelsTs" / "tes_0.nii.gz").unlink()
    assert RawDataset.open(801).label_files("test") == {}


def test_dense_labels_belong_to_training_cases_with_sparse_or_partial_labels(folder):
    assert RawDataset.open(801).dense_files() == {}
    file = folder / "labelsTr_dense" / "lab_0.nii.gz"
    write_image(phantom(0)[1], file)
    with pytest.raises(UserError, match="have no 'ignore'"):
        RawDataset.open(801).dense_files()
    change(folder, labels={"background": 0, "ball": 1, "ignore": 2})
    assert RawDataset.open(801).dense_files() == {"lab_0": str(file)}
    write_image(phantom(0)[1], folder / "labelsTr_dense" / "tes_0.nii.gz")
    with pytest.raises(UserError, match="holds label maps of tes_0, which are not in imagesTr"):
        RawDataset.open(801).dense_files()


def test_masks_without_images_have_any_name(folder):
    assert RawDataset.open(801).mask_files() == {}
    write_image(phantom(0)[1], folder / "masksUn" / "someone.nii.gz")
    assert RawDataset.open(801).mask_files() == {"someone": str(folder / "masksUn" / "someone.nii.gz")}


@pytest.mark.parametrize(
    "where", ["labelsTr", "labelsTs", "labelsTr_dense", "masksUn", "imagesTr", "imagesUn", "imagesTs"]
)
def test_no_file_vanishes_for_an_ending_in_upper_case(folder, where):
    change(folder, labels={"background": 0, "ball": 1, "ignore": 2})
    file = folder / where / "lab_0.NII.GZ"
    file.parent.mkdir(exist_ok=True)
    file.write_text("x")
    with pytest.raises(UserError, match=rf"{where}.lab_0\.NII\.GZ: .* must be named .*Rename it to lab_0\.nii\.gz"):
        raw = RawDataset.open(801)
        raw.dense_files()
        raw.mask_files()


def test_test_labels_without_an_image_are_said(folder):
    assert RawDataset.open(801).unused_test_labels() == ""
    write_image(phantom(0)[1], folder / "labelsTs" / "other.nii.gz")
    assert "1 label map(s) without an image in imagesTs: other" in RawDataset.open(801).unused_test_labels()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "dataset.json").unlink(), r"dataset\.json does not exist"),
        (lambda f: (f / "dataset.json").write_text("{"), "is not valid JSON"),
        (lambda f: (f / "dataset.json").write_text('{"labels": {}, "channel_names": {}}'), "lacks the key 'file_ending'"),
        (lambda f: (f / "labelsTr" / "lab_0.nii.gz").unlink(), "case lab_0 lies in imagesTr without a label"),
        (lambda f: (f / "imagesUn" / "unl_0_0001.nii.gz").unlink(), r"unl_0_0001\.nii\.gz does not exist"),
        (lambda f: write_image(phantom(0)[0], f / "imagesUn" / "x.nii.gz"), r"must be named CASE_XXXX\.nii\.gz"),
        (lambda f: write_image(phantom(0)[0], f / "imagesUn" / "unl_0_0002.nii.gz"), "have only channel"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_data_set_is_refused_by_file(folder, break_it, message):
    break_it(folder)
    with pytest.raises(UserError, match=message):
        RawDataset.open(801)


def test_a_case_in_two_folders_is_named(folder):
    for channel in (0, 1):
        write_image(phantom(0)[0], folder / "imagesUn" / f"lab_0_000{channel}.nii.gz")
    with pytest.raises(UserError, match=r"lab_0 lie\(s\) in imagesUn and in imagesTr"):
        RawDataset.open(801)


def test_a_damaged_file_is_named_where_simpleitk_would_read_zeros(folder):
    raw = RawDataset.open(801)
    for file in (raw.labeled["lab_0"][1], raw.labels["lab_0"]):
        with open(file, "rb") as stream:
            whole = stream.read()
        with open(file, "wb") as stream:
            stream.write(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"lab_0_0001\.nii\.gz .* truncated or damaged"):
        read_case("lab_0", raw.labeled["lab_0"], raw.reader_writer_class)
    with pytest.raises(UserError, match=r"labelsTr/lab_0\.nii\.gz .* truncated or damaged"):
        read_label_map("lab_0", raw.labels["lab_0"], raw.reader_writer_class)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "imagesTr" / "lab_1_0000.nii.gz").rename(f / "elsewhere"), "lab_1_0000"),
        (
            lambda f: [file.unlink() for file in (f / "imagesTr").glob("lab_1*")],
            "lab_1.nii.gz: 1 label.s. have no image",
        ),
        (lambda f: change(f, numTraining=3), "'numTraining' is 3, imagesTr holds 2 cases"),
        (lambda f: (f / "labelsTr" / "._lab_0.nii.gz").write_text(""), "hidden file.s.: ._lab_0.nii.gz"),
        (lambda f: (f / "imagesUn" / "unl_1_0000.nii.gz").symlink_to("/mnt/store/x"), "is a link to /mnt/store/x"),
        (lambda f: (f / "imagesTs" / "tes_1_0000.nii.gz").symlink_to("/mnt/store/x"), "is a link to /mnt/store/x"),
    ],
)
def test_a_case_that_is_lost_is_an_error(folder, spoil, words):
    spoil(folder)
    with pytest.raises(UserError, match=words):
        RawDataset.open(801)


@pytest.mark.parametrize("case", ["../lab_0", "/tmp/x", ".lab"])
def test_ids_of_dataset_json_are_plain_names(folder, case):
    images = [f"imagesTr/lab_0_000{channel}.nii.gz" for channel in (0, 1)]
    change(folder, dataset={case: {"images": images, "label": "labelsTr/lab_0.nii.gz"}})
    with pytest.raises(UserError, match=r"1 case id\(s\) cannot be file names"):
        RawDataset.open(801)


def test_a_name_may_end_with_the_slash_that_a_shell_adds(folder):
    assert RawDataset.open(f"{NAME}/").name == NAME


@pytest.mark.parametrize("name", [f"{NAME}/../{NAME}", f"./{NAME}", f"{NAME}//", "", "Dataset801_Balls/imagesTr"])
def test_a_path_is_no_name_of_a_data_set(folder, name):
    with pytest.raises(UserError, match="Allowed is the plain name of one file or folder"):
        RawDataset.open(name)


def test_one_folder_for_raw_and_preprocessed_data_is_refused(folder, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    with pytest.raises(UserError, match="are one folder"):
        RawDataset.open(NAME)


def test_an_id_of_three_digits_is_not_one_of_four(folder):
    folder.rename(folder.with_name("Dataset8012_Other"))
    with pytest.raises(UserError, match=r"none of this id\. Found: Dataset8012_Other, whose id is 8012"):
        RawDataset.open(801)
    assert RawDataset.open("8012").name == "Dataset8012_Other"


def test_a_case_that_ends_like_an_image_file_is_refused(folder):
    for channel in (0, 1):
        (folder / f"imagesTs/tes_0_000{channel}.nii.gz").rename(folder / f"imagesTs/t.nii_000{channel}.nii.gz")
    with pytest.raises(UserError, match=r"end like an image file: t\.nii"):
        RawDataset.open(801)


@pytest.mark.parametrize("reader", ["NoSuchIO", 5, None, "simpleitkio"])
def test_a_reader_that_nnunet_does_not_have_is_refused(folder, reader):
    change(folder, overwrite_image_reader_writer=reader)
    with pytest.raises(
        UserError, match=r"'overwrite_image_reader_writer' is .*; allowed is a reader of nnU-Net, .*SimpleITKIO"
    ):
        RawDataset.open(801).reader_writer_class  # noqa: B018


@pytest.mark.parametrize("reader", ["None", "SimpleITKIO"])
def test_a_reader_that_nnunet_has_is_taken(folder, reader):
    change(folder, overwrite_image_reader_writer=reader)
    assert RawDataset.open(801).reader_writer_class is SimpleITKIO


def test_an_ending_that_simpleitk_does_not_write_is_refused(folder):
    for file in folder.rglob("*.nii.gz"):
        file.rename(str(file).replace(".nii.gz", ".NII.GZ"))
    change(folder, file_ending=".NII.GZ")
    with pytest.raises(UserError, match=r"'file_ending' is '\.NII\.GZ'.* Rename the files to \.nii\.gz"):
        RawDataset.open(801).reader_writer_class  # noqa: B018


def test_labels_of_dataset_json_have_the_ending_of_the_data_set(folder):
    images = [f"imagesTr/lab_0_000{channel}.nii.gz" for channel in (0, 1)]
    write_image(phantom(0)[1], folder / "lab_0.nrrd")
    change(folder, dataset={"x": {"images": images, "label": "lab_0.nrrd"}})
    with pytest.raises(UserError, match=r"dataset\.x\.label is .*lab_0\.nrrd; 'file_ending' is \.nii\.gz"):
        RawDataset.open(801)


def test_images_in_sub_folders_are_said(folder):
    assert RawDataset.open(801).unread_files() == ""
    write_image(phantom(0)[0], folder / "imagesUn" / "patient 1" / "z_0000.nii.gz")
    (folder / "imagesUn" / "patient 1" / "._z_0000.nii.gz").write_text("")
    said = RawDataset.open(801).unread_files()
    assert "1 file(s) in sub-folders are not read: imagesUn/patient 1/z_0000.nii.gz. Move them up" in said
    for part in ("imagesTs", "masksUn"):
        write_image(phantom(0)[0], folder / part / "more" / "y.nii.gz")
    said = RawDataset.open(801).unread_files()
    assert "3 file(s)" in said and "imagesTs/more/y.nii.gz" in said and "masksUn/more/y.nii.gz" in said
