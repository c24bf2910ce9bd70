"""Teachers, second networks and modules in a real run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import nnunet_ssl.engine.members
from nnunet_ssl.discovery.variants import trainer_classes
from tests.helpers.trainers import needs
from tests.helpers.training import largest_difference, make_trainer, started, weights_of

MEAN_TEACHER = "nnUNetTrainerMeanTeacher"


def start(out, dataset, tmp_path, **attributes):
    return started(make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path / "results", **attributes))


def test_frozen_members_pass_gradients_but_keep_their_parameters(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    head = trainer.register_module("head", torch.nn.Conv2d(1, 1, 1), optimizer=lambda p: torch.optim.SGD(p, 0.1))
    image = torch.ones(1, 1, 2, 2, requires_grad=True)
    with trainer.frozen(head):
        loss = head(image).sum()
    loss.backward()
    assert image.grad is not None
    assert all(p.grad is None and p.requires_grad for p in head.module.parameters())
    with pytest.raises(ValueError, match="registered already"):
        trainer.register_module("head", torch.nn.Conv2d(1, 1, 1))


def test_a_forward_without_gradient_does_not_take_the_next_ones_gradient(datasets, tmp_path):
    """Autocast keeps the weights it has cast; those cast without a gradient must not be used again."""
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    image = next(trainer.dataloader_train)["data"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = trainer.without_gradient(trainer.student, image)
        assert len(logits) > 1 and not any(scale.requires_grad for scale in logits)
        sum(scale.float().mean() for scale in trainer.student(image)).backward()
    assert all(p.grad is not None for p in trainer.network.parameters())


def test_own_optimizers_follow_nnunets_schedule(datasets, tmp_path):
    out, dataset = datasets()
    trainer = make_trainer("nnUNetTrainerTestTwoNetworks", out, dataset, results=tmp_path)
    started(trainer)
    for epoch in (0, 500, 999):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        expected = 1e-2 * (1 - epoch / 1000) ** 0.9
        rates = [g["lr"] for o in trainer.members.optimizers for g in o.param_groups]
        assert rates == pytest.approx([expected] * 3)  # student, head that shares its optimizer, second network


def test_pretrained_weights_reach_all_networks_and_heads_stay_different(datasets, tmp_path):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    out, dataset = datasets()
    donor = make_trainer("nnUNetTrainer", out, dataset, results=tmp_path / "donor")
    torch.manual_seed(99)
    donor.initialize()
    file = tmp_path / "donor.pth"
    torch.save({"network_weights": donor.network.state_dict()}, file)
    for name in (MEAN_TEACHER, "nnUNetTrainerTestTwoNetworks"):
        trainer = make_trainer(name, out, dataset, results=tmp_path / name)
        torch.manual_seed(0)
        trainer.initialize()
        load_pretrained_weights(trainer.network, str(file))
        trainer.on_train_start()
        student = weights_of(trainer.network)
        body = [k for k in student if ".seg_layers." not in k]
        assert all(torch.equal(student[k], donor.network.state_dict()[k]) for k in body)
        if name == MEAN_TEACHER:
            assert largest_difference(student, weights_of(trainer.teacher.module)) == 0
        else:
            second = weights_of(trainer.second.module)
            assert all(torch.equal(student[k], second[k]) for k in body)
            layers = [k for k in student if ".seg_layers." in k and k.endswith("weight")]
            assert layers and not any(torch.equal(student[k], second[k]) for k in layers)


def test_without_pretrained_weights_networks_stay_different(datasets, tmp_path):
    out, dataset = datasets()
    trainer = make_trainer("nnUNetTrainerTestTwoNetworks", out, dataset, results=tmp_path)
    started(trainer)
    assert largest_difference(weights_of(trainer.network), weights_of(trainer.second.module)) > 0.01


@pytest.mark.parametrize(
    "name",
    [
        MEAN_TEACHER,
        "nnUNetTrainerDyCON",
        "nnUNetTrainerTestTwoNetworks",
        "nnUNetTrainerTestSecondDecoding",
        "nnUNetTrainerScribbleDMPLS",
    ],
)
def test_compiled_networks_train_and_validate_like_plain_ones(name, datasets, tmp_path, monkeypatch):
    """With dynamo's eager backend: the graphs are traced as on a GPU, without a compiler and without its rounding."""
    out, dataset = datasets(**needs(name))
    compile_network = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compile_network(module, backend="eager"))
    results = []
    for compiled in (False, True):
        trainer = make_trainer(name, out, dataset, results=tmp_path / str(compiled))
        trainer._do_i_compile = lambda compiled=compiled: compiled
        started(trainer)
        torch.manual_seed(0)
        np.random.seed(0)
        steps = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(2)]
        trainer.on_validation_epoch_start()
        with torch.no_grad():
            validation = trainer.validation_step(next(trainer.dataloader_val))
        trainer.on_train_epoch_start()
        steps.append(trainer.train_step(next(trainer.dataloader_train)))
        results.append((steps, validation, weights_of(trainer.inference_network().module)))
    (plain_steps, plain_validation, plain), (steps, validation, weights) = results
    for a, b in zip(plain_steps, steps, strict=True):
        assert {k: float(v) for k, v in a.items()} == pytest.approx({k: float(v) for k, v in b.items()}, rel=1e-4)
    assert float(plain_validation["loss"]) == pytest.approx(float(validation["loss"]), rel=1e-4)
    assert largest_difference(plain, weights) < 1e-5


