"""No default term may be without effect: its gradient reaches 2 % of the labeled loss's, or the trainer is named here."""

from __future__ import annotations

import statistics

import pytest

from tests.helpers.trainers import PARTIAL, SPARSE, UNLABELED, needs, next_batches, run_steps, to_the_last_quarter
from tests.helpers.training import make_trainer, started

SMALLEST = 0.02
STEPS = 8

# trainers of which no default term reaches it, and why the default stays
WITHOUT_EFFECT = {
    "nnUNetTrainerScribbleIntensityVariance": "published weight of WSL4MIS; no study has decided on another",
    "nnUNetTrainerScribbleTV": "published weight of PyMIC; no study has decided on another",
}
# nnU-Net's own loss, in this or another form: nothing beside it
NO_TERM = {"nnUNetTrainerEMA", "nnUNetTrainerScribblePCE", *PARTIAL}


def largest_shares(name: str, datasets, tmp_path) -> dict[str, list[float]]:
    """Share of each term in some steps at the end of a training, when all ramps are over."""
    out, dataset = datasets(**needs(name))
    trainer = started(make_trainer(name, out, dataset, results=tmp_path, num_iterations_per_epoch=1, num_epochs=1000))
    to_the_last_quarter(trainer)
    trainer.iteration = 990
    found: dict[str, list[float]] = {}
    for batch in next_batches(trainer, STEPS):
        run_steps(trainer, [batch])
        for term, share in trainer.gradient_shares.items():
            found.setdefault(term, []).append(share)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in UNLABELED + SPARSE if name not in NO_TERM])
def test_a_default_term_pulls_at_the_segmentation_layers(name, datasets, tmp_path):
    found = largest_shares(name, datasets, tmp_path)
    assert found
    if name in WITHOUT_EFFECT:
        medians = {term: statistics.median(shares) for term, shares in found.items()}
        assert max(medians.values()) < SMALLEST, f"{name} no longer belongs into WITHOUT_EFFECT: {medians}"
    else:
        assert max(map(max, found.values())) >= SMALLEST, found
