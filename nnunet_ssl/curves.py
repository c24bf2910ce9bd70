"""The engine's own training curves: every loss term and weight, kept beside nnU-Net's logger.

nnU-Net's logger accepts only its own eight keys, and its plot empties when one of them is skipped for an epoch. So these
curves live in the engine's part of the checkpoint and in `progress_ssl.png`.
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

_PANELS = {
    "term": "loss terms (mean over the epoch, before weighting)",
    "weight": "weights",
    "ema_decay": "EMA decay",
    "loader": "share of the epoch spent waiting for data",
    "steps": "skipped steps (non-finite loss)",
}


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
        """Write the figure: one panel for terms, weights, EMA decay, waiting for data and skipped steps."""
        panels = [p for p in _PANELS if any(name.startswith(f"{p}/") for name in self.values)]
        if not panels:
            return
        figure, axes = plt.subplots(len(panels), 1, figsize=(10, 3 * len(panels)), squeeze=False, sharex=True)
        for axis, panel in zip(axes[:, 0], panels, strict=True):
            for name, series in self.values.items():
                if name.startswith(f"{panel}/"):
                    axis.plot(
                        range(len(series)),
                        series,
                        marker="." if len(series) < 30 else None,
                        label=name.split("/", 1)[1],
                    )
            axis.set_title(_PANELS[panel], fontsize=10, loc="left")
            axis.grid(alpha=0.3)
            axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
        axes[-1, 0].set_xlabel("epoch")
        figure.tight_layout()
        figure.savefig(file, dpi=100)
        plt.close(figure)
