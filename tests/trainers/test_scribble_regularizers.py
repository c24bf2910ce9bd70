"""The trainers with nnU-Net's loss on sparse labels and one regularizer."""

from __future__ import annotations

import pytest
import torch

from nnunet_ssl.patches.slices import fold_slices
from nnunet_ssl.predictions.probabilities import probabilities
from tests.helpers.training import copy_batch, make_trainer, started

REGULARIZED = [f"nnUNetTrainerScribble{name}" for name in ("EntropyMin", "TV", "MumfordShah", "IntensityVariance")]


@pytest.mark.parametrize("name", REGULARIZED)
def test_the_term_is_the_regularizer_of_the_highest_resolution_inside_the_image(name, datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0)
    trainer = started(make_trainer(name, out, dataset, "3d_fullres", results=tmp_path))
    trainer.iteration = trainer.num_epochs * trainer.num_iterations_per_epoch
    assert trainer.weights() == {"regularizer": trainer.regularizer_weight}
    batch = next(trainer.dataloader_train)
    with torch.no_grad():
        p = probabilities(trainer.student(batch["data"])[0])
    seen = []
    compute = trainer.regularizer
    trainer.regularizer = lambda *tensors: seen.append(tensors) or compute(*tensors)
    values = trainer.train_step(copy_batch(batch))
    (found_p, images, inside), *_ = seen
    torch.testing.assert_close(found_p.detach(), p)
    assert torch.equal(inside, batch["labeled_inside"])
    assert values["regularizer"] == pytest.approx(float(compute(found_p.detach(), images, inside)), rel=1e-6)
    if name in REGULARIZED[2:]:
        assert images.min() >= 0 and images.max() <= 1

    trainer.slicewise = True
    trainer.train_step(copy_batch(batch))
    for tensor, folded in zip(
        (batch["labeled_inside"], batch["data"][:, :1]), (seen[1][2], seen[1][1][:, :1]), strict=True
    ):
        assert folded.shape == fold_slices(tensor).shape


def test_a_ramp_of_length_zero_is_a_constant_weight(datasets, tmp_path):
    out, dataset = datasets(ignore=True, unlabeled=0)
    constant = make_trainer("nnUNetTrainerScribbleEntropyMin", out, dataset, results=tmp_path)
    ramped = make_trainer("nnUNetTrainerScribbleMumfordShah", out, dataset, results=tmp_path)
    assert constant.weights() == {"regularizer": 0.1}
    assert ramped.weights()["regularizer"] == pytest.approx(0.1 * 0.006738, rel=1e-3)
