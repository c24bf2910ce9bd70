"""data/geometry.py: every number of a header that a preprocessed case depends on changes the hash."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_ssl.data.geometry import geometry_hash


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
