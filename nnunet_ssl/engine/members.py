"""What a method registers with the engine: networks, modules and teachers beside nnU-Net's own network (the student).

Members know their network in the form it is called (compiled, wrapped for several GPUs) and in the plain form that is saved.
They are made by the `register_*` functions of `nnUNetTrainerSSL`, not by hand.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_ssl.engine.ema import ema_decay_at, ema_update


def unwrap(network: nn.Module) -> nn.Module:
    """The plain network inside torch.compile's and DDP's wrappers."""
    if isinstance(network, (DistributedDataParallel, LikeDDP)):
        network = network.module
    return network._orig_mod if isinstance(network, OptimizedModule) else network


def as_scales(output: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """Logits as a list with one tensor per scale, highest resolution first, whether or not deep supervision is on."""
    return [output] if isinstance(output, Tensor) else list(output)


class LikeDDP(nn.Module):
    """Gives an unwrapped network the `.module` that nnU-Net expects of `self.network` when several GPUs train.

    A teacher has no gradients to reduce, so DDP itself refuses to wrap it.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *args):
        return self.module(*args)


class Member:
    """A module that takes part in training beside the student.

    Calling it runs the module as it is wrapped. `optimizer` is None for a module without an optimizer of its own.
    """

    def __init__(self, name: str, module: nn.Module, wrapped: nn.Module, optimizer, scheduler, clip: float | None):
        self.name = name
        self.module = module
        self.network = wrapped
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.clip = clip

    def __call__(self, *args):
        return self.network(*args)

    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.module.parameters() if p.requires_grad]


class NetworkMember(Member):
    """A segmentation network: calling it gives a list of logits `(B, C, *spatial)`, highest resolution first."""

    def __init__(self, *args, supervised: bool, follows_pretrained: bool):
        super().__init__(*args)
        self.supervised = supervised
        self.follows_pretrained = follows_pretrained

    def __call__(self, images: Tensor) -> list[Tensor]:
        return as_scales(self.network(images))


class Student(NetworkMember):
    """nnU-Net's own network, seen as a member. It follows `trainer.network`, which nnU-Net makes and wraps."""

    def __init__(self, trainer):
        self._trainer = trainer
        self.name = "student"
        self.supervised = True
        self.follows_pretrained = True
        self.clip = 12  # nnU-Net's

    @property
    def network(self) -> nn.Module:
        return self._trainer.network

    @property
    def module(self) -> nn.Module:
        return unwrap(self.network)

    @property
    def optimizer(self):
        return self._trainer.optimizer


class Teacher(NetworkMember):
    """The exponential moving average of the weights of a network or module. Never trained: its outputs carry no gradient.

    Attributes:
        updates: how many EMA updates it has had, the t of `ema_decay_at`.
        decay: upper limit of the EMA decay. A method may set it in every step (0: copies of the source).
        warmup: the decay grows as `ema_decay_at` says; False: it is `decay` from the first update on.
    """

    def __init__(
        self, name: str, module: nn.Module, wrapped: nn.Module, source: Member, decay: float, warmup: bool = True
    ):
        super().__init__(name, module, wrapped, None, None, None, supervised=False, follows_pretrained=False)
        self.source = source
        self.decay = decay
        self.warmup = warmup
        self.updates = 0

    @property
    def current_decay(self) -> float:
        return ema_decay_at(self.updates, self.decay) if self.warmup else self.decay

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Tensor]:
        return as_scales(self.network(images))

    def update(self) -> None:
        """One step of the moving average towards the source network, after the optimizer step."""
        ema_update(self.module, self.source.module, self.current_decay)
        self.updates += 1

    def copy_source(self) -> None:
        self.module.load_state_dict(self.source.module.state_dict())
