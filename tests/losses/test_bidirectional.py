"""Labels of bidirectional mixes at one scale."""

from __future__ import annotations

import torch

from nnunet_ssl.losses.bidirectional import mixed_labels

FROM_LABELED = torch.tensor([[True, True, False, False]]).view(1, 1, 1, 4)
INSIDE = torch.tensor([[True, True, True, False]]).view(1, 1, 1, 4)


def test_labels_pseudo_labels_and_what_counts():
    target = torch.tensor([1.0, 3.0, 1.0, 1.0]).view(1, 1, 1, 4)  # 3: ignored
    pseudo = torch.tensor([2, 2, 2, 2]).view(1, 1, 1, 4)
    mixed = mixed_labels(target, pseudo, FROM_LABELED, INSIDE, ignore_label=3)
    assert mixed.labels.flatten().tolist() == [1, 0, 2, 2]
    assert mixed.labeled.flatten().tolist() == [True, False, False, False]
    assert mixed.pseudo.flatten().tolist() == [False, False, True, False]
    assert mixed.weights(0.5).flatten().tolist() == [1, 1, 0.5, 1]


def test_maps_are_resized_to_the_scale_of_the_target():
    target = torch.ones(1, 1, 1, 2)
    pseudo = torch.tensor([0, 0, 2, 2]).view(1, 1, 1, 4)
    mixed = mixed_labels(target, pseudo, FROM_LABELED, torch.ones_like(INSIDE))
    assert mixed.labels.flatten().tolist() == [1, 2]
    assert mixed.pseudo.flatten().tolist() == [False, True]


def test_regions_with_ignored_voxels_in_the_last_channel():
    target = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]).view(1, 3, 1, 4)
    pseudo = torch.ones(1, 2, 1, 4, dtype=torch.bool)
    mixed = mixed_labels(target, pseudo, FROM_LABELED, INSIDE, ignore_label=3, regions=True)
    assert mixed.labels[0, :, 0].tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert mixed.labeled.flatten().tolist() == [True, False, False, False]
