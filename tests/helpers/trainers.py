"""What tests of trainers share: the trainers by kind of label, what each needs of a data set, steps, a step of stock nnU-Net."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from nnunet_ssl.data.raw_dataset import RawDataset
from nnunet_ssl.data.unlabeled_list import UnlabeledList
from nnunet_ssl.discovery.variants import trainer_classes
from nnunet_ssl.preprocessing.dense_labels import preprocess_dense
from tests.helpers.training import copy_batch, make_trainer, seed_everything, weights_of


def kind_of(cls: type) -> str:
    """unlabeled, sparse or partial: the folder of `trainers/` in which a class stands."""
    return cls.__module__.removeprefix("nnunet_ssl.trainers.").split(".")[0]


def trainers_of(kind: str) -> list[str]:
    return [name for name, cls in trainer_classes().items() if kind_of(cls) == kind]


UNLABELED, SPARSE, PARTIAL = map(trainers_of, ("unlabeled", "sparse", "partial"))
# trainers of tests/helpers/nnunet_ssl_test_methods.py, which use what no published method uses yet
UNLABELED_TEST_ONLY = ["nnUNetTrainerTestTwoNetworks", "nnUNetTrainerTestMixing", "nnUNetTrainerTestShrinkingPool"]
SPARSE_TEST_ONLY = ["nnUNetTrainerTestWeak"]

# What the synthetic data set must have besides for one trainer, as options of `make_dataset`.
NEEDS = {
    "nnUNetTrainerBoxTightness": {"boxes": True},  # ignored boxes in the label maps
    "nnUNetTrainerMAAG": {"masks": 2},  # masks of other patients in masksUn
    "nnUNetTrainerSizeConstraint": {"size_bounds": True},  # the key size_bounds of dataset.json
}


def needs(name: str, **options) -> dict:
    """Options of a synthetic data set that the trainer can work on."""
    if name in PARTIAL:
        return {"partial": True, "unlabeled": 0} | options
    if name in SPARSE + SPARSE_TEST_ONLY:
        return {"ignore": True, "unlabeled": 0} | NEEDS.get(name, {}) | options
    return options


# Attributes with which a step has the terms of a method with this weight only, beside nnU-Net's loss; None: its terms replace
# this loss, or are nnU-Net's own in the beginning (tested for the trainer alone).
WEIGHTED: dict[str, Callable[[float], dict] | None] = {
    "nnUNetTrainerACMT": lambda w: {"consistency_weight": w},
    "nnUNetTrainerBCP": None,
    "nnUNetTrainerBoxTightness": lambda w: {"tightness_weight": w, "size_weight": w},
    "nnUNetTrainerCML": None,
    "nnUNetTrainerCPS": lambda w: {"consistency_weight": w},
    "nnUNetTrainerCycleMix": lambda w: {"mix_weight": w, "consistency_weight": w, "integrity_weight": w},
    "nnUNetTrainerDTC": lambda w: {"consistency_weight": w, "sdf_weight": w},
    "nnUNetTrainerDyCON": lambda w: {"consistency_weight": w, "uncertainty_weight": w, "contrast_weight": w},
    "nnUNetTrainerFilterMatch": None,
    "nnUNetTrainerMAAG": lambda w: {"adversarial_weight": w, "discriminator_weight": w},
    "nnUNetTrainerMCF": lambda w: {"consistency_weight": w, "rectification_weight": w},
    "nnUNetTrainerMeanTeacher": lambda w: {"consistency_weight": w},
    "nnUNetTrainerPointsConsistency": lambda w: {"mirrored_weight": w, "consistency_weight": w},
    "nnUNetTrainerPointsPASeg": lambda w: {"crf_weight": w, "variance_weight": w},
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
    "nnUNetTrainerShapePU": lambda w: {"cut_weight": w, "consistency_weight": w, "marginal_weight": w},
    "nnUNetTrainerSizeConstraint": lambda w: {"size_weight": w},
    "nnUNetTrainerTestTwoNetworks": lambda w: {"consistency_weight": w},
    "nnUNetTrainerTestWeak": lambda w: {"entropy_weight": w},
    "nnUNetTrainerUAMT": lambda w: {"consistency_weight": w},
    # official: noise on all images, also on the labeled ones
    "nnUNetTrainerUPC": lambda w: {"consistency_weight": w, "noise_on_labeled": False},
}


def past_every_switch(trainer) -> None:
    """To the last quarter of the training, where no stage and no warm-up is left."""
    trainer.iteration = 3 * trainer.num_epochs * trainer.num_iterations_per_epoch // 4


def to_the_last_quarter(trainer) -> None:
    """As `past_every_switch`, with what a method makes between epochs."""
    past_every_switch(trainer)
    if hasattr(trainer, "update_labels"):
        trainer.confidence = 0.2  # an untrained network is sure of nothing
        trainer.update_labels()


def next_batches(trainer, count: int = 1) -> list[dict]:
    return [next(trainer.dataloader_train) for _ in range(count)]


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
    loss = stock.train_step(copy_batch(labeled))["loss"]
    return weights_of(stock.network), loss


def hide_labels(folder: Path, cases: list[str]) -> None:
    """Hide the labels of these cases in a preprocessed data set, as `nnunet_ssl split` does."""
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
