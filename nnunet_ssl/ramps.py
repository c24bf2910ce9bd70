"""Schedules of weights, thresholds and learning rates over training.

Every ramp is a function of `progress`: 0 at its start, 1 at its end, and constant beyond both. A trainer passes the
fraction of the training done (so that a shorter run keeps the shape of the schedule); code that counts iterations or
epochs makes a progress of them with `ramp_progress` or `stepwise_progress`.
"""

from __future__ import annotations

import math


def _clip(progress: float) -> float:
    return max(0.0, min(1.0, progress))


def ramp_progress(current: float, length: float) -> float:
    """`current / length`, in [0, inf]: how far along a ramp of `length` (iterations, epochs, ...) `current` is.

    A ramp of length 0 is over before it begins: progress inf, at which every ramp has its final value.

    Raises:
        ValueError: `current` or `length` is negative.
    """
    if current < 0 or length < 0:
        raise ValueError(f"current and length of a ramp must not be negative, got {current} and {length}")
    return current / length if length > 0 else math.inf


def stepwise_progress(iteration: int, interval: int, length: float) -> float:
    """`floor(iteration / interval) / length`: progress that moves once per `interval` iterations.

    The scripts of HiLab-git/SSL4MIS call a block of 150 iterations an epoch and ramp over 200 of them, so
    `stepwise_progress(iteration, 150, 200)` is their progress. Not clipped: the ramps are constant beyond 1.
    """
    return ramp_progress(iteration // interval, length)


def sigmoid_rampup(progress: float, final: float = 1.0) -> float:
    """`final * exp(-5 (1 - clip(progress, 0, 1))^2)`: from `final * exp(-5)` = 0.0067 `final` up to `final`.

    Laine & Aila, "Temporal Ensembling for Semi-Supervised Learning", ICLR 2017, section 3.
    """
    return final * math.exp(-5.0 * (1.0 - _clip(progress)) ** 2)


def linear_rampup(progress: float, final: float = 1.0) -> float:
    """`final * clip(progress, 0, 1)`."""
    return final * _clip(progress)


def cosine_rampdown(progress: float, initial: float = 1.0) -> float:
    """`initial * (1 + cos(pi clip(progress, 0, 1))) / 2`: from `initial` down to 0.

    Loshchilov & Hutter, "SGDR", ICLR 2017, eq. 5 without restarts.
    """
    return initial * 0.5 * (1.0 + math.cos(math.pi * _clip(progress)))


def geometric_ramp(progress: float, initial: float, final: float) -> float:
    """`initial * (final / initial)^clip(progress, 0, 1)`: equal factors in equal times.

    Assefa et al., "DyCON", CVPR 2025: the beta of their uncertainty-aware consistency, 5 to 0.5.
    """
    return initial * (final / initial) ** _clip(progress)


def poly_lr(initial_lr: float, progress: float, exponent: float = 0.9) -> float:
    """`initial_lr * (1 - clip(progress, 0, 1))^exponent`, the learning rate of nnU-Net and of SSL4MIS."""
    return initial_lr * (1.0 - _clip(progress)) ** exponent


def warmup_poly(epoch: int, epochs: int, warmup: int) -> float:
    """Factor of the learning rate in `epoch`, counted from 0: `(epoch + 1) / (warmup + 1)` in the first `warmup` epochs, then
    `poly_lr` over the others. nnU-Net's schedule for transformers, except that its first epoch has a rate of 0.
    """
    if epoch < warmup:
        return (epoch + 1) / (warmup + 1)
    return poly_lr(1.0, ramp_progress(epoch - warmup, epochs - warmup))


def ramped_weight(weight: float, progress: float, fraction: float) -> float:
    """`sigmoid_rampup` up to `weight` over the first `fraction` of the training; 0: no ramp.

    Args:
        progress: share of the training that is done.
    """
    return weight * sigmoid_rampup(ramp_progress(progress, fraction))


def delayed(weight: float, iteration: float, start: float) -> float:
    """0 while `iteration < start`, `weight` from then on; both counted in the same unit.

    Some 2D scripts of SSL4MIS leave the consistency term out for the first 1000 iterations.
    """
    return weight if iteration >= start else 0.0


def delayed_sigmoid_rampup(progress: float, start: float, length: float, final: float = 1.0) -> float:
    """0 before `start`, then `sigmoid_rampup` over the next `length` up to `final`; all in shares of the training.

    Regularizers of sparse labels begin when these have shaped the classes: before, one class everywhere is their cheapest solution.
    """
    ramp = sigmoid_rampup(ramp_progress(max(progress - start, 0.0), length), final)
    return delayed(ramp, progress, start)


def ends_a_part(epoch: int, epochs: int, parts: int) -> bool:
    """Whether `epoch` (from 0) is the last of one of `parts` equal parts of the training; the end of the training does not count.

    For what is done `parts - 1` times in a run, between epochs.
    """
    done = epoch + 1
    return done < epochs and done * parts // epochs > epoch * parts // epochs
