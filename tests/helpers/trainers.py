"""What tests of trainers share: the trainers by kind of label, what each needs of a data set, steps, a step of stock nnU-Net."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.discovery.variants import trainer_classes
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.configurable import declared_hyperparameters
from nnunet_ssl.partial_trainer import nnUNetTrainerPartial
from nnunet_ssl.preprocessing.dense_labels import preprocess_dense
from nnunet_ssl.weak_trainer import nnUNetTrainerWeak
from tests.helpers.synthetic import SHAPE, add_to_round
from tests.helpers.training import copy_batch, find_class, make_trainer, seed_everything, weights_of

GUESTS: dict[str, type] = {name: find_class(name) for name in os.environ.get("NNUNET_SSL_GUESTS", "").split()}
"""Trainers that are no part of this package, from `pytest --trainer NAME` (`tests/conftest.py`)."""

CLASSES: dict[str, type] = {**trainer_classes(), **GUESTS}


def kind_of(cls: type) -> str:
    """unlabeled, sparse or partial: the folder of `trainers/` in which a class stands; of a guest that of what it builds on."""
    for base in cls.__mro__:
        if base.__module__.startswith("nnunet_ssl.trainers."):
            return base.__module__.split(".")[2]
        if base in (nnUNetTrainerWeak, nnUNetTrainerPartial):
            return "sparse" if base is nnUNetTrainerWeak else "partial"
    return "unlabeled"


def trainers_of(kind: str) -> list[str]:
    return [name for name, cls in CLASSES.items() if kind_of(cls) == kind]


UNLABELED, SPARSE, PARTIAL = map(trainers_of, ("unlabeled", "sparse", "partial"))
# trainers of tests/helpers/nnunet_ssl_test_methods.py, which use what no published method uses yet
UNLABELED_TEST_ONLY = ["nnUNetTrainerTestTwoNetworks", "nnUNetTrainerTestMixing", "nnUNetTrainerTestShrinkingPool"]
SPARSE_TEST_ONLY = ["nnUNetTrainerTestWeak"]


def with_a_stage_more(plans: dict) -> None:
    """A stage below the synthetic data set's others, so that two scales of deep supervision have a loss in nnU-Net."""
    for configuration in ("2d", "3d_fullres"):
        kwargs = plans["configurations"][configuration]["architecture"]["arch_kwargs"]
        for name in ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage"):
            if name in kwargs:
                kwargs[name] = [*kwargs[name], kwargs[name][-1]]
        kwargs["strides"][-1] = [1] * (len(kwargs["strides"][-1]) - 2) + [2, 2]  # of the 12 slices 3 are left
        kwargs["n_conv_per_stage_decoder"] = [1, *kwargs["n_conv_per_stage_decoder"]]
        kwargs["n_stages"] += 1


# What the synthetic data set must have besides for one trainer, as options of `make_dataset`.
NEEDS = {
    "nnUNetTrainerBoxTightness": {"boxes": True},  # ignored boxes in the label maps
    "nnUNetTrainerMAAG": {"masks": 2},  # masks of other patients in masksUn
    "nnUNetTrainerPseudoLabels": {"pseudo_labels": True},  # a round of pseudo labels
    "nnUNetTrainerSizeConstraint": {"size_bounds": True},  # the key size_bounds of dataset.json
    "nnUNetTrainerURPC": {"change_plans": with_a_stage_more},  # two scales with a labeled loss
}


