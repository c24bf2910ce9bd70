"""One optimizer step for any number of networks, and what is said when it fails."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.gradient_shares import GradientShares
from nnunet_ssl.engine.members import Member
from nnunet_ssl.engine.seam_values import terms_of
from nnunet_ssl.losses.combine import weighted_sum


def step_optimizers(members: Iterable[Member], optimizers: Iterable[torch.optim.Optimizer], scaler) -> bool:
    """Unscale and clip each member's gradients, then step every optimizer that has any.

    Args:
        members: what was trained; each with its largest gradient norm `clip` (None: no limit).
        optimizers: all of them, each once.
        scaler: `torch.amp.GradScaler` with mixed precision, else None.

    Returns:
        Whether the step was made, as far as that is known without waiting for a GPU: with a scaler always True (it leaves
        the step out by itself if a gradient is not finite), without one False if any gradient is not finite.
    """
    active = [o for o in optimizers if any(p.grad is not None for g in o.param_groups for p in g["params"])]
    if scaler is not None:
        for optimizer in active:
            scaler.unscale_(optimizer)
    norms = []
    for member in members:
        parameters = [p for p in member.parameters() if p.grad is not None]
        if parameters:
            norms.append(nn.utils.clip_grad_norm_(parameters, math.inf if member.clip is None else member.clip))
    if scaler is not None:
        for optimizer in active:
            scaler.step(optimizer)
        scaler.update()
        return True
    # The gradient norm, not the loss: under DDP gradients are equal on all ranks, so all of them skip together.
    if not all(bool(torch.isfinite(norm)) for norm in norms):
        return False
    for optimizer in active:
        optimizer.step()
    return True


def trains_as_nnunet(trainer, weights: Mapping[str, float]) -> bool:
    """Whether the step is nnU-Net's: no term has weight but the labeled losses, and the method does not replace these."""
    labeled = {trainer.labeled_name(m) for m in trainer.supervised_networks()}
    idle = not any(weight for name, weight in weights.items() if name not in labeled)
    return idle and not trainer.replaces_labeled_loss


def active_groups(trainer, batch: SSLBatch, weights: Mapping[str, float]) -> Iterator[dict[str, Tensor]]:
    """The method's groups of terms; nnU-Net's loss on labeled patches alone while nothing else has weight or nothing is unlabeled.

    Raises:
        TypeError: a group that is no dictionary of scalar tensors.
        ValueError: a term that `weights` does not name, or that two groups have; a term that has a weight and is not there.
    """
    missing = trainer.needs_unlabeled and batch.unlabeled is None
    if missing or trains_as_nnunet(trainer, weights):
        yield trainer.labeled_terms(batch.without_unlabeled())
        return
    name, seen = type(trainer).__name__, set[str]()
    groups = trainer.term_groups(batch)
    if not isinstance(groups, Iterator):
        raise TypeError(f"{name}.term_groups must yield dictionaries of terms, got {type(groups).__name__}.")
    for terms in groups:
        terms_of(f"{name}.term_groups or .terms", terms)
        unknown = sorted(set(terms) - set(weights))
        if unknown:
            raise ValueError(
                f"{name}: no weight for term(s) {unknown}. weights() names {list(weights)}; a value that is no loss has weight 0."
            )
        if twice := sorted(seen & set(terms)):
            raise ValueError(f"{name}.term_groups: term(s) {twice} are in two groups.")
        seen |= set(terms)
        yield terms
    replaced = {trainer.labeled_name(m) for m in trainer.supervised_networks()} if trainer.replaces_labeled_loss else ()
    if absent := sorted(term for term, weight in weights.items() if weight and term not in seen | set(replaced)):
        raise ValueError(
            f"{name}: term(s) {absent} have a weight and were not computed, only {sorted(seen)}. Give an inactive term the weight "
            "0; a method whose own terms stand for nnU-Net's loss says so with `replaces_labeled_loss = True`."
        )


