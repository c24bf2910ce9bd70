"""Values of hyper-parameters: what their annotation allows, refused before a training starts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nnunet_ssl.discovery.variants import trainer_classes
from nnunet_ssl.engine.configurable import allowed_hyperparameters, check_hyperparameters
from nnunet_ssl.engine.value_ranges import Count, Duration, Share, Weight, Whole, described, fits
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


@pytest.mark.parametrize(
    ("trainer", "name", "value", "allowed"),
    [
        ("SemiSupervised", "labels_last", 1.5, "a number from 0 to 1, or None"),
        ("SemiSupervised", "unlabeled_weight", -1.0, "a number of at least 0, or None"),
        ("SemiSupervised", "labels_last", "0.2", "a number from 0 to 1, or None"),
        ("MeanTeacher", "ema_decay", 99, "a number from 0 to 1"),
        ("CPS", "mix", "False", "True or False"),
        ("MCNet", "decoders", 2.5, "an integer of at least 1"),
        ("CycleMix", "blocks", 4, "any number of values in brackets, each an integer"),
        ("UniMatch", "form", None, "a text"),
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
