"""The engine's own training curves: every loss term and weight, kept beside nnU-Net's logger.

nnU-Net's logger accepts only its own eight keys, and its plot empties when one of them is skipped for an epoch. So these
curves live in the engine's part of the checkpoint and in `progress_ssl.png`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import matplotlib.style
import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import distributed as dist

# beginning of the names that a panel shows -> its title, in the order of the figure
_PANELS = {
    "gradient_share/": "share of each term's gradient at the segmentation layers (or last decoder stage), of the labeled loss's",
    "gradient_share_of_whole/": "share of each term's gradient at the segmentation layers, of the whole loss's",
    "weight/": "weights",
    "ema_decay/": "EMA decay",
    "loader/": "share of the epoch spent waiting for data",
    "steps/": "skipped steps since the start (loss not finite)",
}
PLACES = LABELED, UNLABELED, BOTH = "labeled", "unlabeled", "labeled and unlabeled"
"""The patches that a term is computed on."""
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


def is_drawn(epoch: int, epochs: int) -> bool:
    """Whether the figure is drawn after `epoch`, counted from 0: at first always, later at every `epoch // 50`th, and at the end.

    A figure of many epochs takes more than a second.
    """
    return epoch % max(1, epoch // 50) == 0 or epoch + 1 >= epochs


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

    def plot(self, file: str | Path, title: str = "", patches: Mapping[str, str] = MappingProxyType({})) -> None:
        """Write the figure: a panel each for terms (by patches), gradients, weights, EMA decay, data and skipped steps.

        A panel without a number, and that of skipped steps without any, is left out; so is a labeled weight that is always 1.

        Args:
            title: of the figure, which run it is.
            patches: term -> `LABELED`, `UNLABELED` or `BOTH`.
        """
        panels = self._panels(patches)
        if not panels:
            return
        # nnU-Net's logger enlarges all fonts of the process through seaborn
        with matplotlib.style.context("default"):
            figure, axes = plt.subplots(
                len(panels), 1, figsize=(9, 0.4 + 2.2 * len(panels)), squeeze=False, sharex=True, layout="constrained"
            )
            for axis, (heading, names) in zip(axes[:, 0], panels.items(), strict=True):
                self._draw(axis, heading, names)
            last = max(len(series) for series in self.values.values()) - 1
            axes[-1, 0].set_xlim(0, max(1, last))
            axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
            axes[-1, 0].set_xlabel("epoch")
            figure.suptitle(title, fontsize=11)
            figure.savefig(file, dpi=100)
            plt.close(figure)

    def _panels(self, patches: Mapping[str, str]) -> dict[str, list[str]]:
        """Title -> names of its curves, in the order of the figure."""
        found: dict[str, list[str]] = {
            f"terms on {place} patches (mean over the epoch, before weighting)": [
                name for name in self.values if name.startswith("term/") and patches[name.split("/", 1)[1]] == place
            ]
            for place in PLACES
        }
        for beginning, title in _PANELS.items():
            shown = [name for name in self.values if name.startswith(beginning) and not self._trivial(name)]
            found[title] = sorted(shown, key=lambda name: self._place(name) or 0)
        return {
            title: names
            for title, names in found.items()
            if np.isfinite([v for n in names for v in self.values[n]]).any()
        }

    def _trivial(self, name: str) -> bool:
        """A labeled weight that is always 1, and skipped steps that did not happen."""
        if name.startswith("weight/labeled"):
            return set(self.values[name]) == {1.0}
        return name.startswith("steps/") and not np.nan_to_num(self.values[name]).any()

    def _place(self, name: str) -> int | None:
        """Which of the terms a curve is of, so that a term has one color and one place in all panels; None for other curves."""
        what = name.split("/", 1)[1]
        terms = [term.removeprefix("term/") for term in self.values if term.startswith("term/")]
        return terms.index(what) if what in terms else None

    def _draw(self, axis, title: str, names: Sequence[str]) -> None:
        for name in names:
            series, place = self.values[name], self._place(name)
            color = None if place is None else f"C{place}"
            marker = "." if len(series) < 30 else None
            shown = np.maximum(series, _LOWEST_SHARE) if name.startswith("gradient_share") else series
            label = name.split("/", 1)[1]
            axis.plot(range(len(series)), shown, marker=marker, color=color, label=label, clip_on=False)
        if names[0].startswith("gradient_share"):
            _scale_shares(axis)
        else:  # 0 is in every other panel, so that heights can be compared; nnU-Net's loss (cross entropy - Dice) ends below it
            low, high = axis.get_ylim()
            axis.set_ylim(low if np.nanmin([v for name in names for v in self.values[name]]) < 0 else 0, max(0, high))
        if names[0].startswith("loader/"):
            axis.set_ylim(0, max(0.01, axis.get_ylim()[1]))  # less than 1 % is nothing
            axis.yaxis.set_major_formatter(PercentFormatter(1.0))
        axis.set_title(title, fontsize=10, loc="left")
        axis.grid(alpha=0.3)
        axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)


def _scale_shares(axis) -> None:
    """Percent on a logarithmic axis, with a line at the share that counts."""
    axis.axhline(SHARE_THAT_COUNTS, color="black", linestyle="--", linewidth=1, label=f"{100 * SHARE_THAT_COUNTS:g} %")
    axis.set_yscale("log")
    axis.set_ylim(0.7 * _LOWEST_SHARE, max(2.0, 1.5 * axis.get_ylim()[1]))
    axis.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
