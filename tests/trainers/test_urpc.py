"""nnUNetTrainerURPC: which scales take part."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.errors import UserError
from nnunet_ssl.losses.pyramid import pyramid_consistency, upsampled
from tests.helpers.trainers import needs
from tests.helpers.training import copy_batch, make_trainer, started

NAME = "nnUNetTrainerURPC"


@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
def test_the_term_is_of_the_scales_with_a_labeled_loss(interpolation, datasets, tmp_path):
    out, dataset = datasets(**needs(NAME))
    trainer = started(make_trainer(NAME, out, dataset, results=tmp_path, interpolation=interpolation))
    batch = next(trainer.dataloader_train)
    with torch.no_grad():
        scales = trainer.network(batch["unlabeled"])
    assert len(scales) == 3 and trainer.scale_weights[2] == 0
    expected = pyramid_consistency(upsampled(scales[:2], interpolation), mask=batch["inside"]).item()
    assert trainer.train_step(copy_batch(batch))["consistency"] == pytest.approx(expected, rel=1e-4)


def test_one_scale_has_nothing_to_agree_with(datasets, tmp_path):
    trainer = make_trainer(NAME, *datasets(), results=tmp_path)
    with pytest.raises(UserError, match=r"it needs two, and has 1 in these plans \(scales = 4\)"):
        trainer.initialize()
