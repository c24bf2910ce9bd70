"""What `nnunet_ssl trainers` lists: the trainers, and the hyper-parameters of one."""

from __future__ import annotations

import inspect

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunet_ssl.discovery.variants import find_trainer, trainer_classes
from nnunet_ssl.engine.configurable import ConfigurableTrainer, allowed_hyperparameters, declared_hyperparameters
from nnunet_ssl.errors import UserError

KINDS = {
    "unlabeled": "Dense labels of some cases, and unlabeled images. Begin with nnUNetTrainerSemiSupervised.",
    "sparse": "Scribbles, points, boxes, single slices (nnU-Net's label 'ignore'). Begin with nnUNetTrainerScribblePCE.",
    "partial": "Classes that only some cases annotate (key 'partial_labels'). Begin with nnUNetTrainerPartialLabel.",
}
"""Folder of `trainers/` -> the labels that its trainers are for."""


def trainer_rows() -> dict[str, list[tuple[str, str]]]:
    """For what labels -> (name, first line of the docstring) of every trainer."""
    rows: dict[str, list[tuple[str, str]]] = {text: [] for text in KINDS.values()}
    for name, cls in trainer_classes().items():
        kind = cls.__module__.removeprefix("nnunet_ssl.trainers.").split(".")[0]
        rows[KINDS[kind]].append((name, (inspect.getdoc(cls) or "").split("\n")[0]))
    return rows


def attribute_rows(name: str) -> list[tuple[str, str]]:
    """(hyper-parameter, value) of the trainer called `name`, which may have suffixes or be nnU-Net's own."""
    try:
        cls = find_trainer(name)
    except AttributeError:
        try:
            cls = recursive_find_trainer_class_by_name(name)
        except RuntimeError as error:
            raise UserError(f"no trainer is called '{name}'. Allowed: {', '.join(trainer_classes())}.") from error
    if not issubclass(cls, ConfigurableTrainer):
        raise UserError(
            f"{name} is nnU-Net's own trainer: its settings are assigned in its constructor, not by attributes. "
            f"Allowed: {', '.join(trainer_classes())}, subclasses of them, and names with a suffix."
        )
    values = declared_hyperparameters(cls)
    return [(n, repr(values[n]) if n in values else "nnU-Net's default") for n in allowed_hyperparameters(cls)]
