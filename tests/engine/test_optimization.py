"""A step: numbers that are not finite, memory, weights, precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.training import copy_batch, largest_difference, make_trainer, started, weights_of

MEAN_TEACHER = "nnUNetTrainerMeanTeacher"


def start(out, dataset, tmp_path, **attributes):
    return started(make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path / "results", **attributes))


def poisoned(trainer, name):
    original = trainer.unlabeled_terms

    def terms(logits, batch):
        return {k: v * (float("nan") if k == name else 1) for k, v in original(logits, batch).items()}

    trainer.unlabeled_terms = terms
    return lambda: setattr(trainer, "unlabeled_terms", original)


def test_a_step_that_is_not_finite_is_skipped_and_counted(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    batch = next(trainer.dataloader_train)
    good = trainer.train_step(copy_batch(batch))
    student, teacher = weights_of(trainer.network), weights_of(trainer.teacher.module)
    heal = poisoned(trainer, "consistency")
    bad = trainer.train_step(copy_batch(batch))
    assert not np.isfinite(bad["loss"]) and trainer.nonfinite.skipped == 1
    assert largest_difference(student, weights_of(trainer.network)) == 0
    assert largest_difference(teacher, weights_of(trainer.teacher.module)) == 0
    heal()
    trainer.train_step(copy_batch(batch))
    assert largest_difference(student, weights_of(trainer.network)) > 0
    trainer.on_train_epoch_end([good, bad])
    assert trainer.logger.get_value("train_losses", step=-1) == pytest.approx(float(good["loss"]))
    assert trainer.curves.values["steps/skipped"] == [1]


def test_many_steps_in_a_row_that_are_not_finite_stop_the_run_and_name_the_term(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path, max_nonfinite_steps=3)
    batch = next(trainer.dataloader_train)
    poisoned(trainer, "consistency")
    trainer.train_step(copy_batch(batch)), trainer.train_step(copy_batch(batch))
    with pytest.raises(RuntimeError, match=r"3 steps in a row .* term\(s\): consistency"):
        trainer.train_step(copy_batch(batch))


def test_out_of_gpu_memory_names_the_unlabeled_batch_size(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path, unlabeled_batch_size=3)

    def exhausted(logits, batch):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    trainer.unlabeled_terms = exhausted
    with pytest.raises(RuntimeError, match=r"2 labeled and 3 unlabeled patches\..* lower `unlabeled_batch_size`"):
        trainer.train_step(next(trainer.dataloader_train))


def test_waiting_for_patches_is_said_once_with_the_remedy(datasets, tmp_path, monkeypatch):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    monkeypatch.setenv("nnUNet_n_proc_DA", "3")
    for epoch, waited in enumerate((0.0, 1e6, 1e6)):
        trainer.current_epoch = epoch
        outputs = [trainer.train_step(copy_batch(next(trainer.dataloader_train)))]
        trainer._waited = waited
        trainer.on_train_epoch_end(outputs)
    (log,) = (tmp_path / "results").rglob("training_log*.txt")
    (line,) = [line for line in log.read_text().splitlines() if "Steps wait for patches" in line]
    assert "nnUNet_n_proc_DA sets the number of worker processes, now 3" in line


def test_weights_must_name_the_same_terms_in_every_step(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    batch = next(trainer.dataloader_train)
    trainer.train_step(copy_batch(batch))
    trainer.weights = lambda: {"another": 1.0}
    with pytest.raises(ValueError, match="must name the same terms"):
        trainer.train_step(copy_batch(batch))


def test_a_term_without_weight_is_an_error(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    trainer.weights = lambda: {"other": 1.0}
    with pytest.raises(ValueError, match=r"no weight for term\(s\) \['consistency'\]"):
        trainer.train_step(next(trainer.dataloader_train))


def test_mixed_precision_keeps_the_loss_terms_in_float32(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    trainer.autocast = lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    dtypes = []
    original = trainer.unlabeled_terms

    def terms(logits, batch):
        result = original(logits, batch)
        dtypes.extend([logits[0].dtype, result["consistency"].dtype])
        return result

    trainer.unlabeled_terms = terms
    values = trainer.train_step(next(trainer.dataloader_train))
    assert dtypes == [torch.bfloat16, torch.float32]
    assert np.isfinite(values["loss"])


def test_the_gradient_scaler_steps_every_optimizer(datasets, tmp_path):
    """The CUDA path of the step with a scaler that works on CPU: same weights as without."""
    out, dataset = datasets()
    results = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        trainer = make_trainer("nnUNetTrainerTestTwoNetworks", out, dataset, results=tmp_path)
        started(trainer)
        trainer.grad_scaler = scaler
        torch.manual_seed(0)
        np.random.seed(0)
        trainer.train_step(next(trainer.dataloader_train))
        results.append([weights_of(trainer.network), weights_of(trainer.second.module)])
    for plain, scaled in zip(*results, strict=True):
        assert largest_difference(plain, scaled) < 1e-6
