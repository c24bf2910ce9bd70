"""A mistake in what a seam returns is named, and none leaves something out of the training in silence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from nnunet_ssl.engine.curves import BOTH
from nnunet_ssl.losses.consistency import softmax_mse
from nnunet_ssl.trainer import nnUNetTrainerSSL
from tests.helpers.training import make_trainer, started


class Plain(nnUNetTrainerSSL):
    """One term on unlabeled patches."""

    def unlabeled_terms(self, logits, batch):
        return {"term": softmax_mse(logits[0], self.without_gradient(self.student, batch.unlabeled)[0])}

    def weights(self):
        return {"term": 0.1}


def step(datasets, tmp_path, **seams):
    trainer = started(make_trainer(Plain, *datasets(), results=tmp_path, **seams))
    return trainer.train_step(next(trainer.dataloader_train))


def scalar(self, batch):
    return self.student(batch.unlabeled)[0].mean()


IN_A_STEP = {
    "no dictionary": (
        {"unlabeled_terms": lambda self, z, b: None},
        r"Plain\.unlabeled_terms must return a dictionary, term -> scalar tensor, got NoneType",
    ),
    "a tensor": (
        {"unlabeled_terms": lambda self, z, b: z[0].mean()},
        r"Plain\.unlabeled_terms must return a dictionary.*, got a tensor of shape \(\)",
    ),
    "a map": (
        {"unlabeled_terms": lambda self, z, b: {"term": z[0]}},
        r"unlabeled_terms: the term 'term' must be a tensor of one number \(shape \(\)\), got a tensor of shape \(2, 3, 24",
    ),
    "a number": ({"unlabeled_terms": lambda self, z, b: {"term": 0.5}}, r"the term 'term' must be .*, got float"),
    "nnU-Net's name": (
        {"unlabeled_terms": lambda self, z, b: {"labeled": z[0].mean()}},
        r"unlabeled_terms: name\(s\) \['labeled'\] are those of other values",
    ),
    "the sum's name": (
        {"unlabeled_terms": lambda self, z, b: {"loss": z[0].mean()}, "weights": lambda self: {"loss": 1.0}},
        r"name\(s\) \['loss'\] are those of other values",
    ),
    "terms": ({"terms": lambda self, b: None}, r"\.terms must return a dictionary.*, got NoneType"),
    "no groups": ({"term_groups": lambda self, b: None}, r"term_groups must yield dictionaries of terms, got NoneType"),
    "one group": ({"term_groups": lambda self, b: {}}, r"term_groups must yield dictionaries of terms, got dict"),
    "a weight without a term": (
        {"weights": lambda self: {"term": 0.1, "other": 0.1}},
        r"term\(s\) \['other'\] have a weight and were not computed, only \['labeled', 'term'\]",
    ),
    "labels forgotten": (
        {"terms": lambda self, b: {"term": scalar(self, b)}},
        r"term\(s\) \['labeled'\] have a weight and were not computed.*replaces_labeled_loss",
    ),
    "no weights": ({"weights": lambda self: None}, r"weights must return a dictionary, term -> number, got NoneType"),
    "a tensor as weight": (
        {"weights": lambda self: {"term": torch.ones(())}},
        r"weights: the weight of 'term' must be a number, got a tensor of shape \(\)",
    ),
    "a weight that is not finite": (
        {"weights": lambda self: {"term": float("nan")}},
        r"weights: the weight of 'term' is nan",
    ),
}


@pytest.mark.parametrize("seams, message", IN_A_STEP.values(), ids=list(IN_A_STEP))
def test_a_wrong_value_in_a_step_is_named(seams, message, datasets, tmp_path):
    with pytest.raises((TypeError, ValueError), match=message):
        step(datasets, tmp_path, **seams)


def test_terms_that_stand_for_nnunets_loss_need_not_have_its_name(datasets, tmp_path):
    values = step(datasets, tmp_path, terms=lambda self, b: {"term": scalar(self, b)}, replaces_labeled_loss=True)
    assert values["labeled"] == 0 and values["loss"] == pytest.approx(0.1 * values["term"])


AT_THE_START = {
    "views without names": (
        {"unlabeled_views": lambda self, intensity: [intensity]},
        r"unlabeled_views must return a dictionary, view -> list of transforms, got list",
    ),
    "no view": ({"unlabeled_views": lambda self, intensity: {}}, r"unlabeled_views must return at least one view"),
    "a view of nothing": (
        {"unlabeled_views": lambda self, intensity: {"a": intensity, "b": None}},
        r"unlabeled_views: the view 'b' must be a list of transforms, got NoneType",
    ),
    "a labeled view": (
        {"labeled_views": lambda self, intensity: {"a": None}},
        r"labeled_views: the view 'a' must be a list",
    ),
    "a further stream": (
        {"further_unlabeled": lambda self, intensity: {"mix": intensity}},
        r"further_unlabeled, 'mix' must return a dictionary",
    ),
    "further streams": (
        {"further_unlabeled": lambda self, intensity: [intensity]},
        r"Plain\.further_unlabeled must return a dictionary, name -> dictionary of views, got list",
    ),
    "streams without names": (
        {"further_streams": lambda self, labeled: [labeled]},
        r"Plain\.further_streams must return a dictionary, name -> loader of nnU-Net's, got list",
    ),
    "a stream that is no loader": (
        {"further_streams": lambda self, labeled: {"masks": [labeled]}},
        r"Plain\.further_streams: 'masks' must be a loader of nnU-Net's, got list",
    ),
    "no transforms": (
        {"labeled_transforms": lambda self, transforms: None},
        r"Plain\.labeled_transforms must return a list of transforms, got NoneType",
    ),
    "extras instead of their function": (
        {"labeled_extras": lambda self: {"distances": torch.zeros(1)}},
        r"Plain\.labeled_extras must return a function of the labeled target, or None, got dict",
    ),
    "an extra without a name": (
        {"labeled_extras": lambda self: lambda target: target},
        r"Plain\.labeled_extras: its function must return a dictionary, name -> tensor, got a tensor of shape \(2, 1, 24",
    ),
    "an extra that is no tensor": (
        {"labeled_extras": lambda self: lambda target: {"distances": target.numpy()}},
        r"Plain\.labeled_extras: its function: 'distances' must be a tensor, got ndarray",
    ),
    "an extra with the name of a stream": (
        {
            "labeled_extras": lambda self: lambda target: {"masks": target},
            "further_streams": lambda self, labeled: {"masks": labeled},
        },
        r"Plain\.labeled_extras: name\(s\) \['masks'\] are those of further_streams; choose others",
    ),
    "labeled probabilities": (
        {"case_probabilities": lambda self, cases: np.ones(len(cases))},
        r"the probabilities of 3 labeled cases must be as many numbers >= 0 with the sum 1, got \[1\.0, 1\.0, 1\.0\]",
    ),
    "places": (
        {"term_patches": {"term": "labelled"}},
        r"Plain\.term_patches: \{'term': 'labelled'\}, allowed are LABELED, UNLABELED, BOTH",
    ),
    "no network to validate": (
        {"inference_network": lambda self: self.network},
        r"inference_network must return the student or a registered network or teacher, got PlainConvUNet",
    ),
    "a state that cannot be kept": (
        {"build_method": lambda self: self.register_state("queue", [])},
        r"the state 'queue' \(list\) has no state_dict and no load_state_dict",
    ),
    "a teacher of nothing": (
        {"build_method": lambda self: self.register_teacher(0.9, source=nn.Conv2d(1, 1, 1))},
        r"the source of the teacher 'teacher' must be what `register_network` or .*, got Conv2d",
    ),
    "a decay in percent": (
        {"build_method": lambda self: self.register_teacher(99)},
        r"the decay of the teacher 'teacher' must be in \[0, 1\], got 99",
    ),
}


@pytest.mark.parametrize("seams, message", AT_THE_START.values(), ids=list(AT_THE_START))
def test_a_wrong_value_at_the_start_is_named(seams, message, datasets, tmp_path):
    with pytest.raises((TypeError, ValueError), match=message):
        step(datasets, tmp_path, **seams)


def test_a_teacher_before_there_is_a_network_is_refused(datasets, tmp_path):
    trainer = make_trainer(Plain, *datasets(), results=tmp_path, term_patches={"term": BOTH})
    with pytest.raises(RuntimeError, match=r"there is no network yet\. Register teachers in `build_method`"):
        trainer.register_teacher(0.9)


def of_another(parameters):
    return SGD(parameters, 0.1), StepLR(SGD([nn.Parameter(torch.zeros(1))], 0.1), 1)


def on_plateaus(parameters):
    optimizer = SGD(parameters, 0.1)
    return optimizer, ReduceLROnPlateau(optimizer)


OPTIMIZERS = {
    "nothing": (lambda p: None, "must return an optimizer of PyTorch, or .* got NoneType"),
    "a list": (lambda p: [Adam(p)], "must return an optimizer of PyTorch, or .* got list"),
    "a factor": (lambda p: (Adam(p), 0.9), "must be None or one of torch.optim.lr_scheduler.* got float"),
    "a metric": (on_plateaus, "that steps without a metric, got ReduceLROnPlateau"),
    "another's": (of_another, "the schedule StepLR was made for another optimizer"),
    "an optimizer": (
        Adam([nn.Parameter(torch.zeros(1))]),
        "or a function from parameters to an optimizer, got Adam$",
    ),
}


@pytest.mark.parametrize("optimizer, message", OPTIMIZERS.values(), ids=list(OPTIMIZERS))
def test_an_optimizer_that_would_not_train_as_meant_is_refused(optimizer, message, datasets, tmp_path):
    def build(self):
        self.register_module("head", nn.Conv2d(3, 1, 1), optimizer=optimizer)

    with pytest.raises((TypeError, ValueError), match=message):
        make_trainer(Plain, *datasets(), results=tmp_path, build_method=build).initialize()
