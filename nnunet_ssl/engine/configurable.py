"""A trainer whose class attributes are its hyper-parameters.

nnU-Net's constructor assigns `num_epochs`, `initial_lr` and others to the instance and so silently wins over what a
subclass says in its body. `ConfigurableTrainer` applies every declared attribute again after that constructor, so that
a variant is a subclass of two lines:

    class nnUNetTrainerMeanTeacherSlow(nnUNetTrainerMeanTeacher):
        ema_decay = 0.999
        num_epochs = 2000

A hyper-parameter is declared by an annotation (`ema_decay: float = 0.99`) in any class below `nnUNetTrainer`; those of
nnU-Net itself are in `NNUNET_HYPERPARAMETERS`. A name that is declared nowhere is an error, not a silent no-op.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import inspect
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ssl.engine.value_ranges import Amount, Count, Share, Whole, described, fits
from nnunet_ssl.errors import UserError

NNUNET_HYPERPARAMETERS = MappingProxyType(
    {
        "initial_lr": Amount,
        "weight_decay": Amount,
        "oversample_foreground_percent": Share,
        "probabilistic_oversampling": bool,
        "num_iterations_per_epoch": Count,
        "num_val_iterations_per_epoch": Count,
        "num_epochs": Count,
        "enable_deep_supervision": bool,
        "save_every": Count,
        "disable_checkpointing": bool,
    }
)
"""What nnU-Net's constructor sets and a subclass may set otherwise, without an annotation, and which values it may have."""

_FROM_COMMAND_LINE = "it comes from the command line of nnUNetv2_train"
_FROM_PLANS = (
    "it comes from the plans; make other plans (nnUNetv2_plan_and_preprocess, or a configuration that inherits)"
)
_FROM_FOLDERS = "it follows from the nnUNet_* folders, the data set, the plans and the name of the class"
_FROM_DATASET_JSON = "it comes from dataset.json"
_MADE_AT_RUN_TIME = "it is made while training; override the method that makes it"

NNUNET_RESERVED = MappingProxyType(
    {
        "device": _FROM_COMMAND_LINE + " (-device)",
        "is_ddp": _FROM_COMMAND_LINE + " (-num_gpus)",
        "local_rank": _FROM_COMMAND_LINE + " (-num_gpus)",
        "fold": _FROM_COMMAND_LINE,
        "configuration_name": _FROM_COMMAND_LINE,
        "my_init_kwargs": "nnU-Net records its constructor's arguments in it",
        "plans_manager": _FROM_PLANS,
        "configuration_manager": _FROM_PLANS,
        "batch_size": _FROM_PLANS,
        "is_cascaded": _FROM_PLANS,
        "dataset_json": _FROM_DATASET_JSON,
        "label_manager": _FROM_DATASET_JSON,
        "num_input_channels": _FROM_DATASET_JSON,
        "preprocessed_dataset_folder_base": _FROM_FOLDERS,
        "preprocessed_dataset_folder": _FROM_FOLDERS,
        "output_folder_base": _FROM_FOLDERS,
        "output_folder": _FROM_FOLDERS,
        "folder_with_segs_from_previous_stage": _FROM_FOLDERS,
        "log_file": _FROM_FOLDERS,
        "dataset_class": "nnU-Net infers it from the preprocessed folder; override initialize() to replace it",
        "network": _MADE_AT_RUN_TIME + " (build_network_architecture)",
        "optimizer": _MADE_AT_RUN_TIME + " (configure_optimizers)",
        "lr_scheduler": _MADE_AT_RUN_TIME + " (configure_optimizers)",
        "loss": _MADE_AT_RUN_TIME + " (_build_loss)",
        "grad_scaler": _MADE_AT_RUN_TIME + " (__init__)",
        "logger": _MADE_AT_RUN_TIME + " (__init__)",
        "dataloader_train": _MADE_AT_RUN_TIME + " (get_dataloaders)",
        "dataloader_val": _MADE_AT_RUN_TIME + " (get_dataloaders)",
        "inference_allowed_mirroring_axes": _MADE_AT_RUN_TIME
        + " (configure_rotation_dummyDA_mirroring_and_inital_patch_size)",
        "current_epoch": "it is the state of a run, kept in the checkpoint",
        "was_initialized": "it is the state of a run",
    }
)
"""What nnU-Net sets and a class attribute cannot change, with the reason that the error message gives."""

Role = Literal["main", "train", "validation"]
_ROLES: tuple[Role, ...] = ("main", "train", "validation")


def _own_annotations(cls: type) -> dict[str, Any]:
    """The annotations written in the body of `cls` itself, not those it inherits."""
    if sys.version_info >= (3, 14):
        # Annotations are evaluated lazily there: names imported for type checking only must not raise.
        import annotationlib

        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(cls)


