"""Folders, images and h5 files of a release: what is passed over, and what is refused by name."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ssl.dataset_conversion.reading import list_folder, read_h5, read_image, walk
from nnunet_ssl.errors import UserError
from tests.helpers.toy_release import write


def test_leftovers_of_unpacking_are_not_seen(tmp_path):
    for name in (
        "desktop.ini",
        ".DS_Store",
        "._a.nii.gz",
        "MANDATORY_CITATION.md",
        "__MACOSX/a.nii.gz",
        "b/._a",
        "b/a",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [path.name for path in list_folder(tmp_path)] == ["b"]
    assert [(root.name, files) for root, _, files in walk(tmp_path)] == [(tmp_path.name, []), ("b", ["a"])]


def test_a_missing_folder_a_file_and_an_empty_folder_are_named(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "desktop.ini").write_text("x")
    for name, message in (("nowhere", "found nothing"), ("file", "found a file"), ("empty", "is empty")):
        with pytest.raises(UserError, match=message) as error:
            list_folder(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("ending", ["nii.gz", "nii", "nrrd"])
def test_a_truncated_image_is_refused_by_name(tmp_path, ending):
    # random voxels: a compressed file of zeros could be cut without cutting voxels
    path = write(np.random.default_rng(0).integers(0, 9999, (9, 40, 40)).astype(np.int16), tmp_path / f"a.{ending}")
    assert sitk.GetArrayFromImage(read_image(path)).shape == (9, 40, 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="truncated or damaged") as error:
        read_image(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("ending", ["nii.gz", "nrrd"])
def test_a_damaged_compressed_image_is_refused(tmp_path, ending):
    path = write(np.random.default_rng(0).integers(0, 9999, (9, 40, 40)).astype(np.int16), tmp_path / f"a.{ending}")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="truncated or damaged"):
        read_image(path)


def test_a_missing_image_and_a_file_that_is_no_image_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_image(tmp_path / "a.nii.gz")
    for name in ("a.nii.gz", "a.nii", "a.nrrd"):
        (tmp_path / name).write_text("<html>404</html>")
        with pytest.raises(UserError, match="truncated or damaged"):
            read_image(tmp_path / name)


def test_h5_faults_name_the_file_the_key_and_the_keys_found(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=np.random.default_rng(0).random((9, 40, 40)), compression="gzip")
        file.create_group("mask")
    assert read_h5(path, ["image"])["image"].shape == (9, 40, 40)
    with pytest.raises(UserError, match=r"a.h5: key 'label' is missing; found image, mask"):
        read_h5(path, ["image", "label"])
    with pytest.raises(UserError, match="key 'mask' is a group"):
        read_h5(path, ["mask"])
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[-20000:-10000] = bytes(10000)
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"a.h5: key 'image' cannot be read"):
        read_h5(path, ["image"])
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a.h5 cannot be read, it is truncated or damaged"):
        read_h5(path, ["image"])
    with pytest.raises(UserError, match=r"b.h5 does not exist"):
        read_h5(tmp_path / "b.h5", ["image"])


@pytest.mark.parametrize("kind", ["<f2", ">f2", ">f4", ">i2", "<i8", "u1", "?"])
def test_h5_arrays_of_every_number_are_read_as_what_they_are(tmp_path, kind):
    values = (np.arange(24).reshape(2, 3, 4) % 2).astype(kind)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = values
    found = read_h5(tmp_path / "a.h5", ["image"])["image"]
    assert np.array_equal(found, values) and found.dtype.isnative
    assert np.array_equal(sitk.GetArrayFromImage(sitk.GetImageFromArray(found)), values)


def test_h5_arrays_that_are_no_images_are_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros((2, 2))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["text"] = "words"
        file["compound"] = np.zeros((2, 2), [("r", "u1"), ("g", "u1")])
        file["complex"] = np.zeros((2, 2), np.complex64)
        file["empty"] = np.zeros((0, 4, 4))
        file.create_dataset("huge", (10**5, 10**5, 10**5), "f4", chunks=(1, 1, 1))
        file["elsewhere"] = h5py.ExternalLink("other.h5", "x")
    wanted = {"text": "holds", "compound": "holds", "complex": "holds", "empty": "shape", "huge": "shape"}
    for key, words in {**wanted, "elsewhere": "another file"}.items():
        with pytest.raises(UserError, match=f"key '{key}' .*{words}"):
            read_h5(tmp_path / "a.h5", [key])


def test_links_that_lead_back_are_followed_once(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").touch()
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "self").symlink_to(tmp_path)
    assert [root.relative_to(tmp_path).as_posix() for root, _, _ in walk(tmp_path)] == [".", "a", "a/b"]
