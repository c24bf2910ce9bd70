"""Class attributes of a trainer take effect, wrong ones are refused, and a seed reaches network, process and workers."""

from __future__ import annotations

import inspect
import random
import threading
from typing import ClassVar

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ssl.engine.configurable import (
    NNUNET_HYPERPARAMETERS,
    NNUNET_RESERVED,
    ConfigurableTrainer,
    allowed_hyperparameters,
    check_hyperparameters,
    declared_hyperparameters,
)
from nnunet_ssl.errors import UserError
from tests.helpers.training import largest_difference, make_trainer, weights_of


class Method(ConfigurableTrainer):
    ema_decay: float = 0.99
    steps: list = [1, 2]
    inference: str = "teacher"
    num_heads: ClassVar[int] = 2

    def decay(self):
        return self.ema_decay


class Variant(Method):
    ema_decay = 0.5
    num_epochs = 7
    num_iterations_per_epoch = 3
    num_val_iterations_per_epoch = 2
    initial_lr = 0.5
    weight_decay = 0.25
    oversample_foreground_percent = 0.75
    probabilistic_oversampling = True
    enable_deep_supervision = False
    save_every = 4
    disable_checkpointing = True
    num_heads = 3


class VariantOfVariant(Variant):
    num_epochs = 8


class Mixin:
    mixed: int = 5


class WithMixin(Mixin, Method):
    mixed = 6


def subclass(base: type = Method, /, **body) -> type:
    return type("nnUNetTrainerMine", (base,), {"__module__": "my_trainers", **body})


@pytest.fixture
def build(datasets, tmp_path):
    out, name = datasets(configurations=("2d",))

    def make(cls):
        return make_trainer(cls, out, name, "2d", results=tmp_path / "nnUNet_results")

    return make


# ------------------------------------------------------------------------------------------------------ hyper-parameters


def test_attributes_of_a_subclass_win_over_those_that_nnunet_assigns(build):
    trainer = build(Variant)
    for name in NNUNET_HYPERPARAMETERS:
        assert getattr(trainer, name) == vars(Variant)[name]
        assert getattr(trainer, name) != getattr(build(Method), name), name
    assert trainer.decay() == 0.5


def test_the_most_derived_class_wins_and_the_rest_is_inherited(build):
    trainer = build(VariantOfVariant)
    assert (trainer.num_epochs, trainer.save_every, trainer.ema_decay, trainer.inference) == (8, 4, 0.5, "teacher")


def test_attributes_declared_in_a_mixin_count(build):
    assert build(WithMixin).mixed == 6


def test_what_is_not_set_keeps_the_value_of_nnunet(build):
    stock, ours = build(nnUNetTrainer), build(ConfigurableTrainer)
    for name in NNUNET_HYPERPARAMETERS:
        assert getattr(ours, name) == getattr(stock, name)


def test_mutable_values_belong_to_one_trainer(build):
    build(Method).steps.append(3)
    assert Method.steps == [1, 2]


def test_the_constructor_has_the_signature_of_nnunet():
    def parameters(cls):
        return [(p.name, p.kind, p.default) for p in inspect.signature(cls.__init__).parameters.values()]

    assert parameters(ConfigurableTrainer) == parameters(nnUNetTrainer)


def test_hyperparameters_are_listed_with_their_values():
    assert declared_hyperparameters(Method) == {
        "seed": None,
        "ema_decay": 0.99,
        "steps": [1, 2],
        "inference": "teacher",
    }
    listed = declared_hyperparameters(VariantOfVariant)
    assert (listed["ema_decay"], listed["num_epochs"]) == (0.5, 8)
    assert set(listed) == {"seed", "ema_decay", "steps", "inference", *NNUNET_HYPERPARAMETERS}
    assert "num_heads" not in allowed_hyperparameters(Method)


def test_an_unknown_name_is_refused_before_anything_is_written(build, tmp_path):
    with pytest.raises(UserError) as caught:
        build(subclass(num_epoch=5))
    message = str(caught.value)
    for part in ("nnUNetTrainerMine", "my_trainers", "'num_epoch = 5'", "Did you mean num_epochs", "ema_decay, "):
        assert part in message
    assert "num_epoch: int = 5" in message
    assert not (tmp_path / "nnUNet_results").exists()


def test_an_unknown_name_in_a_class_in_between_is_refused():
    with pytest.raises(UserError, match="ema_decy"):
        check_hyperparameters(subclass(subclass(ema_decy=0.9)))