def training_step(trainer, batch: SSLBatch, weights: Mapping[str, float]) -> tuple[dict[str, np.ndarray], bool]:
    """Forward and backward pass, optimizers, teachers.

    Returns:
        the weighted loss and all terms, see `numbers_of`; whether the step was made, see `step_optimizers`.
    """
    optimizers = trainer.members.optimizers
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    # also after a step that was left out, on all ranks alike: a share that is not finite tells the term
    measured = GradientShares(trainer, weights) if ends_an_epoch(trainer) or trainer.nonfinite.left_out else None
    losses, values = [], {}
    groups = active_groups(trainer, batch, weights)
    while True:
        with trainer.autocast():
            terms = next(groups, None)
            if terms is None:
                break
            loss = weighted_sum(terms, weights)
        trainer.without_gradient_watch.see(terms, weights)
        if measured is not None:
            measured.add(terms)
        if any(weights[name] for name in terms):
            (loss if trainer.grad_scaler is None else trainer.grad_scaler.scale(loss)).backward()
        losses.append(loss.detach())
        values |= {name: term.detach() for name, term in terms.items()}
        del terms, loss  # the graph of this group, before the next one is made
    if measured is not None:
        trainer.gradient_shares = measured.found()
    made = step_optimizers((trainer.student, *trainer.members), optimizers, trainer.grad_scaler)
    if made:
        trainer.members.update_teachers()
        trainer.after_step()
    return numbers_of(sum(losses[1:], start=losses[0]), values, weights), made


def ends_an_epoch(trainer) -> bool:
    """Whether the coming step is the last one of an epoch."""
    return (trainer.iteration + 1) % trainer.num_iterations_per_epoch == 0


def numbers_of(loss: Tensor, terms: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, np.ndarray]:
    """The loss and all terms as numpy scalars, those of `names` that are inactive as 0. One copy to the host, as nnU-Net has."""
    values = torch.stack([loss.detach().float(), *(t.detach().float() for t in terms.values())]).cpu().numpy()
    found = dict.fromkeys(("loss", *names), np.float32(0)) | dict(zip(("loss", *terms), values, strict=True))
    return {name: np.asarray(value) for name, value in found.items()}


INITIAL_SCALE = 2.0**16
"""Of `torch.amp.GradScaler`."""

ADVICE = (
    "The last checkpoint is kept. Lower `initial_lr` or the weight of this term in a subclass, check the images for NaN, and the "
    "term for roots and logarithms of 0."
)


class NonFiniteWatch:
    """Counts steps that were left out because the loss or a gradient is not finite, and ends the training after too many in a row.

    Attributes:
        skipped: such steps since the training began, as far as they are known without waiting for a GPU: with a gradient scaler
            those with a loss that is not finite.
        left_out: whether the last step was not made, for a gradient that is not finite.
    """

    def __init__(self) -> None:
        self.skipped = 0
        self.left_out = False
        self._in_a_row = 0

    def see(
        self, values: Mapping[str, np.ndarray], made: bool, shares: Mapping[str, float], most_in_a_row: int
    ) -> str | None:
        """What to log of a step with these values; None of one that is finite.

        Args:
            made: what `step_optimizers` returned.
            shares: of the gradients, as far as they were measured in this step.

        Raises:
            RuntimeError: `most_in_a_row` steps in a row were not finite.
        """
        self.left_out = not made
        if made and np.isfinite(values["loss"]):
            self._in_a_row = 0
            return None
        self.skipped += 1
        self._in_a_row += 1
        problem = _culprits(values, shares)
        if self._in_a_row >= most_in_a_row:
            raise RuntimeError(f"{self._in_a_row} steps in a row were not finite: {problem}. {ADVICE}")
        return f"not finite: {problem}"

    @staticmethod
    def see_scaler(scaler: torch.amp.GradScaler, shares: Mapping[str, float], most_in_a_row: int) -> None:
        """The same with mixed precision, where the scaler leaves steps out and halves its scale. Waits for the GPU: once per epoch.

        Raises:
            RuntimeError: the scale is below that of `most_in_a_row` such steps in a row at the start.
        """
        scale = scaler.get_scale()
        if scale < INITIAL_SCALE * scaler.get_backoff_factor() ** most_in_a_row:
            raise RuntimeError(
                f"The gradient scaler has left out so many steps that its scale is {scale:g}; not finite: {_culprits({}, shares)}. "
                f"{ADVICE}"
            )


