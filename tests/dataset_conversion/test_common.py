"""What a converter says about its data set."""

from __future__ import annotations

import pytest

from nnunet_ssl.dataset_conversion.common import DatasetDescription


def test_an_ignore_label_without_codes_of_masks_is_a_mistake_of_the_converter():
    with pytest.raises(ValueError, match="sparse labels need both"):
        DatasetDescription(1, "A", {"0": "MR"}, {"background": 0, "ignore": 1}, ({0: 0, 1: 1},))


def test_the_folder_has_nnunets_name_and_labels_without_ignore_are_dense():
    dense = DatasetDescription(27, "A", {"0": "MR"}, {"background": 0, "organ": 1}, ({0: 0, 1: 1},))
    assert (dense.folder_name, dense.ignore_label) == ("Dataset027_A", None)