@pytest.mark.parametrize("annotation", [float, "float"])
def test_an_annotation_declares_a_new_hyperparameter(build, annotation):
    cls = subclass(temperature=0.5, __annotations__={"temperature": annotation})
    assert build(cls).temperature == 0.5
    check_hyperparameters(subclass(cls, temperature=0.1))


@pytest.mark.parametrize("annotation", ["Missing | None", "float.missing", "3 | None", "no type"])
def test_an_annotation_without_a_value_allows_everything(annotation):
    check_hyperparameters(subclass(temperature="hot", __annotations__={"temperature": annotation}))


@pytest.mark.parametrize(("name", "value"), [("batch_size", 4), ("device", "cpu"), ("fold", 1), ("network", None)])
def test_what_nnunet_sets_elsewhere_is_refused_with_the_reason_even_when_annotated(name, value):
    for body in ({name: value}, {name: value, "__annotations__": {name: "object"}}):
        with pytest.raises(UserError) as caught:
            check_hyperparameters(subclass(**body))
        assert f"'{name} = " in str(caught.value)
        assert NNUNET_RESERVED[name] in str(caught.value)


@pytest.mark.parametrize("name", ["train_step", "decay"])
def test_a_value_in_place_of_a_method_is_refused(name):
    with pytest.raises(UserError, match=f"'{name}' is a method of"):
        check_hyperparameters(subclass(**{name: 3}, __annotations__={name: "int"}))


def test_methods_properties_and_private_names_are_no_hyperparameters():
    body = {"_private": 1, "helper": lambda self: 1, "shown": property(lambda self: 1), "make": staticmethod(len)}
    cls = subclass(**body, Inner=int)
    check_hyperparameters(cls)
    assert declared_hyperparameters(cls) == declared_hyperparameters(Method)


def test_every_public_attribute_of_nnunets_trainer_is_either_tunable_or_reserved(build):
    trainer = build(nnUNetTrainer)
    trainer.initialize()
    public = {name for name in vars(trainer) if not name.startswith("_")}
    assert public == set(NNUNET_HYPERPARAMETERS) | set(NNUNET_RESERVED)


# ------------------------------------------------------------------------------------------------------------------ seed


def seeded(seed: int | None) -> type:
    return subclass(ConfigurableTrainer, seed=seed)


def draws() -> tuple:
    return random.random(), np.random.random(), torch.rand(1).item()


def test_equal_seeds_initialize_the_network_and_the_process_equally_and_others_do_not(build):
    results = {}
    for run, seed in (("first", 3), ("again", 3), ("other", 4), ("none", None)):
        trainer = build(seeded(seed))
        trainer.initialize()
        results[run] = weights_of(trainer.network), draws()
    assert largest_difference(results["first"][0], results["again"][0]) == 0
    assert results["first"][1] == results["again"][1]
    for run in ("other", "none"):
        assert largest_difference(results["first"][0], results[run][0]) > 0
        assert not set(results["first"][1]) & set(results[run][1])


def test_all_ranks_start_with_equal_networks(build):
    weights = []
    for rank in (0, 1):
        trainer = build(seeded(3))
        trainer.local_rank = rank
        trainer.initialize()
        weights.append(weights_of(trainer.network))
    assert largest_difference(*weights) == 0


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True])
def test_a_seed_that_is_no_natural_number_is_refused(build, seed):
    with pytest.raises(UserError, match=r"Allowed: an integer of at least 0, or None"):
        build(seeded(seed))


def test_seeds_differ_between_workers_ranks_roles_epochs_and_runs(build):
    trainer, other = build(seeded(3)), build(seeded(4))
    drawn = []
    for epoch in (0, 1):
        trainer.current_epoch = epoch
        for role in ("main", "train", "validation"):
            for rank in (0, 1):
                drawn += trainer.derived_seeds(role, 3, rank)
    drawn += other.derived_seeds("train", 3)
    assert len(set(drawn)) == len(drawn) == 2 * 3 * 2 * 3 + 3
    assert all(0 <= seed < 2**32 for seed in drawn)


def test_a_continued_run_does_not_draw_the_numbers_of_its_beginning(build, tmp_path):
    trainer = build(seeded(3))
    trainer.initialize()
    first = draws()
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    continued = build(seeded(3))
    continued.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert continued.current_epoch == 1
    assert not set(first) & set(draws())


