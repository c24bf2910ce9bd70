"""Shares of the terms' gradients: by hand, through a step, and without a trace in the training."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.primus import Primus
from torch import nn

import nnunet_ssl.engine.optimization
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.gradient_shares import (
    GradientShares,
    described,
    gradients,
    last_decoder_stage,
    measured_parameters,
    segmentation_layers,
    shares,
)
from nnunet_ssl.trainer import nnUNetTrainerSSL
from tests.helpers.trainers import next_batches, past_every_switch, run_steps
from tests.helpers.training import copy_batch, largest_difference, make_trainer, started, weights_of

NAME = "nnUNetTrainerMeanTeacher"


def test_gradients_and_shares_by_hand():
    p, q = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([3.0]))
    terms = [(3 * p).sum() + 4 * q.sum(), p.sum() * 0.5, torch.tensor(1.0)]
    found, reached = gradients(terms, [p, q])
    assert found.tolist() == [[3, 3, 4], [0.5, 0.5, 0], [0, 0, 0]] and reached == [True, True, True]
    expected = [1, math.sqrt(0.5 / 34), 0]
    assert shares(found, [True, False, False]).tolist() == pytest.approx(expected)
    # two labeled terms: of their sum; none: of the sum of all
    assert shares(found, [True, True, False])[0].item() == pytest.approx(math.sqrt(34 / (2 * 3.5**2 + 16)))
    assert shares(found, [False] * 3)[1].item() == pytest.approx(math.sqrt(0.5 / (2 * 3.5**2 + 16)))
    assert gradients([(nn.Parameter(torch.ones(1)) ** 2).sum()], [p])[1] == [False]  # of other parameters


def test_the_last_layers_of_networks_are_found():
    unet = nn.Module()
    unet.decoder = nn.Module()
    unet.decoder.seg_layers = nn.ModuleList([nn.Conv2d(4, 3, 1), nn.Conv2d(8, 3, 1)])
    assert segmentation_layers(unet, 3) == list(unet.decoder.seg_layers)
    plain = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 1), nn.InstanceNorm2d(3, affine=True), nn.ReLU())
    assert segmentation_layers(plain, 3) == [plain[1]]
    assert segmentation_layers(nn.Sequential(nn.Linear(2, 5), nn.ReLU()), 3)[0].out_features == 5


def test_the_last_layer_of_primus_is_what_turns_tokens_into_logits():
    primus = Primus(1, 12, (4, 4, 4), 3, eva_depth=1, eva_numheads=1, input_shape=(8, 8, 8))
    (layer,) = segmentation_layers(primus, 3)
    assert isinstance(layer, nn.ConvTranspose3d) and layer.out_channels == 3
    image = torch.randn(1, 1, 8, 8, 8)
    assert gradients([primus(image).square().mean()], list(layer.parameters()))[1] == [True]


@pytest.mark.parametrize("residual", [False, True])
def test_all_trained_networks_are_measured_and_nothing_else(residual, datasets, tmp_path):
    out, dataset = datasets(residual=residual)
    trainer = make_trainer("nnUNetTrainerTestTwoNetworks", out, dataset, results=tmp_path)
    trainer.initialize()
    trainer.register_teacher(0.9)
    members = trainer.student, *trainer.members
    found = measured_parameters(members, lambda network: segmentation_layers(network, 3))
    expected = [p for m in (trainer.student, trainer.second) for p in m.module.decoder.seg_layers.parameters()]
    assert {id(p) for p in found} == {id(p) for p in expected} and len(found) == len(expected) == 8
    of_stages = measured_parameters(members, last_decoder_stage)
    expected = [p for m in (trainer.student, trainer.second) for p in m.module.decoder.stages[-1].parameters()]
    assert {id(p) for p in of_stages} == {id(p) for p in expected} and expected
    assert last_decoder_stage(nn.Conv2d(1, 1, 1)) == []


def last_step(trainer) -> dict[str, float]:
    """The shares of one seeded step on the trainer's next patches."""
    torch.manual_seed(0)
    np.random.seed(0)
    run_steps(trainer, next_batches(trainer))
    return trainer.gradient_shares


def test_a_gradient_scaler_and_half_precision_give_the_same_shares(datasets, tmp_path):
    out, dataset = datasets()
    found = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**16)):
        trainer = make_trainer(NAME, out, dataset, results=tmp_path, num_iterations_per_epoch=1, noise_std=1.0)
        started(trainer)
        past_every_switch(trainer)
        if scaler is not None:
            trainer.grad_scaler = scaler
            trainer.autocast = lambda: torch.autocast("cpu", dtype=torch.float16)
        found.append(last_step(trainer))
    assert found[0].keys() == found[1].keys() == {"gradient_share/consistency"}
    assert found[1] == pytest.approx(found[0], rel=0.05)


