"""The engine's own training curves: every loss term and weight, kept beside nnU-Net's logger.

nnU-Net's logger accepts only its own eight keys, and its plot empties when one of them is skipped for an epoch. So these
curves live in the engine's part of the checkpoint and in `progress_ssl.png`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import matplotlib.style
import numpy as np
from torch import distributed as dist

# title of a panel -> beginnings of the names it shows; a name belongs to the first panel that fits
_PANELS = {
    "loss on labeled patches (mean over the epoch)": ("term/labeled",),
    "terms on unlabeled patches (mean over the epoch, before weighting)": ("term/",),
    "share of each term's gradient at the segmentation layers, of the labeled loss's": ("gradient_share/",),
    "share of each term's gradient at the segmentation layers, of the whole loss's": ("gradient_share_of_whole/",),
    "weights": ("weight/",),
    "EMA decay": ("ema_decay/",),
    "share of the epoch spent waiting for data": ("loader/",),
    "skipped steps since the start (loss not finite)": ("steps/",),
}
# a term below the line hardly trains; the axis ends at the lowest share, where shares of 0 lie
SHARE_THAT_COUNTS, _LOWEST_SHARE = 0.02, 1e-4


def epoch_values(outputs: Sequence[Mapping], others: Mapping[str, float], is_ddp: bool) -> dict[str, float]:
    """Values of an epoch for `Curves.log`: means of the named terms over the steps, and `others`; means over all processes.

    Args:
        outputs: what `train_step` returned in each step.
        others: values by name, see `Curves`.
    """
    names = [name for name in outputs[0] if name != "loss"]
    values = {f"term/{k}": float(np.mean([o[k] for o in outputs])) for k in names} | dict(others)
    if is_ddp:
        everyone: list = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, values)
        values = {k: float(np.mean([v[k] for v in everyone])) for k in values}
    return values


class Curves:
    """One value per epoch and name. Names are `<panel>/<what>`; an epoch without a value is NaN."""

    def __init__(self):
        self.values: dict[str, list[float]] = {}

    def log(self, epoch: int, values: dict[str, float]) -> None:
        """Store the values of an epoch; an epoch that is trained again after a restart is overwritten."""
        for name in values:
            self.values.setdefault(name, [])
        for name, series in self.values.items():
            del series[epoch:]
            series.extend([math.nan] * (epoch - len(series)))
            series.append(float(values.get(name, math.nan)))

    def plot(self, file: str | Path) -> None:
        """Write the figure: a panel each for labeled loss, terms, gradients, weights, EMA decay, data and skipped steps."""
        panels: dict[str, list[str]] = {}
        for name, series in self.values.items():
            if name.startswith("weight/labeled") and set(series) == {1.0}:
                continue
            title = next(t for t, beginnings in _PANELS.items() if name.startswith(beginnings))
            panels.setdefault(title, []).append(name)
        if not panels:
            return
        # nnU-Net's logger enlarges all fonts of the process through seaborn
        with matplotlib.style.context("default"):
            figure, axes = plt.subplots(len(panels), 1, figsize=(9, 2.2 * len(panels)), squeeze=False, sharex=True)
            for axis, title in zip(axes[:, 0], sorted(panels, key=list(_PANELS).index), strict=True):
                for name in panels[title]:
                    series = self.values[name]
                    marker = "." if len(series) < 30 else None
                    shown = np.maximum(series, _LOWEST_SHARE) if name.startswith("gradient_share") else series
                    axis.plot(range(len(series)), shown, marker=marker, label=name.split("/", 1)[1])
                if panels[title][0].startswith("gradient_share"):
                    _scale_shares(axis)
                if panels[title][0].startswith(("weight/", "loader/", "steps/")):
                    axis.set_ylim(bottom=0)
                axis.set_title(title, fontsize=10, loc="left")
                axis.grid(alpha=0.3)
                axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
            axes[-1, 0].xaxis.get_major_locator().set_params(integer=True)
            axes[-1, 0].set_xlabel("epoch")
            figure.tight_layout()
            figure.savefig(file, dpi=100)
            plt.close(figure)


def _scale_shares(axis) -> None:
    """Percent on a logarithmic axis, with a line at the share that counts."""
    axis.axhline(SHARE_THAT_COUNTS, color="black", linestyle="--", linewidth=1, label=f"{100 * SHARE_THAT_COUNTS:g} %")
    axis.set_yscale("log")
    axis.set_ylim(0.7 * _LOWEST_SHARE, max(2.0, 1.5 * axis.get_ylim()[1]))
    axis.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
