"""UPC's step put together by hand, and its options."""

from __future__ import annotations

import math

import pytest
import torch

from tests.helpers.training import make_trainer, started

UPC = "nnUNetTrainerUPC"


@pytest.mark.parametrize("noise_on_labeled", [True, False])
@pytest.mark.parametrize("selection", ["divergence", "threshold"])
def test_the_step_is_the_one_put_together_by_hand(datasets, tmp_path, monkeypatch, noise_on_labeled, selection):
    out, dataset = datasets()
    options = {"noise_on_labeled": noise_on_labeled, "selection": selection, "threshold": 0.4}
    trainer = started(make_trainer(UPC, out, dataset, results=tmp_path, **options))
    monkeypatch.setattr("nnunet_ssl.trainers.unlabeled.upc.add_clipped_noise", lambda images, std: images + std)
    batch = next(trainer.dataloader_train)
    (labeled, weak_labeled), (unlabeled, weak) = (batch[k].clone().chunk(2, dim=1) for k in ("data", "unlabeled"))
    with torch.no_grad():
        teacher = trainer.teacher(torch.cat((weak_labeled, weak)))[0]
        student = [
            torch.cat(scales)
            for scales in zip(
                trainer.student(labeled + 0.2 if noise_on_labeled else labeled), trainer.student(unlabeled + 0.2)
            )
        ]
        supervised = trainer.loss([scale[: len(labeled)] for scale in student], batch["target"])
    counted = torch.cat((torch.ones_like(labeled[:, :1], dtype=torch.bool), batch["inside"]))[:, 0]
    q, log_p = teacher.softmax(1), student[0].log_softmax(1)
    ce = -log_p.gather(1, q.argmax(1, keepdim=True))[:, 0]
    kl = (q * (q.log() - log_p)).sum(1)
    voxels = ce * (-kl).exp() + kl if selection == "divergence" else ce * (q.amax(1) >= 0.4)
    expected = voxels[counted].mean().item()
    found = trainer.train_step(batch)
    assert found["labeled"] == pytest.approx(supervised.item(), rel=1e-4)
    assert found["consistency"] == pytest.approx(expected, rel=1e-4)
    weight = 2 * math.exp(-5)
    assert found["loss"] == pytest.approx(supervised.item() + weight * expected, rel=1e-4)


@pytest.mark.parametrize("inference", ["student", "teacher"])
def test_the_chosen_network_is_stored(datasets, tmp_path, inference):
    out, dataset = datasets()
    trainer = started(make_trainer(UPC, out, dataset, results=tmp_path, inference=inference))
    assert trainer.inference_network() is getattr(trainer, inference)