def first_batches(trainer) -> list[np.ndarray]:
    """The first training and the first validation batch, each from one worker."""
    augmenters = trainer.get_dataloaders()
    try:
        return [next(augmenter)["data"].numpy() for augmenter in augmenters]
    finally:
        for augmenter in augmenters:
            trainer.restart_workers(augmenter)


def test_workers_give_equal_batches_for_equal_seeds_only(build, monkeypatch):
    results = {}
    for run, seed, epoch in (("first", 3, 0), ("again", 3, 0), ("other", 4, 0), ("later", 3, 1), ("none", None, 0)):
        trainer = build(seeded(seed))
        monkeypatch.setenv("nnUNet_n_proc_DA", "1")
        trainer.initialize()
        trainer.current_epoch = epoch
        results[run] = first_batches(trainer)
    for mine, again in zip(results["first"], results["again"], strict=True):
        np.testing.assert_array_equal(mine, again)
    for run in ("other", "later", "none"):
        for mine, its in zip(results["first"], results[run], strict=True):
            assert not np.array_equal(mine, its), run


class Counting:
    """A generator of batches that says which one it is."""

    def __init__(self, name: str):
        self.name = name

    def __next__(self):
        return {"name": self.name, "number": np.random.randint(2**31)}

    def set_thread_id(self, thread_id):
        pass


def test_a_new_generator_is_used_from_the_next_batch_on_and_workers_start_once(build):
    trainer = build(seeded(3))
    augmenter = NonDetMultiThreadedAugmenter(Counting("old"), None, 2)
    assert next(augmenter)["name"] == "old"
    trainer.restart_workers(augmenter, role="train")
    trainer.restart_workers(augmenter, Counting("new"), role="train")
    assert augmenter._processes == []
    assert augmenter.seeds == trainer.derived_seeds("train", 2)
    try:
        assert next(augmenter)["name"] == "new"
    finally:
        augmenter._finish()


def collect(error: type[Exception]) -> None:
    raise error("in the reader")


@pytest.mark.parametrize(
    ("error", "ours", "shown"), [(EOFError, True, []), (EOFError, False, [EOFError]), (ValueError, True, [ValueError])]
)
def test_ending_workers_hides_the_lost_connection_of_their_reader_and_nothing_else(
    build, monkeypatch, error, ours, shown
):
    reported = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: reported.append(failure.exc_type))
    augmenter = NonDetMultiThreadedAugmenter(Counting("old"), None, 1)
    thread = threading.Thread(target=collect, args=(error,))
    augmenter.results_loop_thread = thread if ours else threading.Thread()
    monkeypatch.setattr(augmenter, "_finish", lambda **_: (thread.start(), thread.join()))
    hook = threading.excepthook
    build(seeded(3)).restart_workers(augmenter)
    assert reported == shown
    assert threading.excepthook is hook


@pytest.mark.parametrize("seed", [3, None])
def test_new_workers_always_get_fresh_seeds(build, seed):
    """Also a second time in one epoch, and without a seed: a forked worker has the torch generator of this process."""
    trainer, used = build(seeded(seed)), []
    augmenter = NonDetMultiThreadedAugmenter(Counting("old"), None, 2)
    try:
        for _ in range(4):
            trainer.restart_workers(augmenter, Counting("new"))
            assert next(augmenter)["name"] == "new"
            used += augmenter.seeds
    finally:
        augmenter._finish()
    assert None not in used and len(set(used)) == 8
    if seed is not None:  # the first ones are those of the run, so that equal runs are equal
        assert used[:2] == build(seeded(seed)).derived_seeds("train", 2)


def test_without_worker_processes_the_generator_is_replaced_in_place(build):
    augmenter = SingleThreadedAugmenter(Counting("old"), None)
    build(seeded(3)).restart_workers(augmenter, Counting("new"))
    assert next(augmenter)["name"] == "new"


def test_workers_run_when_training_starts(build, monkeypatch):
    trainer = build(seeded(3))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    trainer.on_train_start()
    try:
        for augmenter in (trainer.dataloader_train, trainer.dataloader_val):
            assert [process.is_alive() for process in augmenter._processes] == [True]
            assert augmenter.seeds[0] is not None
    finally:
        for augmenter in (trainer.dataloader_train, trainer.dataloader_val):
            trainer.restart_workers(augmenter)
