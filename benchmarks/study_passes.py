"""What a row of a study costs in passes, counted and not timed: runs were made at other hours on other machines.

A step costs the floor of its trainer in docs/performance.csv: the convolutions and matrix products of a step, forward and backward,
over those of nnU-Net's. It is 1 for nnU-Net (a forward pass 1/3, a backward pass 2/3) and 7/3 for Mean Teacher.
"""

from __future__ import annotations

import json
import re
from functools import cache

import numpy as np
import pandas as pd

from benchmarks.step_time import TABLE, with_ratios
from benchmarks.studies import Row, Study
from nnunet_ssl.discovery.variants import trainer_classes
from nnunet_ssl.engine.competence import EARLIEST, LATEST

LABEL_ONE_ANOTHER = ("nnUNetTrainerCPS", "nnUNetTrainerMCF", "nnUNetTrainerCrossTeaching")
NO_SUCH = object()
"""In the place of an attribute that a trainer does not have."""


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
    start = setting(row, "start")
    if start is not NO_SUCH:  # FilterMatch
        return (EARLIEST, LATEST) if start is None else (start, start)
    earliest, latest = setting(row, "earliest"), setting(row, "latest")
    if earliest is NO_SUCH:
        return 0.0, 0.0
    return earliest, max(earliest, LATEST if latest is NO_SUCH else latest)


def last_part(row: Row) -> float:
    """Share of the steps after the first part that are nnU-Net's, because labeled patches are alone at the end."""
    alone = setting(row, "labels_last")
    return row.pack.labeled_share if alone is None else 0.0 if alone is NO_SUCH else alone


def setting(row: Row, name: str) -> object:
    """A class attribute of the row's trainer, with the row's settings; NO_SUCH where it has none."""
    settings = dict(setting.split("=", 1) for setting in row.settings)
    if name in settings:
        return json.loads(settings[name])
    return getattr(trainer_classes().get(_plain(row.trainer)), name, NO_SUCH)


def _plain(trainer: str) -> str:
    """The trainer of the package that one of benchmarks/trainers is made of."""
    return re.sub("(Reliability|SureCases|SurePatches|Mirrored)$", "", trainer)


def _more_than_plain(trainer: str) -> float:
    """Passes of a step of such a trainer beyond those of `_plain`: a forward pass of the mirror images."""
    return 1 / 3 if trainer.endswith("Mirrored") else 0.0


def _is_counted(row: Row) -> bool:
    """Networks that label patches for one another need a pass less where they label what they learn from, which nobody counted."""
    return setting(row, "teacher_view") != "student" or row.trainer not in LABEL_ONE_ANOTHER


def steps_of_nnunet(study: Study, row: Row) -> np.ndarray:
    """`(2,)`: as how many steps of nnU-Net a run counts, at least and at most, with the runs that it needs. NaN: not counted."""
    floor = floors().get((_plain(row.trainer), row.pack.base), np.nan) + _more_than_plain(row.trainer)
    if not _is_counted(row):
        floor = np.nan
    first = np.array(first_part(row))
    cheap = first + (1 - first) * last_part(row)
    own = np.sort(row.steps * (cheap + (1 - cheap) * floor))
    return own + sum(steps_of_nnunet(study, study.row(key)) for key in row.after)


def relative_passes(study: Study, row: Row) -> str:
    """Passes of a run over those of the study's baseline, "least to most" where the start of unlabeled images is not known."""
    low, high = steps_of_nnunet(study, row) / steps_of_nnunet(study, study.row(study.baseline))
    if np.isnan(low):
        return "-"
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
