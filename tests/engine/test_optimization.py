"""A step: numbers that are not finite, memory, weights, precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.helpers.training import copy_batch, largest_difference, make_trainer, peak_memory, started, weights_of

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
    with pytest.raises(RuntimeError, match=r"3 steps in a row were not finite: term\(s\) consistency\."):
        trainer.train_step(copy_batch(batch))


def with_a_root_of_zero(trainer) -> None:
    """A term of value 0 whose gradient is not a number."""
    original = trainer.unlabeled_terms
    trainer.unlabeled_terms = lambda logits, batch: {
        "consistency": 0 * original(logits, batch)["consistency"] + (logits[0] * 0).square().sum().sqrt()
    }


def test_steps_with_a_gradient_that_is_not_finite_are_counted_and_stop_the_run_and_the_term_is_named(
    datasets, tmp_path
):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path, max_nonfinite_steps=3)
    batch = next(trainer.dataloader_train)
    student = weights_of(trainer.network)
    with_a_root_of_zero(trainer)
    assert np.isfinite(trainer.train_step(copy_batch(batch))["loss"]) and trainer.nonfinite.skipped == 1
    assert largest_difference(student, weights_of(trainer.network)) == 0
    trainer.train_step(copy_batch(batch))
    with pytest.raises(RuntimeError, match=r"3 steps in a row were not finite: gradient of term\(s\) consistency, or"):
        trainer.train_step(copy_batch(batch))


def test_a_gradient_scaler_that_leaves_out_every_step_stops_the_run(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path, max_nonfinite_steps=3, num_iterations_per_epoch=4)
    trainer.grad_scaler = torch.amp.GradScaler("cpu")
    outputs = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(4)]
    trainer.on_train_epoch_end(outputs)  # of steps that were made
    with_a_root_of_zero(trainer)
    trainer.on_train_epoch_start()
    outputs = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(4)]
    with pytest.raises(RuntimeError, match=r"scale is 4096; .* of term\(s\) consistency, or"):
        trainer.on_train_epoch_end(outputs)


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
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    for epoch, waited in enumerate((0.0, 1e6, 1e6)):
        trainer.current_epoch = epoch
        outputs = [trainer.train_step(copy_batch(next(trainer.dataloader_train)))]
        trainer._waited = waited
        trainer.on_train_epoch_end(outputs)
    (log,) = (tmp_path / "results").rglob("training_log*.txt")
    (line,) = [line for line in log.read_text().splitlines() if "Steps wait for patches" in line]
    assert "nnUNet_n_proc_DA sets the number of worker processes, now 1:" in line


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


CPS = "nnUNetTrainerCPS"


def cps(datasets, tmp_path, **attributes):
    attributes = {"consistency_weight": 3.0, "rampup_fraction": 0.0} | attributes
    return started(make_trainer(CPS, *datasets(), results=tmp_path, **attributes))


def test_networks_in_turn_hold_one_graph_and_train_as_both_at_once(datasets, tmp_path):
    peaks, results = [], []
    for in_turn in (False, True):
        trainer = cps(datasets, tmp_path, one_graph_at_a_time=in_turn)
        batches = [next(trainer.dataloader_train) for _ in range(3)]
        values = trainer.train_step(copy_batch(batches[0]))
        peaks.append(peak_memory(trainer, copy_batch(batches[1])))
        trainer.train_step(copy_batch(batches[2]))
        numbers = {name: float(value) for name, value in values.items()}
        results.append((numbers, weights_of(trainer.network), weights_of(trainer.second.module)))
    (values, *networks), (other_values, *others) = results
    assert values == pytest.approx(other_values, rel=1e-5)
    assert all(largest_difference(a, b) < 1e-6 for a, b in zip(networks, others, strict=True))
    assert peaks[1] < 0.75 * peaks[0]


IN_TURN = {
    "nnUNetTrainerCrossTeaching": {"drop_path": 0.0, "rampup_fraction": 0.0, "transformer_delay": 0.0},
    "nnUNetTrainerDeepCoTraining": {"rampup_fraction": 0.0},
    "nnUNetTrainerSDCL": {"pretrain_fraction": 0.0, "competence": 0.0},
}


@pytest.mark.parametrize("name", IN_TURN)
def test_methods_of_two_networks_hold_one_graph_and_train_as_with_both(name, datasets, tmp_path):
    peaks, results = [], []
    for in_turn in (False, True):
        attributes = IN_TURN[name] | {"one_graph_at_a_time": in_turn}
        trainer = started(make_trainer(name, *datasets(), results=tmp_path, **attributes))
        batches = [next(trainer.dataloader_train) for _ in range(2)]
        torch.manual_seed(0), np.random.seed(0)
        values = trainer.train_step(copy_batch(batches[0]))
        peaks.append(peak_memory(trainer, copy_batch(batches[1])))
        numbers = {term: float(value) for term, value in values.items()}
        members = [trainer.student, *trainer.members.supervised]
        results.append((numbers, *(weights_of(member.module) for member in members)))
    (values, *networks), (other_values, *others) = results
    assert values == pytest.approx(other_values, rel=1e-4, abs=1e-6)
    assert all(largest_difference(a, b) < 1e-5 for a, b in zip(networks, others, strict=True))
    if (
        name != "nnUNetTrainerCrossTeaching"
    ):  # on patches this small the gradients of its transformer are most of the memory
        assert peaks[1] < 0.75 * peaks[0]


def test_a_group_goes_backward_before_the_next_group_is_made(datasets, tmp_path):
    trainer = cps(datasets, tmp_path)
    gradients = []

    def groups(batch):
        yield {"labeled": trainer.supervised_loss(trainer.student(batch.labeled), batch.target, batch)}
        gradients.extend(any(p.grad is not None for p in m.parameters()) for m in (trainer.student, trainer.second))
        yield {"cps_second": trainer.second(batch.unlabeled)[0].square().mean()}

    trainer.term_groups = groups
    trainer.weights = lambda: {"cps_first": 0.0, "cps_second": 3.0, "labeled_second": 0.0}  # what the groups leave out
    values = trainer.train_step(next(trainer.dataloader_train))
    assert gradients == [True, False]  # the first group went backward before the second one was asked for
    assert any(p.grad is not None for p in trainer.second.parameters())
    assert values["loss"] == pytest.approx(values["labeled"] + 3.0 * values["cps_second"], rel=1e-5)


def test_a_term_of_two_groups_and_a_group_of_unknown_terms_are_errors(datasets, tmp_path):
    trainer = cps(datasets, tmp_path)
    batch = next(trainer.dataloader_train)
    trainer.term_groups = lambda b: iter([trainer.labeled_terms(b.without_unlabeled()) for _ in range(2)])
    with pytest.raises(ValueError, match=r"term_groups: term\(s\) \['labeled', 'labeled_second'\] are in two groups"):
        trainer.train_step(copy_batch(batch))
    trainer.term_groups = lambda b: iter([{"cps_third": torch.zeros((), requires_grad=True)}])
    with pytest.raises(ValueError, match=r"no weight for term\(s\) \['cps_third'\]"):
        trainer.train_step(copy_batch(batch))


def test_gradient_shares_of_groups_are_those_of_one_group(datasets, tmp_path):
    found = []
    for grouped in (True, False):
        trainer = cps(datasets, tmp_path, num_iterations_per_epoch=1)
        if not grouped:
            original = trainer.term_groups

            def joined(batch, original=original):
                terms = {}
                for group in original(batch):
                    terms |= group
                yield terms

            trainer.term_groups = joined
        trainer.train_step(next(trainer.dataloader_train))
        found.append(trainer.gradient_shares)
    assert list(found[0]) == ["gradient_share/cps_first", "gradient_share/cps_second"]
    assert found[0] == pytest.approx(found[1], rel=1e-4) and all(share > 0 for share in found[0].values())


def test_a_value_that_is_no_loss_is_logged_and_reaches_no_gradient(datasets, tmp_path):
    results = []
    for value in (0.25, float("nan")):
        trainer = start(*datasets(), tmp_path)
        terms, weights = trainer.unlabeled_terms, trainer.weights
        trainer.unlabeled_terms = lambda logits, batch, t=terms, v=value: (
            t(logits, batch) | {"sure": logits[0].mean() * 0 + v}
        )
        trainer.weights = lambda w=weights: w() | {"sure": 0.0}
        trainer.iteration = trainer.total_steps // 2
        torch.manual_seed(3)
        values = trainer.train_step(next(trainer.dataloader_train))
        trainer.on_train_epoch_end([values])
        assert np.array_equal(trainer.curves.values["term/sure"], [value], equal_nan=True)
        assert trainer.nonfinite.skipped == 0
        results.append(weights_of(trainer.network))
    assert largest_difference(*results) == 0
