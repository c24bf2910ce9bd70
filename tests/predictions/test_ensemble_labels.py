"""Tests of `nnunet_ssl.predictions.ensemble_labels`."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.losses.cross_pseudo import filtered_cross_entropy
from nnunet_ssl.predictions.ensemble_labels import (
    MAX_REGIONS,
    NONE,
    confident_labels,
    pack_regions,
    unpack_regions,
    update_ensemble,
)


def test_the_ensemble_moves_by_its_share_and_needs_eight_updates_from_zero():
    ensemble, prediction = torch.zeros(1, 2, 1, 1), torch.ones(1, 2, 1, 1).half()
    values = []
    for _ in range(8):
        ensemble = update_ensemble(ensemble, prediction, 0.2)
        values.append(ensemble[0, 0].item())
    assert ensemble.dtype == torch.float32
    assert values == pytest.approx([1 - 0.8**k for k in range(1, 9)], rel=1e-6)
    assert values[6] < 0.8 < values[7]
    with pytest.raises(ValueError, match="alpha"):
        update_ensemble(ensemble, prediction, 1.5)
    with pytest.raises(ValueError, match="one shape"):
        update_ensemble(ensemble, prediction[0], 0.5)


def test_confident_labels_by_hand():
    w = torch.tensor([[0.9, 0.05, 0.05], [0.1, 0.1, 0.8], [0.05, 0.85, 0.1], [0.01, 0.98, 0.01], [0.0, 0.19, 0.81]])
    ensemble = w.T.reshape(1, 3, 1, 5)
    free = torch.tensor([True, True, True, False, True]).view(1, 1, 1, 5)
    assert confident_labels(ensemble, free, 0.8, 7).flatten().tolist() == [0, 7, 1, 7, 2]  # 0.8 is not above 0.8
    both = torch.tensor([0.45, 0.2, 0.35]).view(1, 3, 1, 1)
    assert (
        confident_labels(both, torch.ones(1, 1, 1, 1, dtype=torch.bool), 0.3, NONE).item() == 2
    )  # the last, as official
    region = torch.tensor([[0.9, 0.5, 0.1, 0.95, 0.2], [0.1, 0.1, 0.85, 0.1, 0.79]]).view(1, 2, 1, 5)
    found = confident_labels(region, free, 0.8, NONE, "sigmoid")
    assert found[0, :, 0].tolist() == [[1, -1, 0, -1, -1], [0, 0, 1, -1, -1]]


def test_regions_travel_in_one_map():
    digits = torch.cartesian_prod(*[torch.tensor([-1, 0, 1])] * 3)  # every combination of three regions
    labels = digits.T.reshape(1, 3, 27, 1)
    packed = pack_regions(labels)
    assert packed.shape == (1, 1, 27, 1) and packed.unique().numel() == 27 and packed.min() == 0
    assert torch.equal(unpack_regions(packed.to(torch.int16), 3), labels)
    assert torch.equal(
        unpack_regions(torch.full((1, 1, 2, 2), NONE, dtype=torch.int16), 3), torch.full((1, 3, 2, 2), NONE)
    )
    largest = [pack_regions(torch.ones(1, MAX_REGIONS + more, 1, 1, dtype=torch.long)).item() for more in (0, 1)]
    assert largest[0] <= torch.iinfo(torch.int16).max < largest[1]


def test_what_does_not_fit_is_refused():
    ensemble = torch.rand(1, 3, 4, 4)
    with pytest.raises(ValueError, match="bool with one channel"):
        confident_labels(ensemble, torch.ones(1, 3, 4, 4, dtype=torch.bool), 0.8, NONE)
    with pytest.raises(ValueError, match="activation"):
        confident_labels(ensemble, torch.ones(1, 1, 4, 4, dtype=torch.bool), 0.8, NONE, "tanh")
    with pytest.raises(ValueError, match="do not fit"):
        filtered_cross_entropy(ensemble, torch.zeros(1, 3, 4, 4), NONE)
    with pytest.raises(ValueError, match="activation"):
        filtered_cross_entropy(ensemble, torch.zeros(1, 1, 4, 4), NONE, "tanh")
