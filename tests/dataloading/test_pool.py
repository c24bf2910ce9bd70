"""The pool that workers read."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter

from nnunet_ssl.dataloading.pool import UnlabeledPool
from tests.helpers.training import make_trainer, started

NAME = "nnUNetTrainerMeanTeacher"


def test_it_is_read_as_it_was_set():
    pool = UnlabeledPool(["b", "a", "c"])
    assert pool.read() == (0, [], None)
    pool.set(["c", "a"])
    assert pool.read() == (1, ["a", "c"], None)
    pool.set(["c", "a"], np.array([0.25, 0.75]))
    version, cases, probabilities = pool.read()
    assert (version, cases, probabilities.tolist()) == (2, ["a", "c"], [0.75, 0.25])
    pool.set([])
    assert pool.read() == (3, [], None)


@pytest.mark.parametrize("probabilities", [[0.5], [0.7, 0.7], [-0.5, 1.5]], ids=str)
def test_what_is_no_distribution_and_cases_that_are_not_there_are_refused(probabilities):
    pool = UnlabeledPool(["a", "b"])
    with pytest.raises(ValueError, match="as many numbers >= 0 with the sum 1"):
        pool.set(["a", "b"], np.array(probabilities))
    with pytest.raises(ValueError, match="not among the unlabeled cases: x"):
        pool.set(["a", "x"])
    assert pool.read() == (0, [], None)


def test_a_reader_that_is_overtaken_reads_again(monkeypatch):
    pool = UnlabeledPool(["a", "b"])
    pool.set(["a"])
    versions = iter([1, 3, 3, 3])  # two changes while the row is read: it may hold half of the second one
    monkeypatch.setattr(UnlabeledPool, "version", property(lambda _: next(versions)))
    assert pool.read()[0] == 3
    assert next(versions, None) is None


def draw_in_a_worker(trainer, monkeypatch, count: int = 2):
    """The trainer's training stream from worker processes."""
    loader = trainer.dataloader_train.data_loader
    trainer.dataloader_train = NonDetMultiThreadedAugmenter(loader, None, count, seeds=list(range(count)))
    next(trainer.dataloader_train)
    return trainer.dataloader_train


def test_running_workers_follow_and_what_they_had_drawn_before_is_dropped(datasets, tmp_path, monkeypatch):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path))
    augmenter = draw_in_a_worker(trainer, monkeypatch)
    workers = [process.pid for process in augmenter._processes]
    seen = []
    original = trainer.unlabeled_terms
    trainer.unlabeled_terms = lambda logits, batch: (
        seen.extend(map(str, batch.unlabeled_keys)) or original(logits, batch)
    )
    try:
        for pool in (["free_01"], ["free_00", "free_02"], ["free_01"]):
            trainer.set_unlabeled_cases(pool)
            seen.clear()
            for _ in range(6):
                trainer.train_step(next(augmenter))
            assert set(seen) <= set(pool) and len(seen) == 12
        trainer.set_unlabeled_cases([])
        seen.clear()
        assert trainer.train_step(next(augmenter))["consistency"] == 0 and not seen
        assert [process.pid for process in augmenter._processes] == workers
        assert all(process.is_alive() for process in augmenter._processes)
    finally:
        augmenter._finish()


def test_a_loader_that_is_sent_to_a_process_takes_the_pool_with_it():
    pool = UnlabeledPool(["a", "b"])
    pool.set(["b"])
    assert pickle.loads(pickle.dumps(pool)).read() == (1, ["b"], None)
    assert pool._rows.is_shared() and pool._version.is_shared()


def test_an_unchanged_pool_draws_the_random_numbers_that_nnunet_draws(datasets, tmp_path):
    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path))
    loader = trainer.dataloader_train.data_loader
    np.random.seed(5), torch.manual_seed(5)
    found = next(loader)["unlabeled_keys"].tolist()
    np.random.seed(5), torch.manual_seed(5)
    next(loader.labeled)
    assert found == np.random.choice(sorted(trainer.cases.folders), 2, replace=True, p=None).tolist()


def test_unlabeled_cases_are_drawn_with_their_probabilities(datasets, tmp_path):
    asked = []

    def probabilities(self, cases):
        asked.append(list(cases))
        return np.array([0.0, *[1 / (len(cases) - 1)] * (len(cases) - 1)])

    trainer = started(make_trainer(NAME, *datasets(), results=tmp_path, unlabeled_probabilities=probabilities))
    everything = trainer.unlabeled_pool
    keys = {str(k) for _ in range(20) for k in next(trainer.dataloader_train)["unlabeled_keys"]}
    assert asked == [everything] and keys == set(everything[1:])
    trainer.set_unlabeled_cases(everything[1:])
    assert {str(k) for _ in range(20) for k in next(trainer.dataloader_train)["unlabeled_keys"]} == {everything[2]}
