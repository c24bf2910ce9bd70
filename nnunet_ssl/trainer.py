"""The engine: an `nnUNetTrainer` that also sees unlabeled images.

This file holds the seams, which methods override or call, and the hooks of nnU-Net. The machinery stands in
`nnunet_ssl.engine` (members, steps, checkpoints, curves) and `nnunet_ssl.dataloading` (the two streams of patches). A method
is a subclass that overrides the seams, from most to least common:

    build_method()                    register teachers, second networks, heads, banks
    unlabeled_terms(logits, batch)    named loss terms from the student's logits on the unlabeled patches
    weights()                         name -> weight now, a function of `self.progress`
    terms(batch)                      the whole step, for methods of another shape
    term_groups(batch)                the step in parts, each with a backward pass of its own: independent networks
    supervised_loss(logits, target, batch)
    after_step(), after_epoch()       queues, pools
    inference_network()               which network is validated and stored for prediction
    unlabeled_views(intensity)        weak and strong views of one patch
    labeled_views(intensity)          the same of the labeled patches
    further_unlabeled(intensity)      further unlabeled patches, of other images
    unlabeled_probabilities(cases)    how often unlabeled patches come from each case
    labeled_extras()                  maps made of the labeled target by the workers (distances)
    labeled_transforms(transforms)    nnU-Net's transforms of the labeled patches
    labeled_dataset(dataset)          nnU-Net's data set of the training cases
    unlabeled_loader(labeled)         unlabeled patches with labels that were made before, or drawn in another way
    further_streams(labeled)          patches of something else beside the labeled ones (masks)
    case_probabilities(cases)         how often labeled patches come from each case
    check_supported()                 what the method needs of the data set, refused when the training starts

`docs/add_a_method.md` walks through an example and lists what methods may call; `docs/architecture.md` gives the reasons.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import join, save_json
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor, autocast, nn

from nnunet_ssl.data.annotated_classes import KEY as PARTIAL_LABELS
from nnunet_ssl.data.atomic import remove_unfinished
from nnunet_ssl.data.locks import OutputLock
from nnunet_ssl.data.names import dataset_number
from nnunet_ssl.dataloading.cases import TrainingCases, check_fold, gather_cases
from nnunet_ssl.dataloading.dataset import UnlabeledDataset
from nnunet_ssl.dataloading.loader import TwoStreamLoader
from nnunet_ssl.dataloading.pool import UnlabeledPool
from nnunet_ssl.dataloading.streams import loader_of, two_streams, unlabeled_batch_size_here
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.checkpoints import (
    random_states,
    random_states_of_all_ranks,
    restore,
    restore_random_states,
    state_of,
    write_checkpoint,
)
from nnunet_ssl.engine.competence import EARLIEST, F1, LATEST, CompetenceGate
from nnunet_ssl.engine.configurable import ConfigurableTrainer, declared_hyperparameters
from nnunet_ssl.engine.curves import LABELED, UNLABELED, Curves, epoch_values
from nnunet_ssl.engine.features import refuse_unsupported
from nnunet_ssl.engine.gradient_shares import described, keep_compiled_graphs
from nnunet_ssl.engine.members import Member, Members, NetworkMember, Student, Teacher
from nnunet_ssl.engine.optimization import (
    LARGEST_WAITING,
    NonFiniteWatch,
    finite_outputs,
    out_of_memory_message,
    training_step,
    waiting_message,
)
from nnunet_ssl.engine.prediction import inference_network_in_place, predict_cases, score_cases
from nnunet_ssl.networks.second_decoding import SecondDecoding
from nnunet_ssl.preprocessing.dense_labels import DenseLabels, preprocessing_command, raw_dense_labels


class nnUNetTrainerSSL(ConfigurableTrainer):
    """Base class of all methods; on its own it trains nnU-Net on the labeled part and ignores the unlabeled one.

    Attributes:
        unlabeled_batch_size: unlabeled patches per step (over all GPUs); None: as many as labeled ones.
        allow_transductive: accept unlabeled images that are also validation or test images.
        needs_unlabeled: False: the method has labeled patches only (weak or partial labels), `terms` gets no unlabeled ones.
        one_graph_at_a_time: a method of independent networks (see its passes per step) goes backward after each of them: about
            half of the memory, one more forward pass of the unlabeled patches. False: all networks at once.
        max_nonfinite_steps: stop after this many steps in a row with a loss that is not finite.
        replaces_labeled_loss: the method's `terms` replaces nnU-Net's loss on the labeled patches, so it runs even when all
            weights are zero.
        knows_partial_labels: the labeled loss takes a class that a case does not annotate for unknown, not for background.
        unsupported: feature -> reason, refused when the trainer starts. Features: "2d", "3d", "regions", "ignore_label",
            "deep_supervision", "no_deep_supervision", "ddp", "compile", "fold_all".
        term_patches: term -> the patches it is computed on (`engine/curves.py`), for `progress_ssl.png`. Default: labeled ones of
            names that begin with `labeled` and without unlabeled patches, else unlabeled ones.
        networks: names of the segmentation networks that a step holds with the default attributes: the student, then those that
            `build_method` registers (`nnunet_ssl trainers` lists them).
    """

    unlabeled_batch_size: int | None = None
    allow_transductive: bool = False
    needs_unlabeled: bool = True
    one_graph_at_a_time: bool = True
    max_nonfinite_steps: int = 20
    replaces_labeled_loss: bool = False
    knows_partial_labels: bool = False
    unsupported: dict[str, str] = {}
    term_patches: ClassVar[Mapping[str, str]] = {}
    networks: ClassVar[tuple[str, ...]] = ("student",)

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.student = Student(self)
        self.members = Members(self)
        self.cases: TrainingCases | None = None
        self.view_names: tuple[str, ...] = ("unlabeled",)
        self.labeled_view_names: tuple[str, ...] = ()
        self.further_view_names: dict[str, tuple[str, ...]] = {}
        self.second_decoding: SecondDecoding | None = None
        self.curves = Curves()
        self.nonfinite = NonFiniteWatch()
        self.iteration = 0
        self.gradient_shares: dict[str, float] = {}  # of the epoch's last step, see engine/gradient_shares.py
        self.gate: CompetenceGate | None = None
        self._split: tuple[list[str], list[str]] | None = None
        self._pool: list[str] | None = None
        self._shared_pool: UnlabeledPool | None = None  # the same, where workers read it; made with the loaders
        self._lock: OutputLock | None = None  # of output_folder, while this process trains
        self._weight_names: tuple[str, ...] | None = None
        self._loaded_checkpoint = False
        self._randomness: dict | None = None  # of the checkpoint that is continued
        self._weights_at_start: list[float] = []
        self._waited = 0.0
        self._waiting_said = False
        self._step_ended: float | None = None
        self._epoch_started = 0.0

    # ------------------------------------------------------------------------------------------------------- the seams

    def build_method(self) -> None:
        """Register what the method needs beside the student. Called once, when nnU-Net's network and loss exist."""

    def unlabeled_terms(self, logits: list[Tensor], batch: SSLBatch) -> dict[str, Tensor]:
        """Named scalar loss terms of the unlabeled patches.

        Args:
            logits: the student's logits on `batch.unlabeled`, one `(U, C, *spatial)` per scale, highest resolution first.
            batch: the step's patches; `batch.logits` has the logits of other supervised networks, `batch.labeled_logits`
                those of the labeled patches.
        """
        return {}

    def weights(self) -> dict[str, float]:
        """Weight of every term at this moment; the same names in every step. Labeled terms not named weigh 1."""
        return {}

    def terms(self, batch: SSLBatch) -> dict[str, Tensor]:
        """All named terms of a step. Default: one forward of labeled and unlabeled patches together, per network."""
        terms = {}
        for member in self.supervised_networks():
            if self.second_decoding is not None and member is self.second_decoding.member:
                scales, batch.perturbed = self.second_decoding(batch.images, first=batch.num_labeled)
            else:
                scales = member(batch.images)
            batch.keep_logits(member.name, scales)
            terms[self.labeled_name(member)] = self.supervised_loss(
                batch.labeled_logits[member.name], batch.target, batch
            )
        return terms | self.unlabeled_terms(batch.logits["student"], batch)

    def term_groups(self, batch: SSLBatch) -> Iterator[dict[str, Tensor]]:
        """The step in parts: the engine goes backward after each group of terms, and only then asks for the next one.

        Default: one group, `terms`. For methods whose networks learn from one another without a gradient between them
        (`networks_in_turn`), so that memory holds the activations of one network at a time. A term of one group must not need
        the graph of another.
        """
        yield self.terms(batch)

    def supervised_loss(self, logits: list[Tensor], target: Tensor | list[Tensor], batch: SSLBatch) -> Tensor:
        """nnU-Net's loss on labeled patches: `logits` one `(L, C, *spatial)` per scale, `target` as nnU-Net's loader gives it."""
        if self.gate is not None:
            self.gate.count(logits, target)
        return self.loss(logits if self.enable_deep_supervision else logits[0], target)

    def after_step(self) -> None:
        """Called after each optimizer step and after the teachers' updates."""

    def after_epoch(self) -> None:
        """Called after the last step of an epoch, before its validation and before a checkpoint is written."""

    def inference_network(self) -> NetworkMember:
        """The network that is validated and stored as `network_weights`, of the architecture that the plans name."""
        return self.student

    def unlabeled_views(self, intensity: list[BasicTransform]) -> dict[str, list[BasicTransform]]:
        """View name -> intensity transforms; all views share their geometry. Called when the training starts.

        The first view is `batch.unlabeled`: the default `terms` gives it to the networks together with the labeled patches, with a
        graph. So the view that is learned from (the strong one) comes first; the others are for teachers and `without_gradient`.

        Args:
            intensity: nnU-Net's own intensity transforms, in its order.
        """
        return {"unlabeled": intensity}

    def labeled_views(self, intensity: list[BasicTransform]) -> dict[str, list[BasicTransform]] | None:
        """The same of the labeled patches: the first is `batch.labeled`, all are `batch.labeled_views`. None: nnU-Net's one view.

        Validation patches have one view. Called when the training starts.
        """
        return None

    def further_unlabeled(self, intensity: list[BasicTransform]) -> dict[str, dict[str, list[BasicTransform]]]:
        """Further unlabeled patches of each step, of images drawn for themselves: stream name -> views as in `unlabeled_views`.

        For mixing with other images than those of `batch.unlabeled`; `batch.further[name]` has them, as many as these. Called when
        the training starts.
        """
        return {}

    def unlabeled_probabilities(self, cases: Sequence[str]) -> np.ndarray | None:
        """With which probability an unlabeled patch is drawn from each of `cases`, the pool; sum 1. None: equally often.

        Called when the training starts and by every `set_unlabeled_cases`.
        """
        return None

    def labeled_extras(self) -> Callable[[Tensor], dict[str, Tensor]] | None:
        """A function that the loader's workers apply to the labeled target; what it returns becomes `batch.extras`.

        For what is slow or needs the CPU, such as distance transforms. It is given the target at full resolution,
        `(L, 1 or regions (and ignore), *spatial)`, returns tensors by name, can be pickled, and draws no random numbers.
        """
        return None

    def labeled_transforms(self, transforms: list[BasicTransform]) -> list[BasicTransform]:
        """nnU-Net's training transforms of the labeled patches, in its order, changed. Called once."""
        return transforms

    def labeled_dataset(self, dataset):
        """nnU-Net's data set of the training cases, or one around it that gives further labels. Called when training starts."""
        return dataset

    def unlabeled_loader(self, labeled: nnUNetDataLoader) -> nnUNetDataLoader | None:
        """The loader of the unlabeled patches, where they have labels that were made before: `batch.unlabeled_target` has these.

        It draws `unlabeled_batch_size` patches (`unlabeled_batch_size_here`) and replaces `unlabeled_views`. Called when training
        starts; the engine sets its `indices` and `sampling_probabilities` to those of the pool before every batch. None: the
        engine's, without labels.

        Args:
            labeled: the labeled loader, with the method's training transforms.
        """
        return None

    def further_streams(self, labeled: nnUNetDataLoader) -> dict[str, nnUNetDataLoader]:
        """Further loaders by name, that the workers draw from beside `labeled`; `batch.extras[name]` is the target of each batch.

        Called when training starts, and raises UserError if what it needs is missing. Loaders can be pickled.
        """
        return {}

    def case_probabilities(self, cases: Sequence[str]) -> np.ndarray | None:
        """With which probability a labeled training patch is drawn from each of `cases`, summing up to 1; None: equally often."""
        return None

    def check_supported(self) -> None:
        """Refuse, when the training starts, what this method or the engine cannot do; overrides call it and add their own.

        Raises:
            NotImplementedError: a feature of nnU-Net that is not supported, with the reason.
            UserError: something that the data set lacks.
        """
        refuse_unsupported(self, self.unsupported)

    # ------------------------------------------------------------------------------------------- what methods may call

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        return min(1.0, self.iteration / self.total_steps)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.num_epochs * self.num_iterations_per_epoch

    @functools.cached_property
    def _labeled_cases(self) -> int:
        """Labeled training cases of the fold."""
        return len(self.do_split()[0])

    @property
    def unlabeled_share(self) -> float:
        """Share of the unlabeled images among all that are trained on, N_U / (N_U + N_L); 0 without any."""
        unlabeled = len(self.unlabeled_pool)
        return unlabeled / (unlabeled + self._labeled_cases) if unlabeled else 0.0

    @property
    def activation(self) -> str:
        """What turns logits into probabilities: "sigmoid" with region-based training, else "softmax"."""
        return "sigmoid" if self.label_manager.has_regions else "softmax"

    @property
    def num_objects(self) -> int:
        """Foreground classes, or regions."""
        return self.label_manager.num_segmentation_heads - (self.activation == "softmax")

    @property
    def scale_weights(self) -> tuple[float, ...]:
        """Weight of each scale in nnU-Net's loss, highest resolution first; (1.0,) without deep supervision."""
        return tuple(float(w) for w in self.loss.weight_factors) if self.enable_deep_supervision else (1.0,)

    def annotated(self, target: Tensor | list[Tensor]) -> Tensor:
        """Which voxels of the labeled patches have a label: bool `(L, 1, *spatial)`, False for the ignore label."""
        target = target[0] if isinstance(target, list) else target
        if not self.label_manager.has_ignore_label:
            return torch.ones_like(target[:, :1], dtype=torch.bool)
        if self.label_manager.has_regions:
            return target[:, -1:] == 0
        return target != self.label_manager.ignore_label

    def register_teacher(
        self, decay: float, name: str = "teacher", source: Member | None = None, *, warmup: bool = True
    ) -> Teacher:
        """A moving average of `source` (default: the student), updated after every step; see `Teacher`.

        The average of a module that is no segmentation network (a projection head) gives its output as a list of one tensor.
        """
        return self.members.add_teacher(name, source or self.student, decay, warmup)

    def teacher_or_student(self, teacher: Teacher, choice: str) -> NetworkMember:
        """`teacher` or the student, for methods that let a class attribute choose which one is validated.

        Raises:
            ValueError: another choice than "teacher" or "student".
        """
        if choice not in ("teacher", "student"):
            raise ValueError(f"{type(self).__name__}.inference must be 'teacher' or 'student', got {choice!r}")
        return teacher if choice == "teacher" else self.student

    def register_network(
        self,
        name: str,
        network: nn.Module | None = None,
        *,
        optimizer: str | Callable | None = "own",
        clip: float | None = 12.0,
        supervised: bool = False,
        follows_pretrained: bool = True,
    ) -> NetworkMember:
        """A further segmentation network.

        Args:
            network: default: the architecture of the plans with weights of its own.
            optimizer: "own": one as nnU-Net makes for the student, with the same schedule; "shared": the student's; a
                function from parameters to an optimizer, whose learning rates then follow nnU-Net's schedule, or to an optimizer
                and its schedule: None for constant rates, or a scheduler of PyTorch, which steps after every epoch and is kept in
                checkpoints; None: not trained.
            clip: largest gradient norm, None for no clipping. nnU-Net's is 12.
            supervised: the default `terms` adds `labeled_<name>`, its loss on the labeled patches.
            follows_pretrained: `-pretrained_weights` goes into this network as well, except its heads.
        """
        module = self.build_network() if network is None else network
        return self.members.add_network(name, module, optimizer, clip, supervised, follows_pretrained)

    def register_module(
        self, name: str, module: nn.Module, *, optimizer: str | Callable | None = "shared", clip: float | None = 12.0
    ) -> Member:
        """A head, discriminator or bank (buffers of a module); arguments as in `register_network`."""
        return self.members.add_module(name, module, optimizer, clip)

    def register_second_decoding(
        self, perturb: Callable[[list[Tensor]], list[Tensor]], member: NetworkMember | None = None
    ) -> SecondDecoding:
        """The unlabeled patches are decoded twice: from the encoder's features, and from these features after `perturb`.

        The default `terms` keeps the logits of the second decoding in `batch.perturbed`. It costs a pass of the decoder; the
        encoder runs once. A `terms` of one's own calls what is returned: see `SecondDecoding`. Call it in `build_method()`, after
        `register_teacher` (a teacher is a copy of the network).

        Args:
            perturb: from the features of all encoder stages, each `(U, F, *spatial)`, bottleneck last, to such a list.
            member: default: the student.

        Raises:
            NotImplementedError: the network is not built like nnU-Net's.
        """
        self.second_decoding = SecondDecoding(member or self.student, perturb)
        return self.second_decoding

    def register_gate(self, earliest: float = EARLIEST, latest: float = LATEST, f1: float = F1) -> CompetenceGate:
        """`self.gate`, which opens when the network knows every class; arguments as in `CompetenceGate`."""
        self.gate = CompetenceGate(self, earliest, latest, f1)
        return self.gate

    def register_state(self, name: str, state: Any) -> Any:
        """Any object with `state_dict()` and `load_state_dict()`, kept in checkpoints."""
        self.members.add_state(name, state)
        return state

    def build_network(self) -> nn.Module:
        """A network of the plans' architecture with new random weights, on the training device."""
        return self.build_network_architecture(
            self.plans_manager,
            self.configuration_manager,
            self.num_input_channels,
            self.label_manager.num_segmentation_heads,
            self.enable_deep_supervision,
        ).to(self.device)

    def supervised_networks(self) -> list[NetworkMember]:
        """The student, then the other networks that have a loss on the labeled patches."""
        return [self.student, *self.members.supervised]

    @staticmethod
    def labeled_name(member: NetworkMember) -> str:
        return "labeled" if member.name == "student" else f"labeled_{member.name}"

    def networks_in_turn(self, batch: SSLBatch, of_others: str = "unlabeled") -> Iterator[NetworkMember]:
        """For a `term_groups` of one's own: each supervised network after its forward pass of `batch.images`, one after the other.

        At each turn `batch.logits` and `batch.labeled_logits` have the logits of this network with their graph, and those of the
        others without: from their own turn, or from a forward pass without gradient before the first one. Yield the group of
        terms of this network before the next turn:

            for member in self.networks_in_turn(batch):
                yield {self.labeled_name(member): ..., "my_term_" + member.name: ...}

        This costs a forward pass without gradient for each network but the first. With `one_graph_at_a_time = False` it is saved,
        and the graphs of all networks are in memory at once.

        Args:
            of_others: which logits of networks whose turn is to come are needed: of "unlabeled" patches, of "all", or "none".

        Raises:
            ValueError: another `of_others`.
        """
        if of_others not in ("unlabeled", "all", "none"):
            raise ValueError(f"of_others must be 'unlabeled', 'all' or 'none', got {of_others!r}")
        networks = self.supervised_networks()
        scales: dict[str, list[Tensor]] = {}
        for member in networks[self.one_graph_at_a_time :]:
            if not self.one_graph_at_a_time:
                scales[member.name] = member(batch.images)
                batch.keep_logits(member.name, [z.detach() for z in scales[member.name]])
            elif of_others == "all":
                batch.keep_logits(member.name, self.without_gradient(member, batch.images))
            elif of_others == "unlabeled":
                batch.logits[member.name] = self.without_gradient(member, batch.unlabeled)
        for member in networks:
            own = scales.pop(member.name) if member.name in scales else member(batch.images)
            batch.keep_logits(member.name, own)
            yield member
            batch.keep_logits(member.name, [z.detach() for z in own])

    def labeled_terms(self, batch: SSLBatch) -> dict[str, Tensor]:
        """nnU-Net's loss of every supervised network, on labeled patches alone: the step without unlabeled data."""
        return {
            self.labeled_name(m): self.supervised_loss(m(batch.labeled), batch.target, batch)
            for m in self.supervised_networks()
        }

    @staticmethod
    @torch.no_grad()
    def without_gradient(member: NetworkMember, images: Tensor) -> list[Tensor]:
        """The logits of a network that is trained in the same step, as they are now: a source of pseudo labels."""
        logits = member(images)
        # weights that autocast has cast here are cut off from gradients; older PyTorch would use them in the next forward
        torch.clear_autocast_cache()
        return logits

    @contextlib.contextmanager
    def frozen(self, member: Member) -> Iterator[None]:
        """Within this context the member's outputs pass gradients to its inputs but not to its parameters."""
        parameters = member.parameters()
        for parameter in parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in parameters:
                parameter.requires_grad_(True)

    def set_unlabeled_cases(self, cases: Sequence[str]) -> None:
        """Draw unlabeled patches from these cases only, from the next step on. An empty list: labeled steps only.

        The workers go on and read the pool from shared memory; patches that they have drawn already are dropped, which takes them a
        moment, so call it between epochs. Kept in checkpoints.

        Raises:
            ValueError: when a case is not an unlabeled case of this fold.
        """
        unknown = [] if self.cases is None else sorted(set(cases) - set(self.cases.folders))
        if unknown:
            raise ValueError(f"not unlabeled cases of fold {self.fold}: {', '.join(unknown)}")
        self._pool = sorted(cases)
        if self._shared_pool is not None:
            self._shared_pool.set(self._pool, self.unlabeled_probabilities(self._pool) if self._pool else None)

    @property
    def unlabeled_pool(self) -> list[str]:
        """The cases that unlabeled patches are drawn from."""
        return list(self._pool or [])

    def score_unlabeled(
        self, score: Callable[[np.ndarray], float], tile_step_size: float = 0.5, mirroring: bool = True
    ) -> dict[str, float]:
        """A number for every case of the pool, from the prediction of its whole image. For use between epochs.

        Args:
            score: gets probabilities `(C, *spatial)` float32 of the inference network, by nnU-Net's sliding window.
            tile_step_size, mirroring: as in nnU-Net's prediction.

        Returns:
            case -> number, of the whole pool on every GPU.
        """
        images = UnlabeledDataset({c: self.cases.folders[c] for c in self.unlabeled_pool}, self.dataset_class)
        return score_cases(self, images, score, tile_step_size, mirroring)

    def predicted_cases(
        self, dataset, tile_step_size: float = 0.5, mirroring: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Predict whole images with the inference network, by nnU-Net's sliding window. For use between epochs.

        Args:
            dataset: cases as nnU-Net's data sets hold them (`identifiers`, `load_case`). Of several GPUs each predicts a part of
                them; the last prediction is followed by a wait for the other GPUs.
            tile_step_size, mirroring: as in nnU-Net's prediction.

        Yields:
            case and its probabilities `(C, *spatial)`, float32, of the preprocessed image.
        """
        yield from predict_cases(self, dataset, tile_step_size, mirroring)

    # -------------------------------------------------------------------------------------------------------- start-up

    def initialize(self) -> None:
        self.check_supported()
        if self._do_i_compile():
            # teachers and further networks run the student's code: dynamo must tell those with hooks (dropout, feature taps)
            # from those without, or it runs whichever it compiled first
            torch._dynamo.config.skip_nnmodule_hook_guards = False
            keep_compiled_graphs()
        super().initialize()
        self.build_method()
        self.inference_network()  # a wrong choice is refused now and not at the first validation
        self._weights_at_start = self._fingerprint()

    def _fingerprint(self) -> list[float]:
        parameters = [p.detach().float() for p in self.student.module.parameters()]
        return torch.stack(torch._foreach_norm(parameters)).cpu().tolist()

    def on_train_start(self) -> None:
        if not self.was_initialized:
            self.initialize()
        if not self._loaded_checkpoint and self._fingerprint() != self._weights_at_start:
            self.members.spread_pretrained_weights(self.student.module.state_dict())
            self.print_to_log_file("Pretrained weights were given to all networks of the method.")
        self.find_cases()
        if self.local_rank == 0:
            lock = OutputLock(Path(self.output_folder))
            lock.acquire(wait=False)
            self._lock = lock  # ours now, to be given up
            remove_unfinished(Path(self.output_folder))
        super().on_train_start()
        if self._randomness is not None:  # nnU-Net has drawn batches, to see that its loaders work
            restore_random_states(self._randomness)
        if self.local_rank == 0:
            save_json(self.cases.record(), join(self.output_folder, "split.json"))
        values = declared_hyperparameters(type(self))
        lines = "\n".join(f"  {k}: {v}" for k, v in values.items())
        self.print_to_log_file(f"Hyper-parameters of {type(self).__name__}:\n{lines}", add_timestamp=False)
        cases = self.cases.record()
        counts = {side: len(cases[side]) for side in ("train", "val", "unlabeled")}
        split = {"hash": cases["hash"], **counts}
        self.logger.update_config({"nnunet_ssl": {"hyperparameters": values, "split": split, "fold": self.fold}})

    def on_train_end(self) -> None:
        super().on_train_end()
        self._release_lock()

    def _release_lock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # ------------------------------------------------------------------------------------------------------- the cases

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's split; a fold that the file lacks and a split that cannot be made are refused.

        It is made once, since nnU-Net writes five lines to the log each time.
        """
        if self._split is None:
            check_fold(self.preprocessed_dataset_folder_base, self.preprocessed_dataset_folder, self.fold)
            train, validation = super().do_split()
            self._split = list(train), list(validation)
        return list(self._split[0]), list(self._split[1])

    def find_cases(self) -> None:
        """Find labeled, unlabeled and validation cases, check them, and say what was found."""
        self.cases = gather_cases(
            self.preprocessed_dataset_folder_base,
            self.preprocessed_dataset_folder,
            self.plans_manager,
            self.configuration_manager,
            self.configuration_name,
            self.fold,
            self.do_split(),
            self.allow_transductive,
            self.needs_unlabeled,
        )
        self.print_to_log_file(self.cases)
        if PARTIAL_LABELS in self.dataset_json and not self.knows_partial_labels:
            self.print_to_log_file(
                f"Warning: dataset.json says that cases annotate only some classes ('{PARTIAL_LABELS}'), and {type(self).__name__} "
                "takes what is not annotated for background. nnUNetTrainerPartialLabel and nnUNetTrainerSemiSupervised do not."
            )
        for note in self.cases.notes:
            self.print_to_log_file(note)
        # a pool from a checkpoint: cases that have gone since then cannot be drawn
        wanted = self.cases.unlabeled if self._pool is None else self._pool
        self._pool = [case for case in wanted if case in self.cases.folders]

    def get_tr_and_val_datasets(self):
        """nnU-Net's, but cases of sparse or partial labels are validated on their dense labels where there are any."""
        train, validation = super().get_tr_and_val_datasets()
        dense = self.dense_labels()
        validation = validation if dense is None else self.dataset_class(dense.folder, validation.identifiers)
        return self.labeled_dataset(train), validation

    def dense_labels(self) -> DenseLabels | None:
        """Dense labels of all validation cases; None where labels are not sparse or partial, or such labels are missing."""
        sparse, partial = self.label_manager.has_ignore_label, PARTIAL_LABELS in self.dataset_json
        if not sparse and not partial:
            return None
        validation = self.do_split()[1] if self.cases is None else self.cases.validation
        found = DenseLabels.of(
            self.preprocessed_dataset_folder_base,
            self.plans_manager,
            self.configuration_manager,
            validation,
            self.dataset_json["file_ending"],
        )
        if found is not None:
            self.print_to_log_file(
                f"Validation (pseudo Dice and final) is against the dense labels of {found.references}."
            )
            return found
        text = f"Validation is against the {'sparse labels, on annotated voxels' if sparse else 'partial labels'} only, and says "
        text += "little about the segmentation elsewhere. "
        raw = raw_dense_labels(self.plans_manager.dataset_name, validation, self.dataset_json["file_ending"])
        if raw is None:
            text += "Dense labels of all validation cases in labelsTr_dense of the raw data set would be used, once "
            text += f"`{preprocessing_command(self.plans_manager)}` has preprocessed them."
        else:
            text += (
                f"{raw} has dense labels of all validation cases, which are not preprocessed. To use them, stop, run "
            )
            text += f"`{preprocessing_command(self.plans_manager)}` and train again."
        self.print_to_log_file(text)
        return None

    # ----------------------------------------------------------------------------------------------------- the loaders

    def get_dataloaders(self):
        """nnU-Net's loaders; the unlabeled stream is added to what its training workers do."""
        train, validation = super().get_dataloaders()
        self._shared_pool = UnlabeledPool(list(self.cases.folders))
        self.set_unlabeled_cases(self.unlabeled_pool)
        self.restart_workers(train, two_streams(self, train, self._shared_pool), role="train")
        self.restart_workers(validation, TwoStreamLoader(loader_of(validation)), role="validation")
        next(train), next(validation)  # as nnU-Net: fail here rather than in the first epoch
        return train, validation

    # -------------------------------------------------------------------------------------------------------- training

    def run_training(self) -> None:
        try:
            super().run_training()
        except BaseException:
            for augmenter in (self.dataloader_train, self.dataloader_val):
                if hasattr(augmenter, "_finish"):
                    augmenter._finish()
            self._release_lock()
            raise

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.members.start_epoch(self.current_epoch)
        self.gradient_shares = {}
        self._waited = 0.0
        self._epoch_started = self._step_ended = perf_counter()

    def autocast(self):
        """nnU-Net's rule: mixed precision on CUDA only."""
        return autocast("cuda", enabled=True) if self.device.type == "cuda" else contextlib.nullcontext()

    def train_step(self, batch: dict) -> dict[str, np.ndarray]:
        """One optimizer step. Returns the weighted loss and every named term, inactive ones as 0, as numpy scalars."""
        if self._step_ended is not None:
            self._waited += perf_counter() - self._step_ended
        weights = self._current_weights()
        moved = SSLBatch.from_loader(
            self._of_this_pool(batch), self.view_names, self.device, self.labeled_view_names, self.further_view_names
        )
        try:
            values = training_step(self, moved, weights)
        except torch.cuda.OutOfMemoryError as error:
            unlabeled = unlabeled_batch_size_here(self) if self._pool else None
            raise RuntimeError(out_of_memory_message(type(self).__name__, self.batch_size, unlabeled)) from error
        self.iteration += 1
        problem = self.nonfinite.see(values, self.max_nonfinite_steps)
        if problem is not None:
            self.print_to_log_file(f"Skipped step {self.iteration}: {problem}")
        self._step_ended = perf_counter()
        return values

    def _of_this_pool(self, batch: dict) -> dict:
        """The batch, or, if the pool has changed since it was drawn, the next one that was drawn after the change."""
        while (
            self._shared_pool is not None
            and batch.get("pool_version", self._shared_pool.version) != self._shared_pool.version
        ):
            batch = next(self.dataloader_train)
        return batch

    def _current_weights(self) -> dict[str, float]:
        labeled = {self.labeled_name(m): 1.0 for m in self.supervised_networks()}
        weights = self.weights()
        if self._weight_names is None:
            self._weight_names = tuple(weights)
        if tuple(weights) != self._weight_names:
            raise ValueError(
                f"{type(self).__name__}.weights() must name the same terms in every step: first {self._weight_names}, "
                f"now {tuple(weights)}. Give an inactive term the weight 0."
            )
        return labeled | weights

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        train_outputs = finite_outputs(train_outputs)
        super().on_train_epoch_end(train_outputs)
        others = {f"weight/{k}": v for k, v in self._current_weights().items()}
        others |= {f"ema_decay/{teacher.name}": teacher.current_decay for teacher in self.members.teachers}
        others["loader/waiting"] = self._waited / max(perf_counter() - self._epoch_started, 1e-9)
        others |= {"steps/skipped": self.nonfinite.skipped} | self.gradient_shares
        values = epoch_values(train_outputs, others, self.is_ddp)
        self.curves.log(self.current_epoch, values)
        shown = ", ".join(f"{k.split('/', 1)[1]} {v:.4g}" for k, v in values.items() if k.startswith("term/"))
        parts = (f"terms: {shown}", described(values), f"waiting for data {values['loader/waiting']:.0%}")
        self.print_to_log_file("; ".join(filter(None, parts)))
        if values["loader/waiting"] > LARGEST_WAITING and not self._waiting_said:
            self._waiting_said = True
            self.print_to_log_file(waiting_message(values["loader/waiting"]))
        for logger in self.logger.loggers:
            for name, value in values.items():
                logger.log(f"nnunet_ssl/{name}", value, self.current_epoch)
        if self.gate is not None:
            self.gate.look()
        self.members.end_epoch()
        self.after_epoch()

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if self.local_rank == 0:
            self.curves.plot(join(self.output_folder, "progress_ssl.png"), self._run_title, self._patches_of_terms())

    @property
    def _run_title(self) -> str:
        return f"{type(self).__name__}, fold {self.fold}, {self.plans_manager.dataset_name}, {self.configuration_name}"

    def _patches_of_terms(self) -> dict[str, str]:
        """Term -> the patches it is computed on, of all terms that were logged."""
        other = UNLABELED if self.needs_unlabeled else LABELED
        terms = [name.split("/", 1)[1] for name in self.curves.values if name.startswith("term/")]
        return {term: LABELED if term.startswith(LABELED) else other for term in terms} | dict(self.term_patches)

    # ------------------------------------------------------------------------------------- the network for inference

    def on_validation_epoch_start(self) -> None:
        with inference_network_in_place(self):
            super().on_validation_epoch_start()

    def validation_step(self, batch: dict) -> dict:
        with inference_network_in_place(self):
            return super().validation_step(batch)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        with inference_network_in_place(self):
            super().perform_actual_validation(save_probabilities)
        dense = self.dense_labels()
        if dense is not None and self.local_rank == 0:
            self._evaluate_on_dense_labels(dense)
        if self.label_manager.has_ignore_label or PARTIAL_LABELS in self.dataset_json:
            self._warn_of_selection(dense is not None)
        # nnU-Net leaves deep supervision switched on, whatever the trainer uses
        self.set_deep_supervision_enabled(self.enable_deep_supervision)

    def _evaluate_on_dense_labels(self, dense: DenseLabels) -> None:
        """Replace nnU-Net's summary of the final validation; that against the labels in use becomes `summary_sparse.json`."""
        folder = Path(self.output_folder, "validation")
        os.replace(folder / "summary.json", folder / "summary_sparse.json")
        metrics = dense.evaluate(folder, self.plans_manager, self.dataset_json, self.label_manager)
        self.print_to_log_file(
            f"Against dense labels, mean validation Dice: {metrics['foreground_mean']['Dice']:.4f} (summary.json; "
            "against the labels as they are trained on: summary_sparse.json)"
        )

    def _warn_of_selection(self, dense: bool) -> None:
        """nnU-Net's commands that choose a model judge by labelsTr, and nothing that they print says so."""
        kind = "sparse" if self.label_manager.has_ignore_label else "partial"
        remedy = "on dense labels" if dense else "as well as these labels allow"
        switch = " --write_crossval" if dense else ""
        plans = self.plans_manager
        named = "" if plans.plans_name == "nnUNetPlans" else f" -p {plans.plans_name}"
        self.print_to_log_file(
            f"nnUNetv2_find_best_configuration and nnUNetv2_accumulate_crossval_results judge by labelsTr, which is {kind} here: "
            f"do not use their ranking and postprocessing. Compare {remedy}: `nnunet_ssl compare -d "
            f"{int(dataset_number(plans.dataset_name))} -c {self.configuration_name}{named} -f 0 1 2 3 4 -tr nnUNetTrainer "
            f"{type(self).__name__}{switch}`"
        )

    # ----------------------------------------------------------------------------------------------------- checkpoints

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint of the inference network, with everything else under `ssl_state`, written atomically."""
        randomness = random_states_of_all_ranks(self.is_ddp)
        nnunets = super().save_checkpoint
        if self.local_rank != 0 or self.disable_checkpointing:
            nnunets(filename)
        else:
            write_checkpoint(self, filename, nnunets, state_of(self, randomness))

    def load_checkpoint(
        self,
        filename_or_checkpoint: str | os.PathLike | None = None,
        checkpoint: str | os.PathLike | None = None,
    ) -> None:
        """Restore a checkpoint of this trainer completely: all networks, optimizers, counters, banks, random numbers.

        Args:
            filename_or_checkpoint: the file; nnU-Net 2.8's name of the argument.
            checkpoint: the same under the name that nnU-Net's coming version has.

        Raises:
            UserError: when the file was not written by this kind of trainer.
        """
        filename = os.fspath(checkpoint if filename_or_checkpoint is None else filename_or_checkpoint)
        super().load_checkpoint(filename)
        restore(self, torch.load(filename, map_location=self.device, weights_only=False), filename)
        self._randomness = random_states()
        self._loaded_checkpoint = True
