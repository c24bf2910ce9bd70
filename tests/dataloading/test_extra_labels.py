"""Tests of `nnunet_ssl.dataloading.extra_labels`."""

from __future__ import annotations

import numpy as np

from nnunet_ssl.dataloading.extra_labels import WithExtraLabels, labels_file


def test_a_case_has_its_extra_labels_as_soon_as_there_is_a_file(tmp_path):
    class Stock:
        identifiers = ["a"]

        def load_case(self, case):
            return "image", "segmentation", None, {"case": case}

    dataset = WithExtraLabels(Stock(), tmp_path)
    assert dataset.identifiers == ["a"] and dataset.load_case("a") == ("image", "segmentation", None, {"case": "a"})
    np.save(labels_file(tmp_path, "a"), np.ones((2, 3), np.int16))
    image, segmentation, extra, _ = dataset.load_case("a")
    assert (image, segmentation) == ("image", "segmentation") and extra.shape == (2, 3) and (extra == 1).all()
