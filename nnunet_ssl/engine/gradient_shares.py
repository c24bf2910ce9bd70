"""How strongly each loss term pulls at the segmentation layers, as a share of the labeled loss.

A term whose share is tiny trains nothing, however large its value is: the gradient of a mean over voxels of probabilities is far
smaller than that of cross entropy + Dice. So the engine measures, in the last step of every epoch,

    share_k = || grad (w_k L_k) || / || grad sum_labeled (w_j L_j) ||

at the parameters of the last layers of all trained networks (root of the sum of squares over layers and networks). A term that
misses these layers, as one of a further head on the same features does, is measured at the last stages of the decoders instead,
as a share of the labeled loss's gradient there (of the labeled terms of its group).

The measurement reads the graph of the step itself, just before its backward pass. It needs no second forward pass, so it draws no
random number and moves no queue, bank or counter of a method, and `torch.autograd.grad` leaves `.grad` and DDP's hooks alone: the
training is bit for bit that without it.

* Eager networks: autograd goes from each term to the last layers only, which costs about as much as the loss itself.
* Compiled networks are one node of the graph, so each term costs a backward pass, in one step of the epoch; and their graph must
  outlive it, see `keep_compiled_graphs`.
* Several GPUs: each term's gradient is averaged over the processes, as DDP does it with the sum. All processes measure.
* Mixed precision: terms are scaled like the loss, so that half precision does not underflow; the scale cancels in the share. A
  scale that is too large makes the share NaN, in a step that is skipped as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch import distributed as dist

from nnunet_ssl.engine.members import Member, NetworkMember, Teacher

LABELED = "labeled"
"""Beginning of the names of labeled terms."""


def keep_compiled_graphs() -> None:
    """Let compiled networks go backward more than once: torch.compile must not reuse the memory of saved tensors.

    Call it before the first forward pass.
    """
    if hasattr(torch._functorch.config, "donated_buffer"):  # PyTorch 2.4 has no such reuse
        torch._functorch.config.donated_buffer = False


def segmentation_layers(network: nn.Module, channels: int) -> list[nn.Module]:
    """The layers of a segmentation network that give logits.

    `decoder.seg_layers` of nnU-Net's U-Nets, one for each scale; of other networks the last layer that gives `channels` channels
    (Primus: the last transposed convolution); of networks without one the last module with parameters of its own.

    Args:
        network: neither compiled nor wrapped.
        channels: number of logits per voxel.
    """
    layers = getattr(getattr(network, "decoder", None), "seg_layers", None)
    if layers is not None:
        return list(layers)
    with_parameters = [m for m in network.modules() if next(m.parameters(recurse=False), None) is not None]
    fitting = [m for m in with_parameters if channels in (getattr(m, "out_channels", 0), getattr(m, "out_features", 0))]
    return (fitting or with_parameters)[-1:]


def last_decoder_stage(network: nn.Module) -> list[nn.Module]:
    """What gives the features that the last segmentation layer of a network like nnU-Net's gets; of other networks nothing."""
    stages = getattr(getattr(network, "decoder", None), "stages", None)
    return list(stages[-1:]) if stages is not None else []


def measured_parameters(
    members: Sequence[Member], layers_of: Callable[[nn.Module], list[nn.Module]]
) -> list[nn.Parameter]:
    """Parameters of some layers of all `members` that are trained: networks, and modules with a decoder.

    Heads for something else and discriminators have no such layers.
    """
    found = []
    for member in members:
        if isinstance(member, Teacher):
            continue
        if isinstance(member, NetworkMember) or hasattr(member.module, "decoder"):
            layers = layers_of(member.module)
            found += [p for layer in layers for p in layer.parameters() if p.requires_grad]
    return found


