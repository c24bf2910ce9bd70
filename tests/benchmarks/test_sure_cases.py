"""SemiSupervised that begins with the unlabeled images of which it is surest: which, and when the others come."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_ssl.predictions.selection import foreground_entropy
from tests.helpers.training import make_trainer, started


@pytest.mark.parametrize("regions", [False, True])
def test_the_surest_images_come_first_and_then_all(regions, datasets, tmp_path, trainers_of_benchmarks):
    name = "nnUNetTrainerSemiSupervisedSureCases"
    out, dataset = datasets(regions=regions)
    trainer = started(make_trainer(name, out, dataset, results=tmp_path, latest=0.4, num_epochs=10))
    everything = list(trainer.unlabeled_pool)
    entropies = trainer.score_unlabeled(lambda p: foreground_entropy(p, trainer.activation))

    def pool_at(progress: float) -> list[str]:
        trainer.iteration = round(progress * trainer.total_steps)
        trainer.after_epoch()
        return list(trainer.unlabeled_pool)

    assert pool_at(0.3) == everything  # the gate is shut
    sure = pool_at(0.4)
    assert len(sure) == round(len(everything) / 2) < len(everything)
    assert sorted(sure) == sorted(np.array(sorted(entropies, key=entropies.get))[: len(sure)])
    assert pool_at(0.6) == sure and pool_at(0.7) == everything and pool_at(1.0) == everything
