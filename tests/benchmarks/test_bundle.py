"""The bundle: parts of a limited size, each with the list of all; releases that come back as they were."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from benchmarks.gpu import bundle, start
from nnunet_ssl.errors import UserError
from tests.helpers import acdc_release
from tests.helpers.raw_data import write_oriented


def test_parts_are_full_but_not_too_full():
    files = [(Path(str(size)), size) for size in (9, 5, 4, 2, 1)]
    groups = bundle.parts_of(files, 10)
    assert groups == [[Path("9"), Path("1")], [Path("5"), Path("4")], [Path("2")]]
    with pytest.raises(UserError, match="9 has"):
        bundle.parts_of(files, 8)


@pytest.mark.parametrize("name", ["torch", "nvidia-cublas-cu12", "triton", "cuda-bindings"])
def test_what_the_machine_has_is_not_carried(name):
    assert bundle.NOT_CARRIED.fullmatch(name) and not bundle.NOT_CARRIED.fullmatch("torchmetrics")


def test_wheels_data_and_spare_wheels_have_parts_of_their_own(tmp_path):
    files = [tmp_path / name for name in ("SimpleITK-2.5-cp312-x.whl", "scikit_learn-1.7-cp312-x.whl", "acdc_1.tar")]
    for file in files:
        file.write_bytes(b"0" * 100)
    parts = bundle.write_parts(tmp_path / "parts", files[:2], files[2:], limit=100)
    assert parts == {"wheels1": [files[0].name], "data1": [files[2].name], "spare1": [files[1].name]}
    for part, names in parts.items():
        folder = tmp_path / "parts" / part
        assert {file.name for file in folder.iterdir()} == {*names, "bundle.json"}
        assert json.loads((folder / "bundle.json").read_text()) == parts


def test_a_release_in_several_parts_is_unpacked_with_the_same_images(tmp_path, capsys):
    release = tmp_path / "acdc"
    with pytest.raises(UserError, match="has no files"):
        bundle.pack_release(release, tmp_path / "packed", limit=1)
    for patient in acdc_release.TRAIN[:2]:
        acdc_release.write_patient(release / "training", patient)
    image = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    write_oriented(image, release / "extra" / "lgemri.nrrd")
    (release / "train.list").write_text("a\n")
    tars = bundle.pack_release(release, tmp_path / "packed", limit=4 * 1024)
    assert [tar.name for tar in tars] == [f"acdc_{number}.tar" for number in range(1, len(tars) + 1)] and len(tars) > 1
    with tarfile.open(tars[0]) as tar:
        assert all(name.endswith(".tar.xz") for name in tar.getnames())
    parts = tmp_path / "parts"
    bundle.write_parts(parts, [], tars, limit=max(tar.stat().st_size for tar in tars))
    held_back = (parts / "data2").rename(tmp_path / "data2")
    start.unpack(parts, tmp_path / "data")
    assert "data of acdc. Carry data2." in capsys.readouterr().out and not (tmp_path / "data" / "acdc").exists()
    held_back.rename(parts / "data2")
    start.unpack(parts, tmp_path / "data")
    found = tmp_path / "data" / "acdc"
    assert {f.relative_to(found) for f in found.rglob("*.nii")} == {
        f.relative_to(release).with_suffix("") for f in release.rglob("*.nii.gz")
    }
    assert (found / "train.list").read_text() == "a\n"
    pairs = [(release / "extra/lgemri.nrrd", found / "extra/lgemri.nrrd")]
    pairs += [(f, found / f.relative_to(release).with_suffix("")) for f in release.rglob("*.nii.gz")]
    for old, new in (map(sitk.ReadImage, map(str, pair)) for pair in pairs):
        assert (sitk.GetArrayFromImage(old) == sitk.GetArrayFromImage(new)).all()
        assert old.GetPixelID() == new.GetPixelID() and old.GetSpacing() == pytest.approx(new.GetSpacing())
        assert old.GetOrigin() == pytest.approx(new.GetOrigin()) and old.GetDirection() == pytest.approx(
            new.GetDirection()
        )
