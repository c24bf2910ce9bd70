"""Tests of `nnunet_ssl.dataloading.label_counts`."""

from __future__ import annotations

import torch

from nnunet_ssl.dataloading.label_counts import count_annotated


class Cases:
    """Label maps as nnU-Net's dataset hands them over."""

    def __init__(self, **maps):
        self.maps = maps

    def load_case(self, case):
        return None, self.maps[case], None, {}


def test_annotated_voxels_are_counted_without_ignore_label_and_with_padding_as_background():
    first = torch.tensor([[[[0, 1, 3, 3]], [[-1, 2, 2, 3]]]], dtype=torch.int16).numpy()
    second = torch.tensor([[[[0, 0, 1, 3]]]], dtype=torch.int8).numpy()
    cases = Cases(a=first, b=second, other=first)
    assert count_annotated(cases, ["a", "b"], 3).tolist() == [4, 2, 2]
    assert count_annotated(cases, ["a", "b"], 3, padding=False).tolist() == [3, 2, 2]
