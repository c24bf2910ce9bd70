"""The seams: what a method overrides, and what it may call. The base class of `nnUNetTrainerSSL`.

A method is a subclass of `nnUNetTrainerSSL` that overrides the seams, from most to least common:

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor, nn

from nnunet_ssl.dataloading.cases import TrainingCases
from nnunet_ssl.dataloading.dataset import UnlabeledDataset
from nnunet_ssl.dataloading.places import FoundPlaces
from nnunet_ssl.dataloading.pool import UnlabeledPool
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.competence import EARLIEST, F1, LATEST, CompetenceGate
from nnunet_ssl.engine.configurable import ConfigurableTrainer
from nnunet_ssl.engine.features import refuse_unsupported
from nnunet_ssl.engine.members import Member, Members, NetworkMember, Student, Teacher
from nnunet_ssl.engine.prediction import predict_cases, score_cases
from nnunet_ssl.engine.seam_values import terms_of
from nnunet_ssl.engine.value_ranges import Count, Share
from nnunet_ssl.networks.gradients import fixed
from nnunet_ssl.networks.second_decoding import SecondDecoding
from nnunet_ssl.predictions.hard_labels import objects_shown


class MethodSeams(ConfigurableTrainer):
    """Seams and services of a method; the training itself is `nnUNetTrainerSSL`.

    Attributes:
        unlabeled_batch_size: unlabeled patches per step (over all GPUs); None: as many as labeled ones.
        allow_transductive: accept unlabeled images that are also validation or test images.
        needs_unlabeled: False: the method has labeled patches only (weak or partial labels), `terms` gets no unlabeled ones.
        near_foreground: share of the unlabeled patches that lie near foreground which `note_foreground` was told of, where fewer
            than half of random patches show any (`foreground_is_rare`). None: that is not looked at.
        one_graph_at_a_time: a method of independent networks (see its passes per step) goes backward after each of them: about
            half of the memory, and one more forward pass where a network waits for what another says of the same patches. False:
            all networks at once.
        max_nonfinite_steps: stop after this many steps in a row with a loss or a gradient that is not finite.
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

    unlabeled_batch_size: Count | None = None
    allow_transductive: bool = False
    needs_unlabeled: bool = True
    near_foreground: Share | None = None
    one_graph_at_a_time: bool = True
    max_nonfinite_steps: Count = 20
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
        self.second_decoding: SecondDecoding | None = None
        self.gate: CompetenceGate | None = None
        self.iteration = 0
        self._pool: list[str] | None = None
        self.foreground_is_rare = False  # known with the loaders, where `near_foreground` is not None
        self.places: FoundPlaces | None = None  # of foreground in unlabeled images, where patches lie near it
        self._shared_pool: UnlabeledPool | None = None  # the same, where workers read it; made with the loaders
        self._spares_unlabeled = False  # the workers' pool is empty, because nothing is learned from it now

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
        of_unlabeled = self.unlabeled_terms(batch.logits["student"], batch)
        return terms | terms_of(f"{type(self).__name__}.unlabeled_terms", of_unlabeled, terms)

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

        Args:
            decay: in [0, 1].
            source: what another `register_...` returned.

        Raises:
            TypeError, ValueError: another source or decay.
        """
        return self.members.add_teacher(name, self.student if source is None else source, decay, warmup)

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
        """A head, discriminator or bank (buffers of a module); arguments as in `register_network`.

        It is moved to the training device. Calling what is returned runs the module: it takes and gives what the module does.
        """
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
        """`self.gate`, which opens when the network knows every class; arguments as in `CompetenceGate`.

        As long as no term has weight but the labeled losses, no unlabeled patches are drawn.
        """
        self.gate = CompetenceGate(self, earliest, latest, f1)
        return self.gate

    def register_state(self, name: str, state: Any) -> Any:
        """Any object with `state_dict()` and `load_state_dict()`, kept in checkpoints.

        Raises:
            TypeError: it lacks one of them.
        """
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

    def networks_in_turn(
        self, batch: SSLBatch, of_others: str = "unlabeled", networks: Sequence[NetworkMember] | None = None
    ) -> Iterator[NetworkMember]:
        """For a `term_groups` of one's own: each supervised network after its forward pass of `batch.images`, one after the other.

        At each turn `batch.logits` and `batch.labeled_logits` have the logits of this network with their graph, and those of the
        others without: from their own turn, or from a forward pass without gradient before the first one. Yield the group of
        terms of this network before the next turn:

            for member in self.networks_in_turn(batch):
                yield {self.labeled_name(member): ..., "my_term_" + member.name: ...}

        This costs a forward pass without gradient for each network but the first, none with `of_others = "none"`. With
        `one_graph_at_a_time = False` it is saved, and the graphs of all networks are in memory at once.

        Args:
            of_others: which logits of networks whose turn is to come are needed: of "unlabeled" or "labeled" patches, of "all", or
                "none".
            networks: in which order; default: the supervised ones, the student first. The first one has no pass without gradient.

        Raises:
            ValueError: another `of_others`.
        """
        if of_others not in ("unlabeled", "labeled", "all", "none"):
            raise ValueError(f"of_others must be 'unlabeled', 'labeled', 'all' or 'none', got {of_others!r}")
        networks = self.supervised_networks() if networks is None else networks
        scales: dict[str, list[Tensor]] = {}
        for member in networks[self.one_graph_at_a_time :]:
            if not self.one_graph_at_a_time:
                scales[member.name] = member(batch.images)
                batch.keep_logits(member.name, [z.detach() for z in scales[member.name]])
            elif of_others == "all":
                batch.keep_logits(member.name, self.without_gradient(member, batch.images))
            elif of_others == "unlabeled":
                batch.logits[member.name] = self.without_gradient(member, batch.unlabeled)
            elif of_others == "labeled":
                batch.labeled_logits[member.name] = self.without_gradient(member, batch.labeled)
        for member in networks:
            own = scales.pop(member.name) if member.name in scales else member(batch.images)
            batch.keep_logits(member.name, own)
            yield member
            batch.keep_logits(member.name, [z.detach() for z in own])

    def logits_of_view(self, batch: SSLBatch, view: str) -> dict[str, Tensor]:
        """Name of each supervised network -> its logits `(U, C, *spatial)`, highest resolution, on a view of the unlabeled patches.

        Without gradient, before `networks_in_turn`: for networks that label one view for one another, and learn on another one.
        """
        return {m.name: self.without_gradient(m, batch.views[view])[0] for m in self.supervised_networks()}

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

    def reaching_all(self, loss: Tensor, others: Sequence[Tensor]) -> Tensor:
        """`loss`, under DDP with a gradient of 0 for what it leaves out of a network's outputs.

        DDP waits for a gradient of every parameter in every backward pass. Needed where a term, or the only term with a weight, is
        on one scale of a network.

        Args:
            others: outputs of the same forward pass, such as the logits of lower scales.
        """
        return loss + sum(0.0 * z.mean() for z in others) if self.is_ddp else loss

    @contextlib.contextmanager
    def frozen(self, member: Member) -> Iterator[None]:
        """Within this context the member's outputs pass gradients to its inputs but not to its parameters."""
        with fixed(member.parameters()):
            yield

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
        self._share_pool()

    def _share_pool(self) -> None:
        """Tell the workers what to draw unlabeled patches from."""
        if self._shared_pool is not None:
            drawn = [] if self._spares_unlabeled else self.unlabeled_pool
            self._shared_pool.set(drawn, self.unlabeled_probabilities(drawn) if drawn else None)

    @property
    def unlabeled_pool(self) -> list[str]:
        """The cases that unlabeled patches are drawn from."""
        return list(self._pool or [])

    def note_foreground(self, labels: Tensor, counted: Tensor, batch: SSLBatch) -> None:
        """Tell which unlabeled patches show which objects, for `near_foreground`.

        Args:
            labels: of the unlabeled patches, `(U, 1, *spatial)`, of regions bool `(U, regions, *spatial)`.
            counted: bool of this shape, where they are trusted.
        """
        if self.places is not None:
            found = objects_shown(labels, counted, self.num_objects, self.activation)
            self.places.note(batch.unlabeled_keys, batch.unlabeled_centers, found)

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
        images = UnlabeledDataset({c: self.cases.folders[c] for c in self.unlabeled_pool})
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
