"""Learning rates of optimizers that a method makes."""

from __future__ import annotations

import pytest
import torch
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import StepLR

from tests.helpers.training import make_trainer, started

NAME = "nnUNetTrainerMeanTeacher"


def layer() -> torch.nn.Module:
    return torch.nn.Conv2d(1, 1, 1)


def with_modules(trainer, **optimizers):
    """The trainer with a module for each optimizer function."""

    def build():
        trainer.teacher = trainer.register_teacher(0.99)
        for name, optimizer in optimizers.items():
            trainer.register_module(name, layer(), optimizer=optimizer)

    trainer.build_method = build
    return trainer


OPTIMIZERS = {
    "constant": lambda p: (Adam(p, 1e-4), None),
    "steps": lambda p: (lambda o: (o, StepLR(o, step_size=2, gamma=0.1)))(SGD(p, 0.5)),
    "fast": lambda p: SGD(p, 0.1),
    "groups": lambda p: SGD([{"params": [x], "lr": lr} for x, lr in zip(p, (0.1, 0.01))], 1.0),
}


def rates(trainer) -> dict[str, list[float]]:
    return {m.name: [g["lr"] for g in m.optimizer.param_groups] for m in trainer.members if m.optimizer is not None}


def epoch(trainer) -> dict[str, list[float]]:
    """The rates that an epoch of one step is trained with."""
    trainer.on_train_epoch_start()
    found = rates(trainer)
    trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train))])
    trainer.current_epoch += 1
    return found


def test_a_schedule_of_its_own_is_followed_and_any_other_is_nnunets(datasets, tmp_path):
    trainer = with_modules(make_trainer(NAME, *datasets(), results=tmp_path, num_epochs=10), **OPTIMIZERS)
    started(trainer)
    found = [epoch(trainer) for _ in range(4)]
    poly = [(1 - e / 10) ** 0.9 for e in range(4)]
    assert [f["constant"] for f in found] == [[1e-4]] * 4
    assert [f["steps"][0] for f in found] == pytest.approx([0.5, 0.5, 0.05, 0.05])
    assert [f["fast"][0] for f in found] == pytest.approx([0.1 * factor for factor in poly])
    assert [f["groups"] for f in found] == [pytest.approx([0.1 * factor, 0.01 * factor]) for factor in poly]


def test_its_state_is_in_the_checkpoint(datasets, tmp_path):
    settings = {"results": tmp_path, "num_epochs": 10}
    trainer = started(with_modules(make_trainer(NAME, *datasets(), **settings), **OPTIMIZERS))
    for _ in range(3):
        epoch(trainer)
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    expected = [epoch(trainer) for _ in range(2)]
    other = with_modules(make_trainer(NAME, *datasets(), **settings), **OPTIMIZERS)
    other.initialize()
    other.load_checkpoint(str(tmp_path / "c.pth"))
    other.on_train_start()
    other.current_epoch = 3
    assert [epoch(other) for _ in range(2)] == expected
    assert expected[1]["steps"] == pytest.approx([0.005])