def _classes_below_nnunet(cls: type) -> list[type]:
    """The classes of the method resolution order without `nnUNetTrainer` and `object`, the most basic one first."""
    return [c for c in reversed(cls.__mro__) if c not in nnUNetTrainer.__mro__]


def _is_descriptor(value: Any) -> bool:
    """Functions, properties, static and class methods: what a class holds for its behavior, not as data."""
    return hasattr(type(value), "__get__")


def _is_public_data(name: str, value: Any) -> bool:
    return not (name.startswith("_") or _is_descriptor(value) or callable(value))


def _declared_in(cls: type) -> set[str]:
    """The names that the body of `cls` annotates; `ClassVar` marks a constant, which is not a hyper-parameter."""
    return {
        name
        for name, annotation in _own_annotations(cls).items()
        if not name.startswith("_") and "ClassVar" not in str(annotation)
    }


def _constants_in(cls: type) -> set[str]:
    return {name for name, annotation in _own_annotations(cls).items() if "ClassVar" in str(annotation)}


def _resolved(cls: type, annotation: Any) -> Any:
    """An annotation that `from __future__ import annotations` has left as a text; `Any` where it has no value: of names that are
    imported for type checking only, or with an operator that these do not have."""
    if not isinstance(annotation, str):
        return annotation
    module = sys.modules.get(cls.__module__)  # nnU-Net drops the modules of folders that it has searched
    try:
        return eval(annotation, dict(vars(module)) if module else {}, dict(vars(cls)))
    except (NameError, AttributeError, TypeError, SyntaxError):
        return Any


def allowed_hyperparameters(cls: type) -> list[str]:
    """The names that a subclass of `cls` may set, sorted: all declared ones and nnU-Net's own."""
    names = set(NNUNET_HYPERPARAMETERS)
    for c in _classes_below_nnunet(cls):
        names |= _declared_in(c)
    return sorted(names)


def declared_hyperparameters(cls: type) -> dict[str, Any]:
    """The hyper-parameters of a trainer class and their values, the most basic class first.

    Of nnU-Net's own (`NNUNET_HYPERPARAMETERS`) only those are listed that `cls` or a parent of it sets; the others
    keep the value of nnU-Net's constructor.
    """
    allowed = set(allowed_hyperparameters(cls))
    values: dict[str, Any] = {}
    for c in _classes_below_nnunet(cls):
        values.update({name: value for name, value in vars(c).items() if name in allowed and not _is_descriptor(value)})
    return values


def check_hyperparameters(cls: type) -> None:
    """Raise `UserError` where a class below `nnUNetTrainer` sets an attribute that could have no effect.

    These are: a name that nobody declared (a slip of the pen), one that nnU-Net sets from the plans or the command
    line (`NNUNET_RESERVED`), and a value where a method is expected. Also where a value does not fit its annotation
    (`value_ranges`): it would be misunderstood, or found out in the middle of a training.
    """
    known = set(NNUNET_HYPERPARAMETERS)
    annotations: dict[str, Any] = dict(NNUNET_HYPERPARAMETERS)
    constants: set[str] = set()
    above: list[type] = [nnUNetTrainer]
    for c in _classes_below_nnunet(cls):
        known |= _declared_in(c)
        constants |= _constants_in(c)
        annotations |= {name: _resolved(c, _own_annotations(c)[name]) for name in _declared_in(c)}
        for name, value in vars(c).items():
            if not _is_public_data(name, value):
                continue
            where = f"class {c.__name__} ({c.__module__}) sets '{name} = {value!r}'"
            if name in NNUNET_RESERVED:
                raise UserError(f"{where}, which has no effect: {NNUNET_RESERVED[name]}. Remove it.")
            shadowed = next((a for a in above if _is_descriptor(vars(a).get(name))), None)
            if shadowed is not None:
                raise UserError(f"{where}, but '{name}' is a method of {shadowed.__name__}. Rename the attribute.")
            if name not in known and name not in constants:
                near = difflib.get_close_matches(name, known, n=3)
                raise UserError(
                    f"{where}, which is not a hyper-parameter."
                    + (f" Did you mean {' or '.join(near)}?" if near else "")
                    + f" Allowed: {', '.join(sorted(known))}."
                    f" To declare a new one, annotate it: '{name}: {type(value).__name__} = {value!r}'."
                )
            if not fits(value, annotation := annotations.get(name, Any)):
                raise UserError(f"{where}. Allowed: {described(annotation)}.")
        above.append(c)


