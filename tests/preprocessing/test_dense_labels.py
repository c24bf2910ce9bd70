"""Dense labels beside sparse ones: what is refused before they are preprocessed."""

from __future__ import annotations

import shutil

import pytest
import SimpleITK as sitk

from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.dense_labels import preprocess_dense
from tests.helpers.synthetic import make_dataset


@pytest.fixture
def sparse(tmp_path, monkeypatch):
    """A data set with dense labels beside sparse ones, preprocessed: (folder, name)."""
    name = make_dataset(tmp_path / "data", ignore=True, dense=True, configurations=("2d",))
    for folder in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{folder}", str(tmp_path / "data" / f"nnUNet_{folder}"))
    return tmp_path / "data", name


def preprocess(name: str) -> None:
    raw = RawDataset.open(name)
    preprocess_dense(
        raw, UnlabeledList.load(raw.folder / "unlabeled.json"), "nnUNetPlans", ["2d"], [1], show_progress=False
    )


def test_bad_dense_labels_are_refused(sparse):
    out, name = sparse
    folder = out / "nnUNet_raw" / name / "labelsTr_dense"
    file = folder / "case_01.nii.gz"
    good = sitk.ReadImage(str(file))
    sitk.WriteImage(good + 3, str(file))
    with pytest.raises(UserError, match=r"case_01.nii.gz: holds 3, 4.*; allowed in a dense label map are \[0, 1, 2\]"):
        preprocess(name)
    sitk.WriteImage(good[1:], str(file))
    with pytest.raises(UserError, match=r"case_01.nii.gz: shape .* but .*labelsTr"):
        preprocess(name)
    sitk.WriteImage(good, str(file))
    file.write_bytes(file.read_bytes()[:-200])  # SimpleITK would fill what is missing with background
    with pytest.raises(UserError, match=r"case_01.nii.gz .*truncated or damaged"):
        preprocess(name)
    sitk.WriteImage(good, str(folder / "other.nii.gz"))
    with pytest.raises(UserError, match="other, which are not in imagesTr"):
        RawDataset.open(name).dense_files()
    assert not (out / "nnUNet_preprocessed" / name / "gt_segmentations_dense").exists()


def test_an_interrupted_repeat_keeps_finished_references_and_changes_only_what_differs(sparse, monkeypatch):
    out, name = sparse
    dense, raw = out / "nnUNet_preprocessed" / name / "gt_segmentations_dense", out / "nnUNet_raw" / name
    preprocess(name)
    before = {file.name: (file.read_bytes(), file.stat().st_ino) for file in dense.iterdir()}
    changed = raw / "labelsTr_dense" / "case_01.nii.gz"
    sitk.WriteImage(sitk.ReadImage(str(changed)) * 0, str(changed))
    (raw / "labelsTr_dense" / "case_02.nii.gz").unlink()
    (dense / "mine.txt").touch()

    def killed(source, target, **_):
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        for function in ("copy", "copyfile"):
            patch.setattr(shutil, function, killed)
        with pytest.raises(KeyboardInterrupt):
            preprocess(name)
    assert {f.name: (f.read_bytes(), f.stat().st_ino) for f in dense.glob("*.nii.gz")} == before
    preprocess(name)
    assert {f.name for f in dense.iterdir()} == before.keys() - {"case_02.nii.gz"} | {"mine.txt"}
    assert (dense / changed.name).read_bytes() == changed.read_bytes()
    assert (dense / "case_00.nii.gz").stat().st_ino == before["case_00.nii.gz"][1]
