"""What `nnunet_ssl trainers` lists: the trainers with what their classes say about them, and the hyper-parameters of one."""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from dataclasses import dataclass

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

FEATURES = {"2D": "2d", "3D": "3d", "regions": "regions", "ignore label": "ignore_label"}
"""What is printed -> its name in `nnUNetTrainerSSL.unsupported`."""


@dataclass(frozen=True)
class TrainerFacts:
    """What a trainer's class, its docstring and that of its module say.

    Attributes:
        kind: folder of `trainers/`, a key of `KINDS`.
        idea: first line of the docstring.
        networks: names of the segmentation networks in a step, the student first.
        short_passes: passes per step in the notation of docs/methods.md: F+B on L+U, F on U.
        passes: passes per step, in words.
        supports: of 2D, 3D, regions, ignore label, partial labels.
        citation: authors, title or venue, and year.
    """

    name: str
    kind: str
    idea: str
    networks: tuple[str, ...]
    short_passes: str
    passes: str
    supports: tuple[str, ...]
    citation: str


def trainer_facts() -> list[TrainerFacts]:
    """The facts of every trainer of this package, in the order of their names."""
    return [_facts(name, cls) for name, cls in trainer_classes().items()]


def _facts(name: str, cls) -> TrainerFacts:
    supports = [shown for shown, feature in FEATURES.items() if feature not in cls.unsupported]
    return TrainerFacts(
        name,
        cls.__module__.removeprefix("nnunet_ssl.trainers.").split(".")[0],
        (inspect.getdoc(cls) or "").split("\n")[0],
        cls.networks,
        *next(filter(None, map(_passes, cls.__mro__)), ("", "")),
        tuple(supports + ["partial labels"] * cls.knows_partial_labels),
        _citation(cls),
    )


def _passes(cls: type) -> tuple[str, str] | None:
    """What the docstring of the class itself says of its passes: "Passes per step (SHORT): WORDS", or one text that is both."""
    docstring = inspect.cleandoc(cls.__doc__ or "")
    found = re.search(r"Passes per step(?: \(([^:]*)\))?: (.*?)(?:\n\n|\Z)", docstring, re.DOTALL)
    if not found:
        return None
    words = " ".join(found[2].split())
    return " ".join((found[1] or words.rstrip(".")).split()), words


def _citation(cls: type) -> str:
    """The first paragraph with a year in it: of the class's docstring, else of its module's."""
    for text in (cls.__doc__, sys.modules[cls.__module__].__doc__):
        for paragraph in inspect.cleandoc(text or "").split("\n\n"):
            if re.search(r"\b(19|20)\d\d\b|arXiv:\d", paragraph):
                return " ".join(paragraph.split())
    return ""


def _allowed() -> str:
    suffixes = "and their names with _<N>epochs, _<M>iters and _seed<S>, any of them in this order"
    return f"Allowed: {', '.join(trainer_classes())}, subclasses of them, {suffixes}."


def attribute_rows(name: str) -> list[tuple[str, str]]:
    """(hyper-parameter, value) of the trainer called `name`, which may have suffixes or be nnU-Net's own."""
    try:
        cls = find_trainer(name)
    except AttributeError:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # it says where it searches
                cls = recursive_find_trainer_class_by_name(name)
        except RuntimeError as error:
            raise UserError(f"no trainer is called '{name}'. {_allowed()}") from error
    if not issubclass(cls, ConfigurableTrainer):
        raise UserError(
            f"{name} is nnU-Net's own trainer: its settings are assigned in its constructor, not by attributes. {_allowed()}"
        )
    values = declared_hyperparameters(cls)
    return [(n, repr(values[n]) if n in values else "nnU-Net's default") for n in allowed_hyperparameters(cls)]
