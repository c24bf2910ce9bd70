"""Damaged files are named, with what is wrong, before SimpleITK fills them with zeros."""

from __future__ import annotations

import gzip
import hashlib

import nibabel
import numpy as np
import pytest
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_ssl.data.files import (
    check_file,
    damaged_file,
    explain_reading_error,
    file_hash,
    stream_damage,
    wrong_number_of_channels,
)
from nnunet_ssl.errors import UserError
from tests.helpers.raw_data import write_image


def test_the_hash_is_sha256_of_the_bytes(tmp_path):
    content = b"x" * (1 << 21) + b"end"
    (tmp_path / "a").write_bytes(content)
    assert file_hash(tmp_path / "a") == hashlib.sha256(content).hexdigest()


@pytest.fixture
def image() -> np.ndarray:
    # random voxels: a compressed file of zeros could be cut without cutting voxels
    return np.random.default_rng(0).integers(0, 9999, (9, 40, 40)).astype(np.int16)


def cut(file) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_byte(file) -> None:
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    file.write_bytes(damaged)


@pytest.mark.parametrize("damage", [cut, flip_a_byte])
def test_a_damaged_stream_is_noticed_by_its_checksum(tmp_path, image, damage):
    file = tmp_path / "a_0000.nii.gz"
    write_image(image, file)
    assert stream_damage(file) is None and damaged_file("a", [str(file)]) is None
    check_file(file)
    damage(file)
    assert stream_damage(file)
    assert f"case a: {file} ({file.stat().st_size} bytes) cannot be read" in damaged_file("a", [str(file)])
    with pytest.raises(UserError, match="truncated or damaged"):
        check_file(file)


def test_only_compressed_files_have_a_stream(tmp_path, image):
    file = tmp_path / "a_0000.nii"
    write_image(image, file)
    cut(file)
    assert stream_damage(file) is None
    with pytest.raises(UserError, match=r"truncated: \d+ bytes found, \d+ announced by the header"):
        check_file(file)


def test_a_sound_stream_with_too_few_voxels_is_noticed_by_the_header(tmp_path, image):
    file = tmp_path / "a.nii.gz"
    write_image(image, file)
    whole = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(whole[: len(whole) // 2]))
    assert stream_damage(file) is None
    with pytest.raises(UserError, match="announced by the header"):
        check_file(file)


def test_a_file_that_is_no_image_is_explained_by_name(tmp_path, image):
    sound, broken = tmp_path / "a_0000.nii", tmp_path / "a_0001.nii"
    write_image(image, sound)
    broken.write_text("<html>404</html>")
    problem = explain_reading_error("a", [str(sound), str(broken)], SimpleITKIO)
    assert str(broken) in problem and str(sound) not in problem
    with pytest.raises(UserError, match="truncated or damaged"):
        check_file(broken)


def test_channels_that_do_not_fit_together_are_told_from_damaged_ones(tmp_path, image):
    files = [tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"]
    write_image(image, files[0])
    write_image(image[:5], files[1])
    problem = explain_reading_error("a", list(map(str, files)), SimpleITKIO)
    assert "case a: its channels a_0000.nii.gz, a_0001.nii.gz do not fit together" in problem
    write_image(image, files[1])
    assert explain_reading_error("a", list(map(str, files)), SimpleITKIO) is None


def test_a_wrong_number_of_channels_names_files_and_numbers():
    text = wrong_number_of_channels("a", ["a_0000.png"], 3, 1)
    assert text.startswith("case a: a_0000.png hold 3 channel(s); dataset.json names 1.")


def test_what_is_compressed_twice_or_not_at_all_is_not_called_damaged(tmp_path, image):
    file = tmp_path / "a_0000.nii.gz"
    write_image(image, file)
    sound = file.read_bytes()
    file.write_bytes(gzip.decompress(sound))
    assert "is not compressed, though its name ends in .gz. Compress it with gzip." in damaged_file("a", [str(file)])
    file.write_bytes(gzip.compress(sound))
    assert "was compressed twice. Unpack it once" in damaged_file("a", [str(file)])
    second = nibabel.Nifti2Image(image, np.eye(4))
    nibabel.save(second, tmp_path / "b.nii")
    file.write_bytes((tmp_path / "b.nii").read_bytes())
    assert "is not compressed" in damaged_file("a", [str(file)])


@pytest.mark.parametrize(
    ("ending", "line", "other"),
    [
        (".mha", b"ElementSpacing = 1 1 1", b"ElementSpacing = 0 1 1"),
        (".nrrd", b"(1,0,0)", b"(0,0,0)"),
    ],
)
def test_a_spacing_of_zero_is_not_called_damage(tmp_path, image, ending, line, other):
    file = tmp_path / f"a_0000{ending}"
    write_image(image, file)
    content = file.read_bytes()
    assert line in content
    file.write_bytes(content.replace(line, other, 1))
    problem = explain_reading_error("a", [str(file)], SimpleITKIO)
    assert "spacing in its header that is not possible" in problem and "Allowed are positive numbers in mm" in problem


def test_a_reader_for_other_files_is_not_called_damage(tmp_path, image):
    file = tmp_path / "a_0000.nii.gz"
    write_image(image, file)
    problem = explain_reading_error("a", [str(file)], Tiff3DIO)
    assert "not supported by Tiff3DIO" in problem and "Correct 'overwrite_image_reader_writer'" in problem
