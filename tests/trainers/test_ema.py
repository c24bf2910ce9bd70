"""nnU-Net with the moving average of its weights stored."""

from __future__ import annotations

import torch

from tests.helpers.trainers import next_batches, run_steps
from tests.helpers.training import copy_batch, largest_difference, make_trainer, started, weights_of

NAME = "nnUNetTrainerEMA"


def test_the_student_is_nnunets_network_bit_for_bit_and_the_average_is_stored(datasets, tmp_path):
    out, dataset = datasets(unlabeled=0)
    trainer = started(make_trainer(NAME, out, dataset, results=tmp_path / "ours"))
    stock = make_trainer("nnUNetTrainer", out, dataset, results=tmp_path / "stock")
    stock.initialize()
    stock.network.load_state_dict(weights_of(trainer.network))
    stock.network.train()
    stock.lr_scheduler.step(0)
    batches = next_batches(trainer, 4)
    students = []
    for batch in batches:
        run_steps(trainer, [batch])
        stock.train_step(copy_batch({k: batch[k] for k in ("data", "target", "keys")}))
        students.append(weights_of(trainer.network))
    assert largest_difference(students[-1], weights_of(stock.network)) == 0
    file = tmp_path / "checkpoint.pth"
    trainer.save_checkpoint(str(file))
    stored = torch.load(file, weights_only=False)["network_weights"]
    for name, value in stored.items():  # four updates within the horizon: the plain mean
        assert torch.allclose(value, torch.stack([student[name] for student in students]).mean(0), atol=1e-6)


def test_no_unlabeled_patch_is_drawn(datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path))
    assert "unlabeled" not in next_batches(trainer)[0]