@pytest.fixture
def traced(monkeypatch):
    """Compilation with AOTAutograd, as on a GPU: a compiled network is one node of the graph, and its memory is used again."""
    compile_network, config = torch.compile, torch._functorch.config
    monkeypatch.setattr(torch, "compile", lambda module: compile_network(module, backend="aot_eager"))
    with config.patch(donated_buffer=True) if hasattr(config, "donated_buffer") else contextlib.nullcontext():
        yield


def test_compiled_networks_give_the_same_shares(datasets, tmp_path, traced):
    out, dataset = datasets()
    found = []
    for compiled in (False, True):
        trainer = make_trainer(
            "nnUNetTrainerTestTwoNetworks", out, dataset, results=tmp_path, num_iterations_per_epoch=2
        )
        trainer._do_i_compile = lambda compiled=compiled: compiled
        started(trainer)
        assert last_step(trainer) == {}
        found.append((last_step(trainer), weights_of(trainer.student.module)))
    (plain, weights), (shared, other_weights) = found
    assert plain.keys() == shared.keys() == {"gradient_share/agree", "gradient_share/agree_second"}
    assert shared == pytest.approx(plain, rel=1e-3) and min(plain.values()) > 0
    assert largest_difference(weights, other_weights) < 1e-4


def test_one_loss_of_labeled_and_unlabeled_patches_is_measured_against_itself(datasets, tmp_path):
    out, dataset = datasets()
    trainer = started(make_trainer(NAME, out, dataset, results=tmp_path, num_iterations_per_epoch=1))
    past_every_switch(trainer)
    terms = trainer.terms

    def joint(batch):
        found = terms(batch)
        return {"joint": 2 * found["labeled"] + 0 * found["consistency"], "half": found["labeled"]}

    trainer.terms, trainer.weights = joint, lambda: {"joint": 1.0, "half": 2.0}
    trainer.replaces_labeled_loss = True
    assert last_step(trainer) == pytest.approx({f"gradient_share_of_whole/{name}": 0.5 for name in ("joint", "half")})
    assert described(trainer.gradient_shares) == "gradient shares of the whole loss: joint 50.00%, half 50.00%"


def test_a_step_of_labeled_terms_only_has_no_shares(datasets, tmp_path):
    out, dataset = datasets()
    trainer = started(
        make_trainer(NAME, out, dataset, results=tmp_path, num_iterations_per_epoch=1, consistency_weight=0.0)
    )
    past_every_switch(trainer)
    assert last_step(trainer) == {}


def test_shares_are_those_of_single_backward_passes(datasets, tmp_path):
    trainer = started(
        make_trainer(NAME, *datasets(), results=tmp_path, num_epochs=100, num_iterations_per_epoch=4, noise_std=0.5)
    )
    past_every_switch(trainer)
    trainer.iteration += 2  # so that the next one is the last but one of an epoch
    run_steps(trainer, next_batches(trainer, 1))
    assert trainer.gradient_shares == {}
    (batch,) = next_batches(trainer)
    before, of_teacher = weights_of(trainer.network), weights_of(trainer.teacher.module)
    layers = list(trainer.network.decoder.seg_layers.parameters())
    torch.manual_seed(5)
    run_steps(trainer, [copy_batch(batch)])
    (found,) = trainer.gradient_shares.values()

    # the same step again, one term after the other
    trainer.network.load_state_dict(before)
    trainer.teacher.module.load_state_dict(of_teacher)
    trainer.iteration -= 1
    weight = trainer.weights()["consistency"]
    moved = nnunet_ssl.engine.batch.SSLBatch.from_loader(copy_batch(batch), trainer.view_names, trainer.device)
    torch.manual_seed(5)
    terms = trainer.terms(moved)
    norms = []
    for name, factor in (("labeled", 1.0), ("consistency", weight)):
        grads = torch.autograd.grad(factor * terms[name], layers, retain_graph=True, allow_unused=True)
        norms.append(math.sqrt(sum(g.square().sum().item() for g in grads if g is not None)))
    assert list(trainer.gradient_shares) == ["gradient_share/consistency"]
    assert found == pytest.approx(norms[1] / norms[0], rel=1e-4) and found > 0