def _culprits(values: Mapping[str, np.ndarray], shares: Mapping[str, float]) -> str:
    """Terms that are not finite; else those whose gradient is not; else what is known."""
    terms = [name for name, value in values.items() if name != "loss" and not np.isfinite(value)]
    if terms:
        return f"term(s) {', '.join(terms)}"
    gradients = [name.split("/", 1)[-1] for name, share in shares.items() if not np.isfinite(share)]
    if gradients:  # shares are relative to the labeled loss's gradient, which may be the one
        return f"gradient of term(s) {', '.join(gradients)}, or of the labeled loss"
    return "a gradient" if np.isfinite(values.get("loss", 0.0)) else "the loss"


def finite_outputs(outputs: Sequence[dict]) -> list[dict]:
    """Outputs of an epoch's steps with the mean of the finite ones in place of the others.

    A skipped step must not turn nnU-Net's curve of the epoch into NaN; the number of outputs stays, for all ranks alike.
    """
    finite = [o for o in outputs if np.isfinite(o["loss"])]
    if not finite or len(finite) == len(outputs):
        return list(outputs)
    mean = {k: np.asarray(np.mean([o[k] for o in finite])) for k in finite[0]}
    return [o if np.isfinite(o["loss"]) else mean for o in outputs]


class WithoutGradientWatch:
    """Finds terms with a weight that train nothing: they depend on no parameter that is trained, as after a `detach` too many.

    A term that is 0 in all steps of the epoch is left alone: it may have had no voxel to count.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()
        self.start_epoch()

    def start_epoch(self) -> None:
        self._trains: dict[str, bool] = {}

    def see(self, terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> None:
        """Take in the terms of a step, before its backward pass; nothing waits for the device."""
        for name, term in terms.items():
            if weights[name]:
                self._trains[name] = self._trains.get(name, False) or term.requires_grad

    def found(self, outputs: Sequence[Mapping[str, np.ndarray]]) -> str | None:
        """What to log after an epoch, once for each term; None where all is well.

        Args:
            outputs: values of the terms in each step.
        """
        idle = [
            name for name, trains in self._trains.items() if not trains and any(o.get(name, 0) != 0 for o in outputs)
        ]
        new = [name for name in idle if name not in self._said]
        self._said |= set(new)
        if not new:
            return None
        return (
            f"Warning: term(s) {', '.join(new)} have a weight and no gradient in any step of the epoch, so they train nothing: "
            "they were computed from tensors without one (a teacher's, `without_gradient`, `detach`). A value that is no loss "
            "has weight 0."
        )


LARGEST_WAITING = 0.2  # share of an epoch


def waiting_message(share: float) -> str:
    """What to do where steps wait for patches for this share of an epoch."""
    from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

    return (
        f"Steps wait for patches for {share:.0%} of the epoch. nnUNet_n_proc_DA sets the number of worker processes, now "
        f"{get_allowed_n_proc_DA()}: give it as many as you have processor cores for this run. If it has them, the disk is slow: "
        "put nnUNet_preprocessed on a local one."
    )


def out_of_memory_message(method: str, labeled: int, unlabeled: int | None) -> str:
    """What a step holds and how to make it smaller; `unlabeled` None for a step without unlabeled patches."""
    and_unlabeled = "" if unlabeled is None else f" and {unlabeled} unlabeled"
    lower = "" if unlabeled is None else "lower `unlabeled_batch_size` in a subclass, or "
    return (
        f"Out of GPU memory: a step of {method} holds {labeled} labeled{and_unlabeled} patches. To "
        f"make it smaller, {lower}plan with a smaller -gpu_memory_target."
    )
