"""SemiSupervised with labels of two mirror images: the mean, and the trainer."""

from __future__ import annotations

import pytest
import torch

from benchmarks.trainers.mirrored import mean_with_mirror_image, mirrorings
from nnunet_ssl.predictions.probabilities import probabilities
from tests.helpers.trainers import next_batches, past_every_switch, run_steps
from tests.helpers.training import copy_batch, make_trainer, started


def test_all_ways_to_mirror():
    assert mirrorings((0, 1)) == [(2,), (3,), (2, 3)]
    assert len(mirrorings((0, 1, 2))) == 7
    assert mirrorings(None) == mirrorings(()) == []


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_mirror_image_is_turned_back_before_the_mean(activation):
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 2, 3, 6, 5, generator=generator)
    same = mean_with_mirror_image(torch.cat((one, one.flip(3))), (3,), activation)
    torch.testing.assert_close(same, probabilities(one, activation))
    mean = mean_with_mirror_image(torch.cat((one, other.flip((2, 3)))), (2, 3), activation)
    torch.testing.assert_close(mean, (probabilities(one, activation) + probabilities(other, activation)) / 2)


@pytest.mark.parametrize("regions", [False, True])
def test_the_labels_are_of_the_patch_and_its_mirror_image(regions, datasets, tmp_path, trainers_of_benchmarks):
    out, dataset = datasets(regions=regions)

    def step(name, batch=None, axes=None, iterations=0):
        trainer = make_trainer(name, out, dataset, results=tmp_path / f"{name}{axes}{iterations}", num_epochs=20)
        trainer.confidence = 0.3
        trainer = started(trainer)
        past_every_switch(trainer)
        trainer.iteration += iterations
        if axes is not None:
            trainer.inference_allowed_mirroring_axes = axes
        batch = batch or next_batches(trainer)[0]
        (values,) = run_steps(trainer, [copy_batch(batch)])
        return values, batch

    plain, batch = step("nnUNetTrainerSemiSupervised")
    name = "nnUNetTrainerSemiSupervisedMirrored"
    assert step(name, batch, axes=())[0] == plain
    first, second = (step(name, batch, axes=(0, 1), iterations=n)[0]["pseudo"] for n in (0, 1))
    assert len({float(value) for value in (plain["pseudo"], first, second)}) == 3 and min(first, second) > 0