def of_class(table: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """The entry of a trainer, of a guest that of the trainer that it builds on."""
    lineage = (cls.__name__ for cls in GUESTS[name].__mro__) if name in GUESTS else (name,)
    return next((table[known] for known in lineage if known in table), otherwise)


def needs(name: str, **options) -> dict:
    """Options of a synthetic data set that the trainer can work on."""
    if name in PARTIAL:
        return {"partial": True, "unlabeled": 0} | options
    if name in SPARSE + SPARSE_TEST_ONLY:
        return {"ignore": True, "unlabeled": 0} | of_class(NEEDS, name, {}) | options
    return of_class(NEEDS, name, {}) | options


# trainers that learn distances and need patches without ignored voxels, of which the synthetic sparse labels have none
WHOLE_PATCHES = {"nnUNetTrainerDTC", "nnUNetTrainerSASSNet"}

_AT_ONCE = {"earliest": 0.0, "competence": 0.0, "ramp": 0.0}  # no start that is waited for

# Attributes with which a step has the terms of a method with this weight only, beside nnU-Net's loss; None: its terms replace
# this loss, or are nnU-Net's own in the beginning (tested for the trainer alone).
WEIGHTED: dict[str, Callable[[float], dict] | None] = {
    "nnUNetTrainerACMT": lambda w: {"consistency_weight": w},
    "nnUNetTrainerADMT": lambda w: _AT_ONCE | {"unlabeled_weight": w},
    "nnUNetTrainerBCP": None,
    "nnUNetTrainerBoxTightness": lambda w: {"tightness_weight": w, "size_weight": w},
    "nnUNetTrainerCCT": lambda w: {"consistency_weight": w},
    "nnUNetTrainerCML": None,
    "nnUNetTrainerCPS": lambda w: {"consistency_weight": w},
    "nnUNetTrainerCrossTeaching": lambda w: {"consistency_weight": w},
    "nnUNetTrainerCycleMix": lambda w: {"mix_weight": w, "consistency_weight": w, "integrity_weight": w},
    "nnUNetTrainerDAN": lambda w: {"adversarial_weight": w, "discriminator_weight": w},
    "nnUNetTrainerDTC": lambda w: {"consistency_weight": w, "sdf_weight": w},
    "nnUNetTrainerDeepCoTraining": lambda w: {"agreement_weight": w, "difference_weight": w},
    "nnUNetTrainerDyCON": lambda w: {"consistency_weight": w, "uncertainty_weight": w, "contrast_weight": w},
    "nnUNetTrainerEMA": None,
    "nnUNetTrainerEntropyMinimization": lambda w: {"entropy_weight": w},
    "nnUNetTrainerFilterMatch": None,
    "nnUNetTrainerFixMatch": lambda w: _AT_ONCE | {"strong_weight": w},
    "nnUNetTrainerICT": lambda w: {"consistency_weight": w},
    "nnUNetTrainerMAAG": lambda w: {"adversarial_weight": w, "discriminator_weight": w},
    "nnUNetTrainerMCF": lambda w: {"consistency_weight": w, "rectification_weight": w},
    "nnUNetTrainerMCNet": lambda w: {"consistency_weight": w, "auxiliary_weight": w},
    "nnUNetTrainerMeanTeacher": lambda w: {"consistency_weight": w},
    "nnUNetTrainerPointsConsistency": lambda w: {"mirrored_weight": w, "consistency_weight": w},
    "nnUNetTrainerPointsPASeg": lambda w: {"crf_weight": w, "variance_weight": w},
    "nnUNetTrainerPseudoLabels": lambda w: {"pseudo_weight": w},
    "nnUNetTrainerRDrop": lambda w: {"agreement_weight": w},
    "nnUNetTrainerSASSNet": lambda w: {"sdf_weight": w, "adversarial_weight": w, "discriminator_weight": w},
    "nnUNetTrainerSDCL": None,
    "nnUNetTrainerScribble2Label": lambda w: {"pseudo_weight": w},
    "nnUNetTrainerScribbleDMPLS": lambda w: {"pseudo_weight": w, "auxiliary_weight": w},
    "nnUNetTrainerScribbleDMSPS": lambda w: {"pseudo_weight": w, "auxiliary_weight": w},
    "nnUNetTrainerScribbleDenseCRF": lambda w: {"crf_weight": w},
    "nnUNetTrainerScribbleEntropyMin": lambda w: {"regularizer_weight": w},
    "nnUNetTrainerScribbleGatedCRF": lambda w: {"crf_weight": w},
    "nnUNetTrainerScribbleIntensityVariance": lambda w: {"regularizer_weight": w},
    "nnUNetTrainerScribbleMumfordShah": lambda w: {"regularizer_weight": w},
    "nnUNetTrainerScribblePCE": lambda w: {},
    "nnUNetTrainerScribbleTV": lambda w: {"regularizer_weight": w},
    "nnUNetTrainerScribbleUSTM": lambda w: {"consistency_weight": w},
    "nnUNetTrainerSemiSupervised": lambda w: {"unlabeled_weight": w},
    "nnUNetTrainerShapePU": lambda w: {"cut_weight": w, "consistency_weight": w, "marginal_weight": w},
    "nnUNetTrainerSizeConstraint": lambda w: {"size_weight": w},
    "nnUNetTrainerURPC": lambda w: {"consistency_weight": w},
    "nnUNetTrainerUniMatch": lambda w: _AT_ONCE | {"strong_weight": w, "feature_weight": w},
    "nnUNetTrainerTestTwoNetworks": lambda w: {"consistency_weight": w},
    "nnUNetTrainerTestWeak": lambda w: {"entropy_weight": w},
    "nnUNetTrainerUAMT": lambda w: {"consistency_weight": w},
    "nnUNetTrainerUPC": lambda w: {"consistency_weight": w},
}


def draw_unlabeled(trainer) -> None:
    """Draw unlabeled patches though the gate is shut and nothing uses them."""
    if trainer._spares_unlabeled:
        trainer._spares_unlabeled = False
        trainer._share_pool()


def _weights_of_a_guest(name: str) -> Callable[[float], dict] | None:
    """Those of the trainer that it builds on, and what its class calls `..._weight`."""
    cls, inherited = GUESTS[name], of_class(WEIGHTED, name, lambda w: {})
    names = [attribute for attribute in declared_hyperparameters(cls) if attribute.endswith("_weight")]
    if inherited is None or cls.replaces_labeled_loss:
        return None
    return lambda w: inherited(w) | dict.fromkeys(names, w)


WEIGHTED |= {name: _weights_of_a_guest(name) for name in GUESTS}


def past_every_switch(trainer) -> None:
    """To 0.6 of the training: no stage and no warm-up is left, no end on labels alone has begun; ramps of a whole run rise."""
    trainer.iteration = 6 * trainer.num_epochs * trainer.num_iterations_per_epoch // 10
    draw_unlabeled(trainer)


def _labels_of_the_ensemble(trainer) -> None:
    trainer.confidence = 0.2  # an untrained network is sure of nothing
    trainer.update_labels()


# What a method makes between epochs and its later steps need: a test that jumps there must make it itself.
BETWEEN_EPOCHS: dict[str, Callable] = {
    "nnUNetTrainerScribble2Label": _labels_of_the_ensemble,  # its pseudo labels, files of whole cases
}


def past_every_switch_and_update(trainer) -> None:
    """As `past_every_switch`, with what a method makes between epochs."""
    past_every_switch(trainer)
    of_class(BETWEEN_EPOCHS, type(trainer).__name__, lambda _: None)(trainer)


def next_batches(trainer, count: int = 1) -> list[dict]:
    """Batches for later: they may be used when the pool that they were drawn from has changed, or the gate has opened."""
    draw_unlabeled(trainer)
    batches = [next(trainer.dataloader_train) for _ in range(count)]
    return [{k: v for k, v in batch.items() if k != "pool_version"} for batch in batches]


def run_steps(trainer, batches) -> list[dict]:
    return [trainer.train_step(copy_batch(batch)) for batch in batches]


def stock_step(out, dataset, results, weights, batch):
    """Weights after one step of nnU-Net's own trainer, starting from `weights`."""
    stock = make_trainer("nnUNetTrainer", out, dataset, results=results)
    seed_everything()
    stock.initialize()
    stock.network.load_state_dict(weights)
    stock.network.train()
    stock.lr_scheduler.step(0)
    labeled = {k: batch[k] for k in ("data", "target", "keys")}
    labeled["data"] = labeled["data"][:, : stock.num_input_channels]  # of several views the first
    loss = stock.train_step(copy_batch(labeled))["loss"]
    return weights_of(stock.network), loss


def hide_labels(folder: Path, cases: list[str]) -> None:
    """Hide the labels of these cases in a preprocessed data set, as `nnunet_ssl split` does, and put them into its round."""
    if (folder / "pseudo_labels").is_dir():
        ball = np.zeros(SHAPE, np.uint8)
        ball[5:15, 10:30, 10:30] = 1
        add_to_round(folder.parents[1], folder.name, dict.fromkeys(cases, ball))
    file = folder / "splits_final.json"
    (split, *_) = json.loads(file.read_text())
    split["train"] = [c for c in split["train"] if c not in cases]
    file.write_text(json.dumps([split]))
    file = folder / "unlabeled.json"
    content = json.loads(file.read_text())
    content["hidden_labels"] = {"0": cases}
    file.write_text(json.dumps(content))


def preprocess_dense_labels(name: str) -> None:
    """`labelsTr_dense` of a raw data set to its preprocessed folder, in 2D."""
    raw = RawDataset.open(name)
    preprocess_dense(
        raw, UnlabeledList.load(raw.folder / "unlabeled.json"), "nnUNetPlans", ["2d"], [1], show_progress=False
    )


def sparse_patches(spatial: tuple[int, ...], classes: int = 3, channels: int = 1):
    """Logits, and a batch of two patches without annotations; the first has padding: `spatial[-1] < 3`."""
    generator = torch.Generator().manual_seed(sum(spatial))
    logits = torch.randn(2, classes, *spatial, generator=generator)
    images = 30 * torch.randn(2, channels, *spatial, generator=generator)
    inside = torch.ones(2, 1, *spatial, dtype=torch.bool)
    inside[0, ..., :3] = False
    return logits, SSLBatch(images, torch.zeros(2, 1, *spatial), ("a", "b"), labeled_inside=inside)


def assert_padding_has_no_influence(trainer, logits, batch) -> None:
    """Logits and image of padding do not change a trainer's only weak term, which has a gradient everywhere else."""
    logits.requires_grad_()
    (term,) = trainer.weak_terms([logits], batch).values()
    gradient = torch.autograd.grad(term, logits)[0]
    padding = ~batch.labeled_inside.expand_as(logits)
    assert gradient[padding].abs().max() == 0 and gradient[~padding].abs().min() > 0
    changed = torch.where(padding, 7.0, logits)
    batch.labeled[~batch.labeled_inside.expand_as(batch.labeled)] = 1e4
    (other,) = trainer.weak_terms([changed], batch).values()
    assert torch.allclose(other, term)


def assert_late_sigmoid_ramp(trainer, term: str) -> None:
    """The only weight is 0 for 5 % of the training and reaches 0.1 at 45 %."""
    steps = trainer.num_epochs * trainer.num_iterations_per_epoch
    weights = {}
    for percent in (0, 4, 5, 25, 45, 100):
        trainer.iteration = percent * steps // 100
        (weights[percent],) = trainer.weights().values()
        assert list(trainer.weights()) == [term]
    assert weights[0] == weights[4] == 0
    assert weights[5] == pytest.approx(0.1 * math.exp(-5))
    assert weights[25] == pytest.approx(0.1 * math.exp(-1.25))
    assert weights[45] == weights[100] == pytest.approx(0.1)


def spatial_transform(trainer) -> SpatialTransform:
    """The spatial transform of the training patches."""
    transforms = trainer.dataloader_train.data_loader.transforms.transforms
    return next(t for t in transforms if isinstance(t, SpatialTransform))
