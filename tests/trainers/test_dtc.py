"""DTC's step, put together by hand."""

from __future__ import annotations

import math

import pytest
import torch

from nnunet_ssl.patches.distance_maps import signed_distance_map
from tests.helpers.training import make_trainer, started


def test_the_step_is_the_one_put_together_by_hand(datasets, tmp_path):
    out, dataset = datasets()
    trainer = started(make_trainer("nnUNetTrainerDTC", out, dataset, results=tmp_path, unlabeled_batch_size=3))
    batch = next(trainer.dataloader_train)
    batch["inside"][0, :, :, :5] = False
    features = []
    layer = trainer.student.module.decoder.seg_layers[-1]
    handle = layer.register_forward_hook(lambda _, inputs, __: features.append(inputs[0]))
    with torch.no_grad():
        scales = trainer.student(torch.cat((batch["data"], batch["unlabeled"])))
        z = trainer.level_set.module[0](features[0]).tanh()
        supervised = trainer.loss([scale[:2] for scale in scales], batch["target"])
    handle.remove()
    target = batch["target"][0][:, 0]
    errors = []
    for i, of_sample in enumerate(target):
        for k in (1, 2):
            mask = (of_sample == k).numpy()
            if mask.any() and not mask.all():
                error = (z[i, k - 1] - torch.from_numpy(signed_distance_map(mask))) ** 2
                errors.append(error)
    sdf = torch.stack(errors).mean().item()
    differences = ((-1500 * z).sigmoid() - scales[0].softmax(1)[:, 1:]) ** 2
    counted = torch.cat((torch.ones_like(target, dtype=torch.bool), batch["inside"][:, 0]))
    consistency = differences.movedim(1, -1)[counted].mean().item()
    found = trainer.train_step(batch)
    assert found["labeled"] == pytest.approx(supervised.item(), rel=1e-4)
    assert found["sdf"] == pytest.approx(sdf, rel=1e-4)
    assert found["consistency"] == pytest.approx(consistency, rel=1e-3)
    assert found["loss"] == pytest.approx(supervised.item() + 0.3 * sdf + math.exp(-5) * consistency, rel=1e-4)
