"""All trainers by name: the classes of `nnunet_ssl.trainers`, and their variants by suffix.

A variant's name is the name of a trainer and any of the suffixes `_<N>epochs`, `_<M>iters` (training iterations per epoch; with
fewer than nnU-Net's 250 its 50 validation iterations become fewer in proportion) and `_seed<S>`, in this order:
`nnUNetTrainerMeanTeacher_100epochs_250iters_seed2`. It is the trainer with these settings and
this name, hence with its own results folder. For stock `nnUNetTrainer` the variants train like nnU-Net's own. Trainers in other
folders of `nnUNet_extTrainer` have variants too if they build on this package's.

A variant is made when it is asked for, once, as an attribute of this module; so it can be pickled, and unpickled in another
process.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from functools import cache
from types import MappingProxyType

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

import nnunet_ssl.trainers
from nnunet_ssl.discovery.folders import trainer_in_folders
from nnunet_ssl.engine.configurable import ConfigurableTrainer

STOCK_ITERATIONS = (250, 50)  # per epoch of training and of validation, nnU-Net's

_PREFIX = "nnUNetTrainer"
_SUFFIXES = re.compile(
    r"(?P<base>.+?)(?:_(?P<epochs>[1-9]\d*)epochs)?(?:_(?P<iterations>[1-9]\d*)iters)?(?:_seed(?P<seed>0|[1-9]\d*))?"
)


@cache
def trainer_classes() -> MappingProxyType[str, type[nnUNetTrainer]]:
    """The public trainers of `nnunet_ssl.trainers` by name, sorted.

    These are the classes `nnUNetTrainer*` defined in its modules. A module that cannot be imported raises, so that a
    trainer does not go missing without a reason.
    """
    found = {}
    package = nnunet_ssl.trainers
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if (
                name.startswith("nnUNetTrainer")
                and isinstance(value, type)
                and issubclass(value, nnUNetTrainer)
                and value.__module__ == module.__name__
            ):
                found[name] = value
    return MappingProxyType(dict(sorted(found.items())))


def find_trainer(name: str) -> type[nnUNetTrainer]:
    """The trainer class called `name`; the same object at every call.

    Raises:
        AttributeError: no such trainer, or not these suffixes in this order. (nnU-Net looks a class up with `hasattr`.)
    """
    classes = trainer_classes()
    if name in classes:
        return classes[name]
    match = _SUFFIXES.fullmatch(name)
    base = _base(match["base"], name) if match and match["base"] != name else None
    if base is None:
        raise AttributeError(f"no trainer of nnunet_ssl is called {name!r}")
    return _variant(name, base)


def _base(name: str, variant: str) -> type[nnUNetTrainer] | None:
    """The trainer of which `variant` is one, if there is such a trainer."""
    if name == "nnUNetTrainer":
        return ConfigurableTrainer
    if name in trainer_classes():
        return trainer_classes()[name]
    # a class with suffixes in its own name may exist, but suffixes are never read twice
    return None if _SUFFIXES.fullmatch(name)["base"] != name else trainer_in_folders(name, variant)


@cache
def _variant(name: str, base: type[nnUNetTrainer]) -> type[nnUNetTrainer]:
    match = _SUFFIXES.fullmatch(name)
    settings = {
        "num_epochs": match["epochs"],
        "num_iterations_per_epoch": match["iterations"],
        "seed": match["seed"],
    }
    settings = {attribute: int(value) for attribute, value in settings.items() if value is not None}
    if "num_iterations_per_epoch" in settings:
        share = settings["num_iterations_per_epoch"] / STOCK_ITERATIONS[0]
        settings["num_val_iterations_per_epoch"] = max(1, round(min(1.0, share) * STOCK_ITERATIONS[1]))
    described = ", ".join(f"{attribute} = {value}" for attribute, value in settings.items())
    doc = f"{match['base']} with {described}."
    return type(base)(name, (base,), {"__module__": __name__, "__qualname__": name, "__doc__": doc, **settings})


def near_names(name: str) -> list[str]:
    """What may have been meant by a name that is no trainer: its suffixes in their order, or names that are spelled alike."""
    base, *suffixes = name.split("_")
    ordered = "_".join([base, *sorted(suffixes, key=_place_of_suffix)])
    if ordered != name and _is_trainer(ordered):
        return [ordered]
    # without the prefix, which would make all names alike
    own = {trainer.removeprefix(_PREFIX): trainer for trainer in trainer_classes()}
    alike = difflib.get_close_matches(base.removeprefix(_PREFIX), own)
    others = [ordered.replace(base, own[near], 1) for near in alike]
    return [other for other in others if other != name and _is_trainer(other)]


def _place_of_suffix(suffix: str) -> int:
    kinds = (r"\d+epochs", r"\d+iters", r"seed\d+")
    return next((place for place, kind in enumerate(kinds) if re.fullmatch(kind, suffix)), len(kinds))


def _is_trainer(name: str) -> bool:
    try:
        find_trainer(name)
    except AttributeError:
        return False
    return True


def __getattr__(name: str) -> type[nnUNetTrainer]:
    return find_trainer(name)
