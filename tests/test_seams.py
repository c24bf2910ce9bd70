"""The seams stand in one list, the docstring of `nnunet_ssl.seams`; the page for authors names each, and what they may call."""

from __future__ import annotations

import re

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

import nnunet_ssl.seams
from nnunet_ssl.discovery.variants import trainer_classes
from nnunet_ssl.engine.configurable import ConfigurableTrainer
from nnunet_ssl.partial_trainer import nnUNetTrainerPartial
from nnunet_ssl.seams import MethodSeams
from nnunet_ssl.trainer import nnUNetTrainerSSL
from nnunet_ssl.weak_trainer import nnUNetTrainerWeak
from tests.helpers.paths import REPOSITORY

(SEAM_LINES,) = re.findall(r"\n\n((?:    \w+\(.*\n)+)", nnunet_ssl.seams.__doc__)
SEAMS = {name for line in SEAM_LINES.splitlines() for name in re.findall(r"(\w+)\(", line.strip().split("  ")[0])}
PAGE = (REPOSITORY / "docs" / "add_a_method.md").read_text(encoding="utf-8")
# hooks of nnU-Net that the engine and its bases override; methods reach them through the seams
BASES = (MethodSeams, nnUNetTrainerSSL, nnUNetTrainerWeak, nnUNetTrainerPartial)


def own_names(cls: type) -> set[str]:
    return {name for name in vars(cls) if not name.startswith("_")}


def test_every_seam_is_a_method_of_the_engine():
    assert len(SEAMS) >= 14
    assert own_names(MethodSeams) >= SEAMS


@pytest.mark.parametrize("name", sorted(SEAMS))
def test_the_page_for_authors_names_every_seam(name):
    assert f"`{name}(" in PAGE or f"`{name}`" in PAGE


def test_the_page_names_what_methods_may_call():
    """Whatever is public on the engine, and neither nnU-Net's nor a setting, is a seam, machinery, or described on the page."""
    settings = set(MethodSeams.__annotations__)
    machinery = {"find_cases", "dense_labels"}
    callable_by_methods = own_names(MethodSeams) | own_names(nnUNetTrainerSSL)
    callable_by_methods -= SEAMS | settings | machinery
    callable_by_methods -= set(dir(nnUNetTrainer)) | set(dir(ConfigurableTrainer))
    missing = sorted(name for name in callable_by_methods if f"`{name}" not in PAGE)
    assert not missing


@pytest.mark.parametrize("name", trainer_classes())
def test_trainers_override_seams_and_public_names_only(name):
    """A method that overrides a private name of the engine shows that a seam is missing."""
    cls = trainer_classes()[name]
    private = {n for base in BASES for n in vars(base) if n.startswith("_") and not n.startswith("__")}
    overridden = {n for c in cls.__mro__ if c.__module__.startswith("nnunet_ssl.trainers") for n in vars(c)}
    assert not overridden & private