def gradients(terms: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> tuple[Tensor, list[bool]]:
    """The gradient of each term at all parameters. The graph stays.

    Returns:
        gradients `(terms, numbers in parameters)` float32, and whether each term depends on the parameters. A constant (no voxel
        counts in this step) is taken as one that does, with a gradient of 0.
    """
    rows, reached = [], []
    for term in terms:
        found: Sequence[Tensor | None] = [None] * len(parameters)
        if term.requires_grad:
            found = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
        reached.append(not term.requires_grad or any(g is not None for g in found))
        row = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
        rows.append(torch.cat([g.float().flatten() for g in row]))
    return torch.stack(rows), reached


def shares(gradient: Tensor, labeled: Sequence[bool]) -> Tensor:
    """Norm of each row over the norm of the sum of the labeled rows, of all rows where none is labeled: `(terms,)`.

    Args:
        gradient: `(terms, numbers)`, of the weighted terms.
        labeled: which terms belong to the labeled loss.
    """
    reference = gradient[[i for i, is_labeled in enumerate(labeled) if is_labeled or not any(labeled)]].sum(0)
    return torch.linalg.vector_norm(gradient, dim=1) / torch.linalg.vector_norm(reference)


class GradientShares:
    """The share of every term with a weight in one step, under its name in `Curves`.

    Names of labeled terms begin with "labeled". A term that depends neither on the segmentation layers nor on the last decoder
    stage (a loss of deeper features, a discriminator's own loss) has no share; in compiled networks, which do not show this, its
    share is 0.

    Args:
        weights: of all terms of the step.
    """

    def __init__(self, trainer, weights: Mapping[str, float]):
        self._trainer = trainer
        self._weights = weights
        self._parameters: list[nn.Parameter] = []
        self._of_stages: list[nn.Parameter] = []
        if any(weight != 0 and not name.startswith(LABELED) for name, weight in weights.items()):
            members, channels = (trainer.student, *trainer.members), trainer.label_manager.num_segmentation_heads
            self._parameters = measured_parameters(members, lambda network: segmentation_layers(network, channels))
            self._of_stages = measured_parameters(members, last_decoder_stage)
        self._at_layers, self._at_stages = _Measured(), _Measured()

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Measure a group of terms, before its backward pass."""
        names = [name for name in terms if self._weights[name] != 0]
        if not names or not self._parameters:
            return
        weighted = [self._weights[name] * terms[name] for name in names]
        if self._trainer.grad_scaler is not None:
            weighted = [self._trainer.grad_scaler.scale(term) for term in weighted]
        missed = self._at_layers.add(dict(zip(names, weighted, strict=True)), self._parameters)
        missed = self._on_all_ranks([not name.startswith(LABELED) and m for name, m in zip(names, missed, strict=True)])
        labeled = [name.startswith(LABELED) for name in names]
        joint = not any(name.startswith(LABELED) for name in self._weights)
        if any(missed) and self._of_stages and (joint or any(labeled)):  # else there is nothing to take a share of
            chosen = [m or is_labeled or joint for m, is_labeled in zip(missed, labeled, strict=True)]
            terms_there = {n: w for n, w, is_chosen in zip(names, weighted, chosen, strict=True) if is_chosen}
            self._at_stages.add(terms_there, self._of_stages)
            self._at_stages.missed += [name for name, m in zip(names, missed, strict=True) if m]

    def _on_all_ranks(self, missed: list[bool]) -> list[bool]:
        """Where all processes say so, which then measure the same terms."""
        if not self._trainer.is_ddp:
            return missed
        flags = torch.tensor(missed, dtype=torch.int32, device=self._trainer.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MIN)
        return flags.bool().tolist()

    def found(self) -> dict[str, float]:
        """The shares, when all groups were added.

        Returns:
            `gradient_share/<term>` of all terms but the labeled ones; `gradient_share_of_whole/<term>` of all terms where the
            method has one joint loss of labeled and unlabeled patches. Nothing in a step of labeled terms only.
        """
        labeled = [name.startswith(LABELED) for name in self._at_layers.names]
        if all(labeled):
            return {}
        panel = "gradient_share" if any(labeled) else "gradient_share_of_whole"
        found, there = self._at_layers.shares(self._trainer.is_ddp), {}
        if self._at_stages.names:
            there = self._at_stages.shares(self._trainer.is_ddp)
        found |= {name: there[name] for name in self._at_stages.missed if name in there}
        return {f"{panel}/{name}": found[name] for name in self._at_layers.names if name in found}


class _Measured:
    """Gradients of the terms of all groups at the parameters of one place.

    Attributes:
        names: of the terms, in their order.
        missed: of the terms that are here since they miss another place.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.missed: list[str] = []
        self._rows: list[Tensor] = []
        self._reached: list[bool] = []

    def add(self, terms: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> list[bool]:
        """Returns which terms have no gradient here: they do not depend on the parameters, or it is 0 (compiled networks)."""
        rows, reached = gradients([*terms.values()], parameters)
        self.names += terms
        self._rows.append(rows)
        self._reached += reached
        return (torch.linalg.vector_norm(rows, dim=1) == 0).tolist()

    def shares(self, is_ddp: bool) -> dict[str, float]:
        """Of all terms that depend on the parameters but the labeled ones."""
        labeled, gradient = [name.startswith(LABELED) for name in self.names], torch.cat(self._rows)
        if is_ddp:
            dist.all_reduce(gradient)  # the number of processes cancels in the shares
        terms = zip(self.names, shares(gradient, labeled).tolist(), self._reached, labeled, strict=True)
        return {name: value for name, value, reached, is_labeled in terms if reached and not is_labeled}


def described(values: Mapping[str, float]) -> str:
    """The shares among the values of an epoch, for the log: "gradient shares: consistency 0.80 %"; empty where there are none."""
    parts = []
    for panel, title in (
        ("gradient_share/", "gradient shares"),
        ("gradient_share_of_whole/", "gradient shares of the whole loss"),
    ):
        found = [f"{name.removeprefix(panel)} {v:.2%}" for name, v in values.items() if name.startswith(panel)]
        parts += [f"{title}: {', '.join(found)}"] if found else []
    return "; ".join(parts)
