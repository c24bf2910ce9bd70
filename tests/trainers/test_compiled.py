"""Every trainer with compiled networks, which nnU-Net makes on GPUs: the steps are those of plain networks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch._inductor import config as inductor

from tests.helpers.trainers import CLASSES, copy_batch, draw_unlabeled, needs, past_every_switch_and_update
from tests.helpers.training import largest_difference, make_trainer, seed_everything, started, weights_of

pytestmark = pytest.mark.long


@pytest.fixture
def compiler(request, monkeypatch) -> Iterator[None]:
    """aot_eager traces forward and backward pass as on a GPU; inductor compiles them, with PyTorch's random numbers."""
    compile_network = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compile_network(module, backend=request.param))
    torch._dynamo.reset()
    with inductor.patch(fallback_random=True):
        yield


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"], indirect=True)
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("name", CLASSES)
def test_steps_of_compiled_networks_are_those_of_plain_ones(name, configuration, compiler, datasets, tmp_path):
    out, dataset = datasets(**needs(name))
    found = []
    for compiled in (False, True):
        trainer = make_trainer(name, out, dataset, configuration, results=tmp_path / str(compiled), num_epochs=4)
        trainer._do_i_compile = lambda compiled=compiled: compiled
        started(trainer)
        losses = []
        for switch in (draw_unlabeled, past_every_switch_and_update):  # other sizes of batches, other terms
            switch(trainer)
            seed_everything()
            batches = [next(trainer.dataloader_train) for _ in range(2)]
            losses += [float(trainer.train_step(copy_batch(batch))["loss"]) for batch in batches]
        found.append((losses, weights_of(trainer.inference_network().module)))
    (plain, weights), (losses, others) = found
    assert np.isfinite(plain).all() and losses == pytest.approx(plain, rel=1e-2, abs=1e-3)
    assert largest_difference(weights, others) < 1e-2
