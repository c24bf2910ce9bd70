"""The figure of `nnunet_ssl compare`: every case of every trainer, and the paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_ssl.evaluation.statistics import (
    average_folds,
    case_differences,
    case_matrix,
    common_distances,
    fold_values,
)

# Okabe and Ito's colors, told apart with any color vision
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
_STRIPS = (("Dice", "%"), ("95HD", "mm"))


def write_figure(file: Path, cases: pd.DataFrame, trainers: Sequence[str], classes: Sequence[str], title: str) -> None:
    """Write a PNG.

    Rows: Dice and 95HD of every case per class, one column of dots per trainer with quartile box and mean; with two or more
    trainers below it, per trainer, the difference in foreground Dice to the first trainer, case by case, sorted.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    values = average_folds(common_distances(cases))  # as in the tables: a mean over what all trainers have
    others = list(trainers[1:])
    num_cases = values["case"].nunique()
    heights = [3.2] * len(_STRIPS) + [2.6] * len(others)
    width = min(18.0, max(8.0, 2.0 + 0.45 * len(trainers) * len(classes), 2.0 + 0.16 * num_cases))
    figure = Figure(figsize=(width, sum(heights) + 0.9 + 0.25 * len(trainers)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(heights), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axis, (metric, unit) in zip(axes, _STRIPS):
        _draw_strips(axis, values, trainers, classes, metric, unit)
    for axis, (index, trainer) in zip(axes[len(_STRIPS) :], enumerate(others, start=1)):
        _draw_differences(axis, cases, trainer, trainers[0], classes, _color(index))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=1, frameon=False, title=title, fontsize=9)
    figure.savefig(file)


def _draw_strips(axis, values, trainers, classes, metric: str, unit: str) -> None:
    rng = np.random.default_rng(0)  # moves dots sideways only
    step = 0.8 / len(trainers)
    for index, trainer in enumerate(trainers):
        matrix = case_matrix(values, trainer, metric, unit, classes)
        for position, name in enumerate(classes):
            column = matrix[name].dropna().to_numpy()
            center = position + (index - (len(trainers) - 1) / 2) * step
            label = trainer if position == 0 else None
            jitter = rng.uniform(-0.5, 0.5, len(column)) * min(0.5 * step, 0.15)
            axis.scatter(center + jitter, column, s=14, color=_color(index), alpha=0.65, linewidths=0, label=label)
            if len(column):
                axis.boxplot(
                    [column],
                    positions=[center],
                    widths=min(0.7 * step, 0.2),
                    showfliers=False,
                    manage_ticks=False,
                    medianprops={"color": _color(index), "linewidth": 1.2},
                    boxprops={"color": "0.45"},
                    whiskerprops={"color": "0.45"},
                    capprops={"color": "0.45"},
                )
                axis.plot(center, column.mean(), marker="D", markersize=6, color=_color(index), markeredgecolor="black")
    axis.set_xticks(range(len(classes)), classes)
    axis.set_xlim(-0.5, len(classes) - 0.5)
    axis.set_ylabel(f"{metric} ({unit})")
    better = "higher" if metric == "Dice" else "lower"
    common = "" if metric == "Dice" else "; cases in which all trainers have one"
    axis.set_title(f"{metric} per case ({better} is better; diamond: mean, box: quartiles{common})", fontsize=9)
    axis.grid(axis="y", color="0.9")
    axis.set_axisbelow(True)


def _draw_differences(axis, cases, trainer: str, reference: str, classes, color: str) -> None:
    of_cases, _ = case_differences(*(fold_values(cases, name, "Dice", "%", classes) for name in (trainer, reference)))
    difference = pd.Series(of_cases, sorted(cases["case"].unique())).dropna().sort_values()
    axis.bar(range(len(difference)), difference, color=color, width=0.8)
    axis.axhline(0, color="black", linewidth=0.8)
    if len(difference):
        axis.axhline(difference.median(), color=color, linestyle="--", linewidth=1)
        if len(difference) <= 40:
            axis.set_xticks(range(len(difference)), difference.index, rotation=60, ha="right", fontsize=7)
        else:
            axis.set_xticks([])
            axis.set_xlabel(f"{len(difference)} cases, sorted")
        wins = int((difference > 0).sum())
        axis.set_title(
            f"{trainer} minus {reference}\nbetter in {wins}, worse in {int((difference < 0).sum())} of {len(difference)} "
            f"cases, median {difference.median():+.2f} (dashed)",
            fontsize=9,
        )
    axis.set_ylabel("foreground Dice\ndifference (%)")
    axis.grid(axis="y", color="0.9")
    axis.set_axisbelow(True)


def _color(index: int) -> str:
    return _COLORS[index % len(_COLORS)]
