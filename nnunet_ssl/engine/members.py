"""What a method registers with the engine: networks, modules and teachers beside nnU-Net's own network (the student).

A member knows its network in the form in which it is called (compiled, wrapped for several GPUs) and in the plain form that is
saved. `Members` makes them, and does what is done to all of them: optimizers, schedules, moving averages, pretrained weights,
their part of a checkpoint. Methods reach it by the `register_*` functions of `nnUNetTrainerSSL`.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_ssl.engine.ema import PairedTensors, ema_decay_at, ema_update
from nnunet_ssl.engine.schedules import OwnSchedule, with_schedule


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

    @property
    def has_own_schedule(self) -> bool:
        """Whether its learning rate is not nnU-Net's: the schedule steps after each epoch and has a state."""
        return isinstance(self.scheduler, OwnSchedule)

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
        updating: False: the next optimizer step leaves it as it is and does not count. For a method to set in every step (two
            teachers that are updated in turn); not kept in checkpoints.
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
        self.updating = True
        self._pairs: PairedTensors | None = None

    @property
    def current_decay(self) -> float:
        return ema_decay_at(self.updates, self.decay) if self.warmup else self.decay

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Tensor]:
        return as_scales(self.network(images))

    def update(self) -> None:
        """One step of the moving average towards the source network, after the optimizer step; nothing unless `updating`."""
        if not self.updating:
            return
        if self._pairs is None or not self._pairs.are_of(self.module, self.source.module):
            self._pairs = PairedTensors(self.module, self.source.module)
        ema_update(self.module, self.source.module, self.current_decay, self._pairs)
        self.updates += 1

    def copy_source(self) -> None:
        self.module.load_state_dict(self.source.module.state_dict())


@contextlib.contextmanager
def in_place_of_student(trainer, network: nn.Module) -> Iterator[None]:
    """Within this context `network` is the trainer's `network`, for functions of nnU-Net that know no other."""
    trained, trainer.network = trainer.network, network
    try:
        yield
    finally:
        trainer.network = trained


def set_deep_supervision(trainer, member: NetworkMember, enabled: bool) -> None:
    """nnU-Net's own switch (which a subclass may have replaced), applied to the network of a member."""
    with in_place_of_student(trainer, LikeDDP(member.module) if trainer.is_ddp else member.module):
        trainer.set_deep_supervision_enabled(enabled)