def test_a_teacher_without_warm_up_has_its_decay_from_the_first_update_on(datasets, tmp_path):
    out, dataset = datasets()
    trainer = make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path)
    trainer.build_method = lambda: setattr(trainer, "teacher", trainer.register_teacher(0.75, warmup=False))
    started(trainer)
    for decay in (0.75, 0.0):  # a method may change it; 0 copies
        trainer.teacher.decay = decay
        before = weights_of(trainer.teacher.module)
        trainer.train_step(next(trainer.dataloader_train))
        student = weights_of(trainer.network)
        expected = {k: decay * before[k] + (1 - decay) * student[k] for k in student}
        assert largest_difference(expected, weights_of(trainer.teacher.module)) < 1e-6
        assert trainer.teacher.current_decay == decay


def test_a_teacher_may_be_the_average_of_a_head(datasets, tmp_path):
    out, dataset = datasets()
    trainer = make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path)
    trainer.initialize()
    head = trainer.register_module("head", torch.nn.Conv2d(2, 3, 1))
    teacher = trainer.register_teacher(0.5, "head_teacher", head, warmup=False)
    features = torch.ones(1, 2, 4, 4)
    (output,) = teacher(features)
    assert torch.equal(output, head(features)) and not output.requires_grad
    before = weights_of(teacher.module)
    with torch.no_grad():
        head.module.bias += 1
    teacher.update()
    assert torch.allclose(teacher.module.bias, before["bias"] + 0.5)
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    members = torch.load(tmp_path / "checkpoint.pth", weights_only=False)["ssl_state"]["members"]
    assert largest_difference(members["head_teacher"], weights_of(teacher.module)) == 0


def test_two_teachers_are_updated_in_turn_and_a_skipped_update_does_not_count(datasets, tmp_path):
    class Alternating(trainer_classes()[MEAN_TEACHER]):
        def build_method(self):
            super().build_method()
            self.other = self.register_teacher(0.99, "other")

        def unlabeled_terms(self, logits, batch):
            self.teacher.updating = self.iteration % 2 == 0
            self.other.updating = not self.teacher.updating
            return super().unlabeled_terms(logits, batch)

    trainer = started(make_trainer(Alternating, *datasets(), results=tmp_path, consistency_weight=1.0))
    for step in range(4):
        before = [weights_of(t.module) for t in (trainer.teacher, trainer.other)]
        trainer.train_step(next(trainer.dataloader_train))
        moved = [largest_difference(b, weights_of(t.module)) for b, t in zip(before, (trainer.teacher, trainer.other))]
        assert [m > 0 for m in moved] == [step % 2 == 0, step % 2 == 1]
    assert trainer.teacher.updates == trainer.other.updates == 2


def test_the_tensors_of_a_teacher_are_looked_for_once(datasets, tmp_path, monkeypatch):
    trainer = start(*datasets(), tmp_path)
    looked = []
    original = nnunet_ssl.engine.members.PairedTensors
    monkeypatch.setattr(
        nnunet_ssl.engine.members, "PairedTensors", lambda *modules: looked.append(modules) or original(*modules)
    )
    for _ in range(3):
        trainer.train_step(next(trainer.dataloader_train))
    assert looked == [(trainer.teacher.module, trainer.network)]
