"""What a row of a study costs in passes, counted and not timed: runs were made at other hours on other machines.

A step costs the floor of its trainer in docs/performance.csv: the convolutions and matrix products of a step, forward and backward,
over those of nnU-Net's. It is 1 for nnU-Net (a forward pass 1/3, a backward pass 2/3) and 7/3 for Mean Teacher.
"""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pandas as pd

from benchmarks.step_time import TABLE, with_ratios
from benchmarks.studies import Row, Study
from nnunet_ssl.discovery.variants import trainer_classes
from nnunet_ssl.engine.competence import EARLIEST, LATEST


@cache
def floors() -> dict[tuple[str, str], float]:
    """(trainer, configuration) -> cost of a step."""
    table = with_ratios(pd.read_csv(TABLE))
    return {("nnUNetTrainer", name): 1.0 for name in table["configuration"]} | {
        (row.trainer, row.configuration): row.floor for row in table.itertuples()
    }


def first_part(row: Row) -> tuple[float, float]:
    """Smallest and largest share of the run in which a step is nnU-Net's, because unlabeled images come in later.

    (0, 0) for BCP and CML: their first part is no step of nnU-Net's, so that what is counted of it is too much.
    """
    cls = trainer_classes().get(row.trainer.removesuffix("ByClass"))
    settings = dict(setting.split("=", 1) for setting in row.settings)
    if hasattr(cls, "start"):  # FilterMatch
        return (json.loads(settings["start"]),) * 2 if "start" in settings else (EARLIEST, LATEST)
    if not hasattr(cls, "earliest"):
        return 0.0, 0.0
    earliest = json.loads(settings["earliest"]) if "earliest" in settings else cls.earliest
    return earliest, max(earliest, getattr(cls, "latest", LATEST))


def steps_of_nnunet(study: Study, row: Row) -> np.ndarray:
    """`(2,)`: as how many steps of nnU-Net a run counts, at least and at most, with the runs that it needs. NaN: not counted."""
    trainer = row.trainer.removesuffix("ByClass")  # of benchmarks/trainers: the same passes
    floor = floors().get((trainer, row.pack.base), np.nan)
    if any(setting.startswith("labels_last=") for setting in row.settings):
        floor = np.nan  # how long labeled patches are alone depends on the cases
    cheap = np.array(first_part(row))
    own = np.sort(row.steps * (cheap + (1 - cheap) * floor))
    return own + sum(steps_of_nnunet(study, study.row(key)) for key in row.after)


def relative_passes(study: Study, row: Row) -> str:
    """Passes of a run over those of the study's baseline, "least to most" where the start of unlabeled images is not known."""
    low, high = steps_of_nnunet(study, row) / steps_of_nnunet(study, study.row(study.baseline))
    if np.isnan(low):
        return "-"
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