class Members:
    """All that a method has registered, in this order, without the student.

    Attributes:
        states: name -> object with a state dict that is kept in checkpoints.
    """

    def __init__(self, trainer):
        self._trainer = trainer
        self._by_name: dict[str, Member] = {}
        self.states: dict[str, Any] = {}

    def __iter__(self) -> Iterator[Member]:
        return iter(self._by_name.values())

    def __getitem__(self, name: str) -> Member:
        return self._by_name[name]

    @property
    def names(self) -> list[str]:
        return list(self._by_name)

    @property
    def teachers(self) -> list[Teacher]:
        return [member for member in self if isinstance(member, Teacher)]

    @property
    def supervised(self) -> list[NetworkMember]:
        """Networks with a loss on the labeled patches, the student not among them."""
        return [member for member in self if isinstance(member, NetworkMember) and member.supervised]

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The student's, then those that members have of their own."""
        return [self._trainer.optimizer, *(m.optimizer for m in self if m.optimizer is not None)]

    # -------------------------------------------------------------------------------------------------- registration

    def add_teacher(self, name: str, source: Member, decay: float, warmup: bool) -> Teacher:
        trainer = type(self._trainer).__name__
        if self._trainer.network is None:
            raise RuntimeError(f"{trainer}: there is no network yet. Register teachers in `build_method`.")
        if not isinstance(source, Member):
            raise TypeError(
                f"{trainer}: the source of the teacher '{name}' must be what `register_network` or `register_module` returned, got "
                f"{type(source).__name__}."
            )
        if not 0 <= decay <= 1:
            raise ValueError(f"{trainer}: the decay of the teacher '{name}' must be in [0, 1], got {decay}.")
        module = copy.deepcopy(source.module).requires_grad_(False).eval()
        teacher = Teacher(name, module, self._compiled(module), source, decay, warmup)
        if isinstance(source, NetworkMember):
            set_deep_supervision(self._trainer, teacher, False)
        self._add(teacher)
        return teacher

    def add_network(
        self,
        name: str,
        network: nn.Module,
        optimizer: str | Callable | None,
        clip: float | None,
        supervised: bool,
        follows_pretrained: bool,
    ) -> NetworkMember:
        module = network.to(self._trainer.device)
        wrapped, own, scheduler = self._prepare(module, optimizer)
        member = NetworkMember(
            name,
            module,
            wrapped,
            own,
            scheduler,
            clip,
            supervised=supervised,
            follows_pretrained=follows_pretrained,
        )
        self._add(member)
        return member

    def add_module(self, name: str, module: nn.Module, optimizer: str | Callable | None, clip: float | None) -> Member:
        module = module.to(self._trainer.device)
        wrapped, own, scheduler = self._prepare(module, optimizer)
        member = Member(name, module, wrapped, own, scheduler, clip)
        self._add(member)
        return member

    def add_state(self, name: str, state: Any) -> None:
        if name in self.states:
            raise ValueError(f"{type(self._trainer).__name__}: a state named '{name}' is registered already")
        lacking = [method for method in ("state_dict", "load_state_dict") if not callable(getattr(state, method, None))]
        if lacking:
            raise TypeError(
                f"{type(self._trainer).__name__}: the state '{name}' ({type(state).__name__}) has no {' and no '.join(lacking)}, "
                "without which it cannot be kept in checkpoints."
            )
        self.states[name] = state

    def _add(self, member: Member) -> None:
        if member.name in ("student", *self._by_name):
            raise ValueError(f"{type(self._trainer).__name__}: a member named '{member.name}' is registered already")
        self._by_name[member.name] = member

    def _compiled(self, module: nn.Module) -> nn.Module:
        return torch.compile(module) if self._trainer._do_i_compile() else module

    def _prepare(self, module: nn.Module, optimizer: str | Callable | None):
        """Wrap a module as nnU-Net wraps its network, and make its optimizer: (wrapped, own optimizer, its schedule)."""
        trainer = self._trainer
        wrapped = self._compiled(module)
        own = scheduler = None
        if optimizer is None:
            module.requires_grad_(False)
        elif optimizer == "shared":
            trainer.optimizer.add_param_group({"params": list(module.parameters())})
        elif optimizer == "own":
            with in_place_of_student(trainer, module):
                own, scheduler = trainer.configure_optimizers()
        elif callable(optimizer):
            own, scheduler = with_schedule(optimizer(module.parameters()), trainer.num_epochs)
        else:
            shown = repr(optimizer) if isinstance(optimizer, str) else type(optimizer).__name__
            raise ValueError(
                f"optimizer must be 'own', 'shared', None or a function from parameters to an optimizer, got {shown}"
            )
        if trainer.is_ddp and optimizer is not None:
            wrapped = nn.SyncBatchNorm.convert_sync_batchnorm(wrapped)
            wrapped = DistributedDataParallel(wrapped, device_ids=[trainer.local_rank])
        return wrapped, own, scheduler

    # ------------------------------------------------------------------------------------------------------- training

    def start_epoch(self, epoch: int) -> None:
        """Training mode, and the learning rate of this epoch, for all but teachers."""
        for member in self:
            if isinstance(member, Teacher):
                continue
            member.module.train()
            if member.optimizer is not None and not member.has_own_schedule:
                member.scheduler.step(epoch)

    def end_epoch(self) -> None:
        """A step of every schedule that a member has of its own."""
        for member in self:
            if member.has_own_schedule:
                member.scheduler.step()

    def update_teachers(self) -> None:
        for teacher in self.teachers:
            teacher.update()

    def spread_pretrained_weights(self, weights: dict[str, Tensor]) -> None:
        """Give the student's `weights` to teachers and to other networks, except their segmentation layers.

        Raises:
            NotImplementedError: a network that follows the student has another architecture.
        """
        body = {k: v for k, v in weights.items() if ".seg_layers." not in k}
        for member in self:
            if isinstance(member, NetworkMember) and member.follows_pretrained:
                own = member.module.state_dict()
                different = [k for k, v in body.items() if k not in own or own[k].shape != v.shape]
                if different:
                    raise NotImplementedError(
                        f"-pretrained_weights do not fit the network '{member.name}' of {type(self._trainer).__name__}: its "
                        f"architecture is another one (first difference: {different[0]})."
                    )
                member.module.load_state_dict(own | body)
        for teacher in self.teachers:
            teacher.copy_source()

    # ---------------------------------------------------------------------------------------------------- checkpoints

    def state(self) -> dict[str, dict]:
        """Their part of `ssl_state`."""
        return {
            "members": {m.name: m.module.state_dict() for m in self},
            "optimizers": {m.name: m.optimizer.state_dict() for m in self if m.optimizer is not None},
            "schedules": {m.name: m.scheduler.state_dict() for m in self if m.has_own_schedule},
            "teacher_updates": {teacher.name: teacher.updates for teacher in self.teachers},
            "states": {name: state.state_dict() for name, state in self.states.items()},
        }

    def load_state(self, state: dict[str, dict]) -> None:
        for member in self:
            member.module.load_state_dict(state["members"][member.name])
            if member.optimizer is not None:
                member.optimizer.load_state_dict(state["optimizers"][member.name])
            if member.has_own_schedule:
                member.scheduler.load_state_dict(state["schedules"][member.name])
        for teacher in self.teachers:
            teacher.updates = state["teacher_updates"][teacher.name]
        for name, registered in self.states.items():
            registered.load_state_dict(state["states"][name])