def seed_process(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators (of all devices) in this process; `seed` < 2**32."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def _batches_in_transit_may_be_lost(reader: threading.Thread | None) -> Iterator[None]:
    """No traceback when `reader`, the thread that collects the workers' batches, meets a worker that has ended.

    A batch travels as a handle that its worker redeems. Whoever ends the workers does not want the batch any more.
    """

    def report(failure: threading.ExceptHookArgs) -> None:
        if failure.thread is not reader or not issubclass(failure.exc_type, OSError | EOFError):
            before(failure)

    before = threading.excepthook
    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = before


class ConfigurableTrainer(nnUNetTrainer):
    """nnU-Net's trainer, with class attributes that take effect and with a seed.

    The seed makes runs distinct and restartable; it does not make them bitwise reproducible: with more than one
    background worker the order of the batches depends on timing, and GPU kernels add in any order.

    `nnUNetTrainer_seed2` and the like are this class. Their seed is in the name, which nnU-Net keeps in the checkpoint
    (`trainer_name`), so nothing more is stored.
    """

    seed: Whole | None = None  # network initialization, main process, background workers; None: nnU-Net's, unseeded

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ):
        check_hyperparameters(type(self))
        super().__init__(plans, configuration, fold, dataset_json, device)
        self._restarts: Counter[Role] = Counter()  # of workers that had seeds, in this process
        for name, value in declared_hyperparameters(type(self)).items():
            setattr(self, name, copy.deepcopy(value))

    def derived_seeds(self, role: Role, n: int, rank: int | None = None) -> list[int]:
        """`n` seeds < 2**32 that differ between roles, ranks, the epoch at which they are drawn, and restarts of workers.

        Without the epoch, a run continued with `--c` would see the batches of its first epochs again.
        """
        rank = self.local_rank if rank is None else rank
        entropy = [self.seed, _ROLES.index(role), rank, self.current_epoch]
        entropy += [self._restarts[role]] if self._restarts[role] else []
        return [int(word) for word in np.random.SeedSequence(entropy).generate_state(n)]

    def initialize(self) -> None:
        if self.seed is not None:
            # The same on all ranks: DDP broadcasts only the network that it wraps, not what a method adds beside it.
            seed_process(self.derived_seeds("main", 1, rank=0)[0])
        super().initialize()

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        super().load_checkpoint(filename_or_checkpoint)
        if self.seed is not None:
            seed_process(self.derived_seeds("main", 1)[0])

    def get_dataloaders(self):
        """nnU-Net's two augmenters. With a seed, their workers are ended and start again, seeded, when next used."""
        train, val = super().get_dataloaders()
        if self.seed is not None:
            self.restart_workers(train, role="train")
            self.restart_workers(val, role="validation")
        return train, val

    def restart_workers(
        self,
        augmenter: NonDetMultiThreadedAugmenter | MultiThreadedAugmenter | SingleThreadedAugmenter,
        generator: Any = None,
        role: Role = "train",
    ) -> None:
        """End the workers of `augmenter`; they start again when it is next asked for a batch.

        The workers are processes with a copy of the generator of their own, so a change of the generator needs new
        ones. With `generator`, they will draw from it instead of the present one. They get fresh seeds: with a seed of the run one
        for each worker, rank, role, epoch and restart; without one random ones, since a forked worker has the
        torch generator of this process and would draw what the workers before it and beside it draw. Calling this several times
        before the next batch starts no worker in between.

        A `SingleThreadedAugmenter` (`nnUNet_n_proc_DA=0`) draws from the generators of the main process, which are
        seeded already.
        """
        if isinstance(augmenter, SingleThreadedAugmenter):
            if generator is not None:
                augmenter.data_loader = generator
            return
        seeded_ones_ran = bool(augmenter._processes) and None not in augmenter.seeds
        name = "pin_memory_thread" if isinstance(augmenter, MultiThreadedAugmenter) else "results_loop_thread"
        with _batches_in_transit_may_be_lost(getattr(augmenter, name)):
            augmenter._finish()
        if generator is not None:
            augmenter.generator = generator
        if self.seed is None:
            augmenter.seeds = [int(word) for word in np.random.SeedSequence().generate_state(augmenter.num_processes)]
            return
        self._restarts[role] += seeded_ones_ran
        augmenter.seeds = self.derived_seeds(role, augmenter.num_processes)

    def on_train_start(self) -> None:
        if not self.was_initialized:
            self.initialize()
        if self.seed is not None and self.is_ddp and self.current_epoch == 0:
            seed_process(self.derived_seeds("main", 1)[0])
        super().on_train_start()
        for augmenter in (self.dataloader_train, self.dataloader_val):
            # As nnU-Net does, workers start before the first step: later there are the threads of the compiler, which
            # a fork does not survive.
            if not isinstance(augmenter, SingleThreadedAugmenter) and not augmenter._processes:
                augmenter.restart()