@pytest.mark.parametrize("compiled", [False, True])
def test_terms_of_a_further_head_are_measured_at_the_last_decoder_stage(compiled, datasets, tmp_path, traced):
    trainer = make_trainer("nnUNetTrainerSASSNet", *datasets(), results=tmp_path, num_iterations_per_epoch=1)
    trainer._do_i_compile = lambda: compiled
    started(trainer)
    past_every_switch(trainer)
    weights = trainer.weights()
    stage = list(trainer.network.decoder.stages[-1].parameters()) if not compiled else None
    norms, step_terms = {}, trainer.terms

    def measured(batch):
        terms = step_terms(batch)
        for name in ("labeled", "sdf", "adversarial") if stage else ():
            grads = torch.autograd.grad(terms[name], stage, retain_graph=True)
            norms[name] = weights.get(name, 1.0) * math.sqrt(sum(g.square().sum().item() for g in grads))
        return terms

    trainer.terms = measured
    found = last_step(trainer)
    shown = {f"gradient_share/{name}" for name in ("sdf", "adversarial")}
    assert found.keys() == shown and min(found.values()) > 0  # the discriminator's own loss reaches neither
    if stage:
        expected = {f"gradient_share/{name}": norms[name] / norms["labeled"] for name in ("sdf", "adversarial")}
        assert found == pytest.approx(expected, rel=1e-3)


def test_a_group_without_labeled_terms_gives_no_share_at_the_decoder_stage(datasets, tmp_path):
    """There is nothing there to take a share of; a share of itself would be 100 %."""
    trainer = started(make_trainer("nnUNetTrainerSASSNet", *datasets(), results=tmp_path))
    past_every_switch(trainer)
    (batch,) = next_batches(trainer)
    terms = trainer.terms(SSLBatch.from_loader(batch, trainer.view_names, trainer.device))
    measured = GradientShares(trainer, {"labeled": 1.0, **trainer.weights()})
    measured.add({"labeled": terms["labeled"]})
    measured.add({"sdf": terms["sdf"]})
    assert measured.found() == {}
    measured.add({"labeled": terms["labeled"], "adversarial": terms["adversarial"]})
    assert measured.found().keys() == {"gradient_share/adversarial"}


def test_the_measurement_leaves_no_trace_in_the_training(datasets, tmp_path, monkeypatch):
    results = []
    for measured in (True, False):
        out, dataset = datasets()
        trainer = started(make_trainer(NAME, out, dataset, results=tmp_path, num_iterations_per_epoch=1))
        if not measured:
            monkeypatch.setattr(nnunet_ssl.engine.optimization, "ends_an_epoch", lambda _: False)
        past_every_switch(trainer)
        outputs = run_steps(trainer, next_batches(trainer, 3))
        results.append((outputs, weights_of(trainer.network), weights_of(trainer.teacher.module)))
        assert bool(trainer.gradient_shares) == measured
    (with_it, student, teacher), (without, other_student, other_teacher) = results
    assert with_it == without
    assert largest_difference(student, other_student) == largest_difference(teacher, other_teacher) == 0


def test_the_log_and_the_curves_have_them(datasets, tmp_path):
    assert described({"gradient_share/consistency": 0.008, "term/x": 1.0}) == "gradient shares: consistency 0.80%"
    assert described({"term/x": 1.0}) == ""
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path, num_iterations_per_epoch=1))
    past_every_switch(trainer)
    trainer.on_train_epoch_end(run_steps(trainer, next_batches(trainer)))
    assert trainer.curves.values["gradient_share/consistency"][-1] > 0
    (log,) = tmp_path.rglob("training_log*.txt")
    assert "gradient shares: consistency" in log.read_text()


class Detached(nnUNetTrainerSSL):
    """A term that is forgotten in the graph, one that is empty by nature, and one that trains."""

    def unlabeled_terms(self, logits, batch):
        p = logits[0].softmax(1)
        return {"lost": p.detach().square().mean(), "empty": p.new_zeros(()), "trains": p.square().mean()}

    def weights(self):
        return {"lost": self.lost_weight, "empty": 1.0, "trains": 1.0}

    lost_weight: float = 1.0


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_term_without_any_gradient_is_named_once(weight, datasets, tmp_path):
    trainer = started(make_trainer(Detached, *datasets(), results=tmp_path, lost_weight=weight))
    for _ in range(2):
        outputs = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(2)]
        trainer.on_train_epoch_end(outputs)
        trainer.on_train_epoch_start()
    said = [line for line in Path(trainer.log_file).read_text().splitlines() if "no gradient" in line]
    assert len(said) == int(weight)
    assert all("term(s) lost have a weight and no gradient in any step" in line for line in said)
