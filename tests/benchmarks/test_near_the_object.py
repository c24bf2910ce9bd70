"""Dice near the object: what is far away in the plane counts no more, what is near does."""

import numpy as np
import pytest
import SimpleITK as sitk

from benchmarks.near_the_object import main, measure, near_the_object


def test_only_false_objects_beyond_the_margin_are_removed():
    reference = np.zeros((2, 30, 30), dtype=np.uint8)
    reference[0, 5:10, 5:10] = 1  # 25 voxels
    near = near_the_object(reference, 3)
    assert near[1, 2, 12] and near[0, 12, 2] and not near[0, 1, 5] and not near[0, 5, 13]
    prediction = reference.copy()
    prediction[0, 5, 5] = 0
    prediction[1, 12, 12] = 1  # within the margin, in another slice
    prediction[0, 20:25, 20] = 1
    (row,) = measure(prediction, reference, 3)
    assert row == pytest.approx([48 / (30 + 25), 48 / (25 + 25), 24 / 30, 24 / 25])


def write_label_map(file, label_map):
    file.parent.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(label_map.astype(np.uint8)), str(file))


def test_a_folder_of_predictions_is_a_row_of_percent(tmp_path, capsys):
    reference = np.zeros((2, 30, 30))
    reference[0, 5:10, 5:10] = 1
    prediction = reference.copy()
    prediction[0, 20:25, 20:25] = 1
    write_label_map(tmp_path / "labelsTr" / "a.nii.gz", reference)
    write_label_map(tmp_path / "validation" / "a.nii.gz", prediction)
    assert main([str(tmp_path / "labelsTr"), str(tmp_path / "validation"), "--margin", "3"]) == 0
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].strip("|").split("|")]
    assert cells[1:] == ["1", "66.7", "100.0", "50.0", "100.0"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", "truncated or damaged"),
        ("no reference", "does not exist"),
        ("another size", "shape (2, 9, 9)"),
        ("no foreground", "has no foreground"),
        ("no predictions", "holds no *.nii.gz"),
    ],
)
def test_what_cannot_be_measured_is_named(tmp_path, capsys, damage, message):
    reference, prediction = tmp_path / "labelsTr" / "a.nii.gz", tmp_path / "validation" / "a.nii.gz"
    label_map = np.random.default_rng(0).integers(0, 2, (2, 30, 30))
    write_label_map(reference, np.zeros((2, 30, 30)) if damage == "no foreground" else label_map)
    write_label_map(prediction, np.ones((2, 9, 9)) if damage == "another size" else label_map)
    if damage == "truncated":
        prediction.write_bytes(prediction.read_bytes()[:-20])
    elif damage == "no reference":
        reference.unlink()
    elif damage == "no predictions":
        prediction.unlink()
    assert main([str(reference.parent), str(prediction.parent)]) == 1
    printed = capsys.readouterr()
    assert message in printed.err and not printed.out
