"""Values of hyper-parameters: what their annotation allows, refused before a training starts."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_args, get_origin

import numpy as np
import pytest

from nnunet_ssl.discovery.variants import trainer_classes
from nnunet_ssl.engine import configurable
from nnunet_ssl.engine.configurable import allowed_hyperparameters, check_hyperparameters
from nnunet_ssl.engine.value_ranges import (
    BelowOne,
    Count,
    Duration,
    FocalExponent,
    Positive,
    Range,
    Rising,
    Share,
    Weight,
    Whole,
    described,
    fits,
)
from nnunet_ssl.errors import UserError


@pytest.mark.parametrize(
    ("annotation", "right", "wrong"),
    [
        (Share, [0, 1, 0.5, np.float32(0.5)], [-0.1, 1.1, "0.5", None, True, math.nan]),
        (Duration, [0.0, 1.5], [-1, math.inf]),
        (Weight | None, [None, 0.0, 300, np.int64(2)], [-1e-9, "None", [1.0], math.nan]),
        (Count, [1, np.int64(3)], [0, 2.0, True, "2"]),
        (Whole, [0, 7], [-1, 0.5]),
        (bool, [True, np.bool_(False)], [0, 1, "True", None]),
        (str | None, ["both", None], [3, b"both"]),
        (tuple[float, float] | None, [(0.7, 0.9), [0, 1], None], [(0.7,), (0.7, "0.9"), 0.7]),
        (tuple[Count, ...], [(), (2, 4)], [(2, 0), 2]),
        (Positive, [1e-9, 3], [0, -1, 0.0]),
        (BelowOne, [0, 0.99], [1, 1.0, -0.1]),
        (Annotated[float, Range(None, 0, without=0)], [-1500.0], [0, 1500.0]),
        (FocalExponent, [0, 0.0, 1, 2.5], [0.5, -1, False]),
        (Literal["both", "dice"], ["dice"], ["Dice", None, 1, ["dice"]]),
        (Annotated[tuple[Share, Share], Rising()] | None, [(0.2, 0.2), [0, 1], None], [(0.9, 0.7), (0.5,), (0.5, 1.5)]),
        (dict[str, str], [{}, 3], []),  # not checked
        (Any, [object()], []),
    ],
)
def test_values_that_fit_and_that_do_not(annotation, right, wrong):
    assert all(fits(value, annotation) for value in right)
    assert not any(fits(value, annotation) for value in wrong)


def test_what_is_allowed_is_said_in_words():
    assert described(Share | None) == "a number from 0 to 1, or None"
    assert described(Weight) == "a number of at least 0" and described(Count) == "an integer of at least 1"
    assert described(tuple[float, float]) == "2 values in brackets: a number, a number"
    assert described(tuple[int, ...]) == "any number of values in brackets, each an integer"
    assert described(bool) == "True or False" and described(str) == "a text"
    assert described(Positive) == "a number above 0" and described(BelowOne) == "a number from 0 to 1, not 1"
    assert described(FocalExponent) == "a number of at least 1, or 0"
    assert described(Annotated[float, Range(None, 0, without=0)]) == "a number below 0"
    assert described(Literal["a", "b"] | None) == "'a' or 'b', or None"
    pair = "2 values in brackets: a number from 0 to 1, a number from 0 to 1 in rising order"
    assert described(Annotated[tuple[Share, Share], Rising()]) == pair


@pytest.mark.parametrize(
    ("trainer", "name", "value", "allowed"),
    [
        ("SemiSupervised", "labels_last", 1.5, "a number from 0 to 1, or None"),
        ("SemiSupervised", "unlabeled_weight", -1.0, "a number of at least 0, or None"),
        ("SemiSupervised", "labels_last", "0.2", "a number from 0 to 1, or None"),
        ("MeanTeacher", "ema_decay", 99, "a number from 0 to 1"),
        ("CPS", "mix", "False", "True or False"),
        ("MCNet", "decoders", 2.5, "2 or 3"),
        ("CycleMix", "blocks", 4, "any number of values in brackets, each an integer of at least 1"),
        ("UniMatch", "form", None, "'both' or 'cross_entropy' or 'dice'"),  # was found out at 0.3 of a run
        ("UniMatch", "form", "Dice", "'both' or 'cross_entropy' or 'dice'"),
        ("MCF", "omega", 1.5, "a number from 0 to 1, not 1"),  # voxels had weights below 0
        ("DTC", "steepness", 1500.0, "a number below 0"),  # masks of the outside
        ("DyCON", "temperature", 0.0, "a number above 0"),  # every step was left out
        ("DyCON", "beta_start", -1.0, "a number above 0"),
        ("DAN", "discriminator_dropout", 1.0, "a number from 0 to 1, not 1"),  # it saw nothing
        ("ICT", "alpha", 0.0, "a number above 0"),
        ("FilterMatch", "filter_percentile", 150.0, "a number from 0 to 100"),
        ("DeepCoTraining", "step", -0.02, "a number of at least 0"),  # examples that help
        ("MeanTeacher", "inference", "Teacher", "'teacher' or 'student'"),
        ("SemiSupervised", "num_epochs", 0, "an integer of at least 1"),
        ("SemiSupervised", "num_iterations_per_epoch", 250.0, "an integer of at least 1"),
        ("SemiSupervised", "oversample_foreground_percent", 33, "a number from 0 to 1"),
        ("Scribble2Label", "unlabeled_batch_size", 0, "an integer of at least 1, or None"),
        ("FilterMatch", "seed", -1, "an integer of at least 0, or None"),
    ],
)
def test_a_value_of_a_users_subclass_is_refused_in_a_sentence(trainer, name, value, allowed):
    parent = trainer_classes()[f"nnUNetTrainer{trainer}"]
    own = type("nnUNetTrainerMine", (parent,), {"__module__": "mine", name: value})
    with pytest.raises(UserError) as caught:
        check_hyperparameters(own)
    assert str(caught.value) == f"class nnUNetTrainerMine (mine) sets '{name} = {value!r}'. Allowed: {allowed}."


@pytest.mark.parametrize("trainer", sorted(trainer_classes()))
def test_defaults_are_allowed_and_weights_and_shares_have_a_range(trainer):
    cls = trainer_classes()[trainer]
    check_hyperparameters(cls)
    ending = ("_weight", "_fraction", "_share")
    for name in (name for name in allowed_hyperparameters(cls) if name.endswith(ending) and hasattr(cls, name)):
        with pytest.raises(UserError, match=r"Allowed: .*a number"):
            check_hyperparameters(
                type("nnUNetTrainerMine", (cls,), {name: (-0.5, 0.5) if name == "mix_share" else -0.5})
            )


def _open(annotation: Any) -> bool:
    """Whether an annotation allows every number or every text."""
    if annotation in (int, float, str):
        return True
    if get_origin(annotation) in (Annotated, Literal, dict):
        return False
    return any(map(_open, get_args(annotation)))


@pytest.mark.parametrize("trainer", sorted(trainer_classes()))
def test_every_number_and_text_of_a_trainer_says_what_is_allowed(trainer):
    unlimited = {}
    for c in configurable._classes_below_nnunet(trainer_classes()[trainer]):
        annotations = configurable._own_annotations(c)
        resolved = {name: configurable._resolved(c, annotations[name]) for name in configurable._declared_in(c)}
        assert Any not in resolved.values(), f"{c.__name__} has annotations that cannot be evaluated"
        unlimited |= {name: (c.__name__, a) for name, a in resolved.items() if _open(a)}
    unlimited.pop("round_name", None)  # a folder
    assert not unlimited
