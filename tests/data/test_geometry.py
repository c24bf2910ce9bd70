"""data/geometry.py: every number of a header that a preprocessed case depends on changes the hash."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_ssl.data.geometry import geometry_hash, orientation, read_grid


def test_spacing_origin_direction_of_every_channel_and_not_the_voxels(tmp_path):
    files = [tmp_path / f"a_000{channel}.nii.gz" for channel in range(2)]

    def hash_of(values=0.0, channel=1, **geometry) -> str:
        for number, file in enumerate(files):
            image = sitk.GetImageFromArray(np.full((3, 4, 5), values, np.float32))
            image.SetSpacing((1.0, 2.0, 3.0))
            for name, value in geometry.items() if number == channel else ():
                getattr(image, f"Set{name}")(value)
            sitk.WriteImage(image, str(file))
        return geometry_hash(files, SimpleITKIO)

    plain = hash_of()
    assert plain == hash_of(values=7.0) and len(plain) == 16
    flipped = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    others = [{"Spacing": (1.0, 2.0, 3.5)}, {"Origin": (0.0, 0.0, 9.0)}, {"Direction": flipped}]
    hashes = [hash_of(channel=channel, **other) for channel in range(2) for other in others]
    assert len({plain, *hashes}) == 7


def test_other_readers(tmp_path):
    tif = tmp_path / "a_0000.tif"
    tif.touch()
    without = geometry_hash([tif], Tiff3DIO)
    (tmp_path / "a.json").write_text(json.dumps({"spacing": [1, 1, 2]}))
    assert geometry_hash([tif], Tiff3DIO) != without
    hashes = set()
    for step in (1, 2):
        file = tmp_path / "a_0000.nii.gz"
        nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5)), np.diag([step, 1, 1, 1])), file)
        hashes.add(geometry_hash([file], NibabelIO))
    assert len(hashes) == 2
    assert geometry_hash([tmp_path / "a_0000.png"], NaturalImage2DIO) == ""


@pytest.mark.parametrize("axes", [((0, -1), (1, 1), (2, 1)), ((1, 1), (0, -1), (2, 1)), ((2, -1), (0, 1), (1, -1))])
def test_the_reader_that_turns_images_turns_their_grids(tmp_path, axes):
    """One image stored with other axes: nnU-Net's reader gives equal arrays, so that the grids are equal too."""
    affine = np.array([[0.8, 0, 0, -12.0], [0, 0, 2.5, 3.0], [0, -1.1, 0, 40.0], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.float32).reshape(3, 4, 5), affine)
    turned = image.as_reoriented(np.array(axes))
    files = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]
    for content, file in zip((image, turned), files):
        nibabel.save(content, file)
    arrays = [NibabelIOWithReorient().read_images([str(file)])[0] for file in files]
    assert np.array_equal(*arrays)
    one, other = (read_grid(file, NibabelIOWithReorient) for file in files)
    assert one.difference(other) is None and one.shape == arrays[0].shape[:0:-1]
    assert orientation(files[0], NibabelIOWithReorient) == "RAS"
    assert read_grid(files[0], NibabelIO).difference(read_grid(files[1], NibabelIO)) is not None
    moved = tmp_path / "c.nii.gz"
    elsewhere = turned.affine.copy()
    elsewhere[0, 3] += 5
    nibabel.save(nibabel.Nifti1Image(np.asarray(turned.dataobj), elsewhere), moved)
    assert one.difference(read_grid(moved, NibabelIOWithReorient)).startswith("origin")
