"""The engine: an `nnUNetTrainer` that also sees unlabeled images.

All that is common to semi-supervised methods lives here and in the modules it calls: the second stream of patches, autocast,
gradient scaling and clipping for any number of networks, moving averages, checkpoints, curves, checks of the data. A method
is a subclass that overrides the seams, from most to least common:

    build_method()                    register teachers, second networks, heads, banks
    unlabeled_terms(logits, batch)    named loss terms from the student's logits on the unlabeled patches
    weights()                         name -> weight now, a function of `self.progress`
    terms(batch)                      the whole step, for methods of another shape
    supervised_loss(logits, target, batch)
    after_step(), after_epoch()       queues, pools
    inference_network()               which network is validated and stored for prediction
    unlabeled_views(intensity)        weak and strong views of one patch
    labeled_extras()                  maps made of the labeled target by the workers (distances)
    labeled_transforms(transforms)    nnU-Net's transforms of the labeled patches
    labeled_dataset(dataset)          nnU-Net's data set of the training cases
    further_streams(labeled)          patches of something else beside the labeled ones (masks)
    case_probabilities(cases)         how often labeled patches come from each case

`docs/add_a_method.md` walks through an example, `docs/architecture.md` gives the reasons.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import join, save_json
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import Tensor, autocast, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nnunet_ssl.data.annotated_classes import KEY as PARTIAL_LABELS
from nnunet_ssl.data.atomic import write_atomically
from nnunet_ssl.dataloading.cases import TrainingCases, check_fold, gather_cases
from nnunet_ssl.dataloading.dataset import UnlabeledDataset
from nnunet_ssl.dataloading.loader import TwoStreamLoader, UnlabeledLoader
from nnunet_ssl.dataloading.views import UnlabeledViews, split_transforms
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.checkpoints import random_states, restore_random_states
from nnunet_ssl.engine.configurable import ConfigurableTrainer, declared_hyperparameters
from nnunet_ssl.engine.curves import Curves
from nnunet_ssl.engine.members import LikeDDP, Member, NetworkMember, Student, Teacher
from nnunet_ssl.engine.optimization import step_optimizers
from nnunet_ssl.errors import UserError
from nnunet_ssl.losses.combine import weighted_sum
from nnunet_ssl.predictions.probabilities import probabilities
from nnunet_ssl.preprocessing.dense_labels import DenseLabels

STATE_FORMAT = 1


class nnUNetTrainerSSL(ConfigurableTrainer):
    """Base class of all methods; on its own it trains nnU-Net on the labeled part and ignores the unlabeled one.

    Attributes:
        unlabeled_batch_size: unlabeled patches per step (over all GPUs); None: as many as labeled ones.
        allow_transductive: accept unlabeled images that are also validation or test images.
        needs_unlabeled: False: the method has labeled patches only (weak or partial labels), `terms` gets no unlabeled ones.
        max_nonfinite_steps: stop after this many steps in a row with a loss that is not finite.
        replaces_labeled_loss: the method's `terms` replaces nnU-Net's loss on the labeled patches, so it runs even when all
            weights are zero.
        unsupported: feature -> reason, refused when the trainer starts. Features: "2d", "3d", "regions", "ignore_label",
            "deep_supervision", "no_deep_supervision", "ddp", "compile", "fold_all".
    """

    unlabeled_batch_size: int | None = None
    allow_transductive: bool = False
    needs_unlabeled: bool = True
    max_nonfinite_steps: int = 20
    replaces_labeled_loss: bool = False
    unsupported: dict[str, str] = {}

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
        self.iteration = 0
        self.nonfinite_steps = 0
        self._nonfinite_in_a_row = 0
        self._members: dict[str, Member] = {}
        self._states: dict[str, Any] = {}
        self._weight_names: tuple[str, ...] | None = None
        self._view_names: tuple[str, ...] = ("unlabeled",)
        self._curves = Curves()
        self._cases: TrainingCases | None = None
        self._pool: list[str] | None = None
        self._loaded_checkpoint = False
        self._weights_at_start: list[float] = []
        self._waited = 0.0
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
        images = torch.cat((batch.labeled, batch.unlabeled))
        n = batch.num_labeled
        terms = {}
        for member in self.supervised_networks():
            scales = member(images)
            batch.labeled_logits[member.name] = [h[:n] for h in scales]
            terms[self.labeled_name(member)] = self.supervised_loss([h[:n] for h in scales], batch.target, batch)
            batch.logits[member.name] = [h[n:] for h in scales]
        return terms | self.unlabeled_terms(batch.logits["student"], batch)

    def supervised_loss(self, logits: list[Tensor], target: Tensor | list[Tensor], batch: SSLBatch) -> Tensor:
        """nnU-Net's loss on labeled patches: `logits` one `(L, C, *spatial)` per scale, `target` as nnU-Net's loader gives it."""
        return self.loss(logits if self.enable_deep_supervision else logits[0], target)

    def after_step(self) -> None:
        """Called after each optimizer step and after the teachers' updates."""

    def after_epoch(self) -> None:
        """Called after the last step of an epoch, before its validation and before a checkpoint is written."""

    def inference_network(self) -> NetworkMember:
        """The network that is validated and stored as `network_weights`, of the architecture that the plans name."""
        return self.student

    def unlabeled_views(self, intensity: list[BasicTransform]) -> dict[str, list[BasicTransform]]:
        """View name -> intensity transforms; all views share their geometry and the first is `batch.unlabeled`.

        Args:
            intensity: nnU-Net's own intensity transforms, in its order.
        """
        return {"unlabeled": intensity}

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

    def further_streams(self, labeled: nnUNetDataLoader) -> dict[str, nnUNetDataLoader]:
        """Further loaders by name, that the workers draw from beside `labeled`; `batch.extras[name]` is the target of each batch.

        Called when training starts, and raises UserError if what it needs is missing. Loaders can be pickled.
        """
        return {}

    def case_probabilities(self, cases: Sequence[str]) -> np.ndarray | None:
        """With which probability a labeled training patch is drawn from each of `cases`, summing up to 1; None: equally often."""
        return None

    # ------------------------------------------------------------------------------------------- what methods may call

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        return min(1.0, self.iteration / (self.num_epochs * self.num_iterations_per_epoch))

    @property
    def activation(self) -> str:
        """What turns logits into probabilities: "sigmoid" with region-based training, else "softmax"."""
        return "sigmoid" if self.label_manager.has_regions else "softmax"

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
        source = source or self.student
        module = copy.deepcopy(source.module).requires_grad_(False).eval()
        teacher = Teacher(name, module, self._compiled(module), source, decay, warmup)
        if isinstance(source, NetworkMember):
            self._set_deep_supervision(teacher, False)
        return self._add(teacher)

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
                function from parameters to an optimizer; None: not trained.
            clip: largest gradient norm, None for no clipping. nnU-Net's is 12.
            supervised: the default `terms` adds `labeled_<name>`, its loss on the labeled patches.
            follows_pretrained: `-pretrained_weights` goes into this network as well, except its heads.
        """
        module = self.build_network() if network is None else network.to(self.device)
        wrapped, own, scheduler = self._prepare(module, optimizer)
        return self._add(
            NetworkMember(
                name,
                module,
                wrapped,
                own,
                scheduler,
                clip,
                supervised=supervised,
                follows_pretrained=follows_pretrained,
            )
        )

    def register_module(
        self, name: str, module: nn.Module, *, optimizer: str | Callable | None = "shared", clip: float | None = 12.0
    ) -> Member:
        """A head, discriminator or bank (buffers of a module); arguments as in `register_network`."""
        module = module.to(self.device)
        wrapped, own, scheduler = self._prepare(module, optimizer)
        return self._add(Member(name, module, wrapped, own, scheduler, clip))

    def register_state(self, name: str, state: Any) -> Any:
        """Any object with `state_dict()` and `load_state_dict()`, kept in checkpoints."""
        if name in self._states:
            raise ValueError(f"{type(self).__name__}: a state named '{name}' is registered already")
        self._states[name] = state
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
        others = [m for m in self._members.values() if isinstance(m, NetworkMember) and m.supervised]
        return [self.student, *others]

    @staticmethod
    def labeled_name(member: NetworkMember) -> str:
        return "labeled" if member.name == "student" else f"labeled_{member.name}"

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

        Restarts the worker processes (they hold copies of the loader), so call it between epochs. Kept in checkpoints.

        Raises:
            ValueError: when a case is not an unlabeled case of this fold.
        """
        unknown = [] if self._cases is None else sorted(set(cases) - set(self._cases.folders))
        if unknown:
            raise ValueError(f"not unlabeled cases of fold {self.fold}: {', '.join(unknown)}")
        self._pool = sorted(cases)
        if self.dataloader_train is not None:
            self._use_unlabeled_stream(self.dataloader_train)

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
        images = UnlabeledDataset({c: self._cases.folders[c] for c in self.unlabeled_pool}, self.dataset_class)
        predictions = self.predicted_cases(images, tile_step_size, mirroring)
        scores = {case: float(score(p.cpu().numpy())) for case, p in predictions}
        if self.is_ddp:
            everyone: list = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, scores)
            scores = {case: value for part in everyone for case, value in part.items()}
        return dict(sorted(scores.items()))

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
        mine = dataset.identifiers[self.local_rank :: dist.get_world_size()] if self.is_ddp else dataset.identifiers
        member = self.inference_network()
        was_training = member.module.training
        self._set_deep_supervision(member, False)
        try:
            # neither compiled nor wrapped: ranks predict different numbers of patches
            predictor = nnUNetPredictor(tile_step_size, True, mirroring, True, self.device, allow_tqdm=False)
            predictor.manual_initialization(
                member.module,
                self.plans_manager,
                self.configuration_manager,
                None,
                self.dataset_json,
                type(self).__name__,
                self.inference_allowed_mirroring_axes,
            )
            for case in mine:
                image = torch.from_numpy(np.array(dataset.load_case(case)[0][:]))
                logits = predictor.predict_sliding_window_return_logits(image)
                yield case, probabilities(logits[None], self.activation)[0]
        finally:
            self._set_deep_supervision(member, self.enable_deep_supervision and not isinstance(member, Teacher))
            member.module.train(was_training)
        if self.is_ddp:
            dist.barrier()

    # -------------------------------------------------------------------------------------------------------- start-up

    def initialize(self) -> None:
        self._refuse_unsupported()
        if self._do_i_compile():
            # teachers and further networks run the student's code: dynamo must tell those with hooks (dropout, feature taps)
            # from those without, or it runs whichever it compiled first
            torch._dynamo.config.skip_nnmodule_hook_guards = False
        super().initialize()
        self.build_method()
        self.inference_network()  # a wrong choice is refused now and not at the first validation
        self._view_names = tuple(self.unlabeled_views([]))
        self._weights_at_start = self._fingerprint()

    def _refuse_unsupported(self) -> None:
        """NotImplementedError with the reason for what this method, or the engine, cannot do."""
        present = {
            "2d": len(self.configuration_manager.patch_size) == 2,
            "3d": len(self.configuration_manager.patch_size) == 3,
            "regions": self.label_manager.has_regions,
            "ignore_label": self.label_manager.has_ignore_label,
            "deep_supervision": self.enable_deep_supervision,
            "no_deep_supervision": not self.enable_deep_supervision,
            "ddp": self.is_ddp,
            "compile": self._do_i_compile(),
            "fold_all": self.fold == "all",
        }
        unknown = set(self.unsupported) - set(present)
        if unknown:
            raise ValueError(f"{type(self).__name__}.unsupported: unknown {sorted(unknown)}, allowed {sorted(present)}")
        if self.is_cascaded:
            raise NotImplementedError(
                f"{type(self).__name__} cannot train '{self.configuration_name}': the second stage of a cascade takes the "
                "first stage's segmentations as input, and nnU-Net makes them for validation cases only, never for "
                "unlabeled ones. Train 3d_lowres or 3d_fullres, or the cascade's second stage with nnUNetTrainer."
            )
        for feature, reason in self.unsupported.items():
            if present[feature]:
                raise NotImplementedError(f"{type(self).__name__} does not support '{feature}': {reason}")

    def _compiled(self, module: nn.Module) -> nn.Module:
        return torch.compile(module) if self._do_i_compile() else module

    def _prepare(self, module: nn.Module, optimizer: str | Callable | None):
        """Wrap a module as nnU-Net wraps its network, and make its optimizer: (wrapped, own optimizer, its schedule)."""
        wrapped = self._compiled(module)
        own = scheduler = None
        if optimizer is None:
            module.requires_grad_(False)
        elif optimizer == "shared":
            self.optimizer.add_param_group({"params": list(module.parameters())})
        elif optimizer == "own":
            with self._as_self_network(module):
                own, scheduler = self.configure_optimizers()
        elif callable(optimizer):
            own = optimizer(module.parameters())
            scheduler = PolyLRScheduler(own, own.param_groups[0]["lr"], self.num_epochs)
        else:
            raise ValueError(f"optimizer must be 'own', 'shared', None or a function, got {optimizer!r}")
        if self.is_ddp and optimizer is not None:
            wrapped = nn.SyncBatchNorm.convert_sync_batchnorm(wrapped)
            wrapped = DistributedDataParallel(wrapped, device_ids=[self.local_rank])
        return wrapped, own, scheduler

    def _add(self, member):
        if member.name in ("student", *self._members):
            raise ValueError(f"{type(self).__name__}: a member named '{member.name}' is registered already")
        self._members[member.name] = member
        return member

    def _fingerprint(self) -> list[float]:
        parameters = [p.detach().float() for p in self.student.module.parameters()]
        return torch.stack(torch._foreach_norm(parameters)).cpu().tolist()

    def on_train_start(self) -> None:
        if not self.was_initialized:
            self.initialize()
        if not self._loaded_checkpoint and self._fingerprint() != self._weights_at_start:
            self._spread_pretrained_weights()
        self._gather_cases()
        super().on_train_start()
        if self.local_rank == 0:
            save_json(self._cases.record(), join(self.output_folder, "split.json"))
        self._log_settings()

    def _spread_pretrained_weights(self) -> None:
        """`-pretrained_weights` reached the student only: give them to teachers and other networks, except their heads."""
        weights = self.student.module.state_dict()
        body = {k: v for k, v in weights.items() if ".seg_layers." not in k}
        for member in self._members.values():
            if isinstance(member, NetworkMember) and member.follows_pretrained:
                own = member.module.state_dict()
                different = [k for k, v in body.items() if k not in own or own[k].shape != v.shape]
                if different:
                    raise NotImplementedError(
                        f"-pretrained_weights do not fit the network '{member.name}' of {type(self).__name__}: its "
                        f"architecture is another one (first difference: {different[0]})."
                    )
                member.module.load_state_dict(own | body)
        teachers = [m for m in self._members.values() if isinstance(m, Teacher)]
        for teacher in teachers:
            teacher.copy_source()
        self.print_to_log_file("Pretrained weights were given to all networks of the method.")

    def _log_settings(self) -> None:
        lines = "\n".join(f"  {k}: {v}" for k, v in declared_hyperparameters(type(self)).items())
        self.print_to_log_file(f"Hyper-parameters of {type(self).__name__}:\n{lines}", add_timestamp=False)

    # ------------------------------------------------------------------------------------------------------- the cases

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's split; a fold that the file lacks and a split that cannot be made are refused."""
        check_fold(self.preprocessed_dataset_folder_base, self.preprocessed_dataset_folder, self.fold)
        train, validation = super().do_split()
        return list(train), list(validation)

    def _gather_cases(self) -> None:
        """Find labeled, unlabeled and validation cases, check them, and say what was found."""
        self._cases = gather_cases(
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
        self.print_to_log_file(self._cases)
        for note in self._cases.notes:
            self.print_to_log_file(note)
        # a pool from a checkpoint: cases that have gone since then cannot be drawn
        wanted = self._cases.unlabeled if self._pool is None else self._pool
        self._pool = [case for case in wanted if case in self._cases.folders]

    def get_tr_and_val_datasets(self):
        """nnU-Net's, but cases of sparse or partial labels are validated on their dense labels where there are any."""
        train, validation = super().get_tr_and_val_datasets()
        dense = self._dense_labels()
        validation = validation if dense is None else self.dataset_class(dense.folder, validation.identifiers)
        return self.labeled_dataset(train), validation

    def _dense_labels(self) -> DenseLabels | None:
        """Dense labels of all validation cases; None where labels are not sparse or partial, or such labels are missing."""
        sparse, partial = self.label_manager.has_ignore_label, PARTIAL_LABELS in self.dataset_json
        if not sparse and not partial:
            return None
        validation = self.do_split()[1] if self._cases is None else self._cases.validation
        found = DenseLabels.of(
            self.preprocessed_dataset_folder_base, self.plans_manager, self.configuration_manager, validation
        )
        self.print_to_log_file(
            f"Validation (pseudo Dice and final) is against the dense labels of {found.references}."
            if found is not None
            else f"Validation is against the {'sparse labels, on annotated voxels' if sparse else 'partial labels'} only, and says "
            "little about the segmentation elsewhere. Dense labels in labelsTr_dense of the raw data set would be used."
        )
        return found

    # ----------------------------------------------------------------------------------------------------- the loaders

    def get_dataloaders(self):
        """nnU-Net's loaders; the unlabeled stream is added to what its training workers do."""
        train, validation = super().get_dataloaders()
        self._use_unlabeled_stream(train)
        self.restart_workers(validation, TwoStreamLoader(_generator(validation)), role="validation")
        next(train), next(validation)  # as nnU-Net: fail here rather than in the first epoch
        return train, validation

    def _use_unlabeled_stream(self, augmenter) -> None:
        loader = _generator(augmenter)
        if isinstance(loader, TwoStreamLoader):
            labeled = loader.labeled
        else:
            labeled = loader
            labeled.transforms = ComposeTransforms(self.labeled_transforms(self._transforms_of(labeled)))
            labeled.sampling_probabilities = self.case_probabilities(labeled.indices)
        unlabeled = self._unlabeled_loader(labeled) if self._pool else None
        streams = self.further_streams(labeled)
        self.restart_workers(
            augmenter, TwoStreamLoader(labeled, unlabeled, self.labeled_extras(), streams), role="train"
        )

    def _transforms_of(self, labeled) -> list[BasicTransform]:
        if not isinstance(labeled.transforms, ComposeTransforms):
            raise NotImplementedError(
                f"{type(self).__name__}: training transforms of type {type(labeled.transforms).__name__} cannot be taken "
                "apart into geometry and intensity; ComposeTransforms can."
            )
        return list(labeled.transforms.transforms)

    def _unlabeled_loader(self, labeled) -> UnlabeledLoader:
        """Unlabeled patches of the labeled loader's sizes, through the same geometry and intensity transforms."""
        geometry, intensity = split_transforms(labeled.transforms)
        views = self.unlabeled_views(intensity)
        first = 1 if labeled.patch_size_was_2d else 0
        return UnlabeledLoader(
            UnlabeledDataset({c: self._cases.folders[c] for c in self._pool}, self.dataset_class),
            self._unlabeled_batch_size_here(),
            labeled.patch_size[first:],
            labeled.final_patch_size[first:],
            self.label_manager,
            UnlabeledViews(geometry, views, mask_zeros=any(self.configuration_manager.use_mask_for_norm)),
        )

    def _unlabeled_batch_size_here(self) -> int:
        """Unlabeled patches per step of this process."""
        size = self.unlabeled_batch_size
        if size is None:
            return self.batch_size
        ranks = dist.get_world_size() if self.is_ddp else 1
        if size < ranks:
            raise UserError(
                f"{type(self).__name__}.unlabeled_batch_size is {size}, must be at least 1 for each of {ranks} process(es)"
            )
        return size // ranks + (self.local_rank < size % ranks)

    # -------------------------------------------------------------------------------------------------------- training

    def run_training(self) -> None:
        try:
            super().run_training()
        except BaseException:
            for augmenter in (self.dataloader_train, self.dataloader_val):
                if hasattr(augmenter, "_finish"):
                    augmenter._finish()
            raise

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        for member in self._members.values():
            if member.optimizer is not None:
                member.module.train()
                member.scheduler.step(self.current_epoch)
            elif not isinstance(member, Teacher):
                member.module.train()
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
        try:
            values = self._step(SSLBatch.from_loader(batch, self._view_names, self.device), weights)
        except torch.cuda.OutOfMemoryError as error:
            unlabeled = f" and {self._unlabeled_batch_size_here()} unlabeled" if self._pool else ""
            lower = "lower `unlabeled_batch_size` in a subclass, or " if self._pool else ""
            raise RuntimeError(
                f"Out of GPU memory: a step of {type(self).__name__} holds {self.batch_size} labeled{unlabeled} patches. To "
                f"make it smaller, {lower}plan with a smaller -gpu_memory_target."
            ) from error
        self.iteration += 1
        self._watch_for_nonfinite(values)
        self._step_ended = perf_counter()
        return values

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

    def _step(self, batch: SSLBatch, weights: Mapping[str, float]) -> dict[str, np.ndarray]:
        optimizers = self._optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            terms = self._active_terms(batch, weights)
            loss = weighted_sum(terms, weights)
        if self.grad_scaler is not None:
            self.grad_scaler.scale(loss).backward()
        else:
            loss.backward()
        if step_optimizers((self.student, *self._members.values()), optimizers, self.grad_scaler):
            for member in self._members.values():
                if isinstance(member, Teacher):
                    member.update()
            self.after_step()
        # one copy to the host for everything, where nnU-Net has one for its loss
        numbers = torch.stack([loss.detach().float(), *(t.detach().float() for t in terms.values())]).cpu().numpy()
        values = dict.fromkeys(("loss", *weights), np.float32(0))
        return {k: np.asarray(v) for k, v in (values | dict(zip(("loss", *terms), numbers, strict=True))).items()}

    def _active_terms(self, batch: SSLBatch, weights: Mapping[str, float]) -> dict[str, Tensor]:
        labeled = {self.labeled_name(m) for m in self.supervised_networks()}
        idle = not any(weight for name, weight in weights.items() if name not in labeled)
        missing = self.needs_unlabeled and batch.unlabeled is None
        if missing or (idle and not self.replaces_labeled_loss):
            return self.labeled_terms(batch.without_unlabeled())
        terms = self.terms(batch)
        unknown = sorted(set(terms) - set(weights))
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: no weight for term(s) {unknown}. weights() names {list(self._weight_names)}."
            )
        return terms

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.optimizer, *(m.optimizer for m in self._members.values() if m.optimizer is not None)]

    def _watch_for_nonfinite(self, values: Mapping[str, np.ndarray]) -> None:
        if np.isfinite(values["loss"]):
            self._nonfinite_in_a_row = 0
            return
        self.nonfinite_steps += 1
        self._nonfinite_in_a_row += 1
        culprits = [name for name, value in values.items() if name != "loss" and not np.isfinite(value)] or ["loss"]
        self.print_to_log_file(f"Skipped step {self.iteration}: not finite: {', '.join(culprits)}")
        if self._nonfinite_in_a_row >= self.max_nonfinite_steps:
            raise RuntimeError(
                f"{self._nonfinite_in_a_row} steps in a row had a loss that is not finite; term(s): {', '.join(culprits)}. "
                "The last checkpoint is kept. Lower `initial_lr` or this term's weight in a subclass, and check the images "
                "for NaN."
            )

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        finite = [o for o in train_outputs if np.isfinite(o["loss"])]
        if finite and len(finite) < len(train_outputs):
            # a skipped step must not turn nnU-Net's curve of this epoch into NaN; the count stays, for all ranks alike
            mean = {k: np.asarray(np.mean([o[k] for o in finite])) for k in finite[0]}
            train_outputs = [o if np.isfinite(o["loss"]) else mean for o in train_outputs]
        super().on_train_epoch_end(train_outputs)
        names = [name for name in train_outputs[0] if name != "loss"]
        values = {f"term/{k}": float(np.mean([o[k] for o in train_outputs])) for k in names}
        values |= {f"weight/{k}": v for k, v in self._current_weights().items()}
        values |= {f"ema_decay/{m.name}": m.current_decay for m in self._members.values() if isinstance(m, Teacher)}
        values["loader/waiting"] = self._waited / max(perf_counter() - self._epoch_started, 1e-9)
        values["steps/skipped"] = self.nonfinite_steps
        if self.is_ddp:
            everyone: list = [None] * dist.get_world_size()
            dist.all_gather_object(everyone, values)
            values = {k: float(np.mean([v[k] for v in everyone])) for k in values}
        self._curves.log(self.current_epoch, values)
        shown = ", ".join(f"{k.split('/', 1)[1]} {v:.4g}" for k, v in values.items() if k.startswith("term/"))
        self.print_to_log_file(f"terms: {shown}; waiting for data {values['loader/waiting']:.0%}")
        for logger in self.logger.loggers:
            for name, value in values.items():
                logger.log(f"nnunet_ssl/{name}", value, self.current_epoch)
        self.after_epoch()

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if self.local_rank == 0:
            self._curves.plot(join(self.output_folder, "progress_ssl.png"))

    # ------------------------------------------------------------------------------------- the network for inference

    @contextlib.contextmanager
    def _as_self_network(self, network: nn.Module) -> Iterator[None]:
        trained, self.network = self.network, network
        try:
            yield
        finally:
            self.network = trained

    def _set_deep_supervision(self, member: NetworkMember, enabled: bool) -> None:
        """nnU-Net's own switch (which a subclass may have replaced), applied to another network."""
        with self._as_self_network(LikeDDP(member.module) if self.is_ddp else member.module):
            self.set_deep_supervision_enabled(enabled)

    @contextlib.contextmanager
    def _inference_network_in_place(self) -> Iterator[None]:
        """Within this context `self.network` is the inference network, so that nnU-Net's own code validates and saves it."""
        member = self.inference_network()
        if member is self.student:
            yield
            return
        network = member.network
        if self.is_ddp and not isinstance(network, DistributedDataParallel):
            network = LikeDDP(network)
        self._set_deep_supervision(member, self.enable_deep_supervision)
        try:
            with self._as_self_network(network):
                yield
        finally:
            self._set_deep_supervision(member, self.enable_deep_supervision and not isinstance(member, Teacher))

    def on_validation_epoch_start(self) -> None:
        with self._inference_network_in_place():
            super().on_validation_epoch_start()

    def validation_step(self, batch: dict) -> dict:
        with self._inference_network_in_place():
            return super().validation_step(batch)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        with self._inference_network_in_place():
            super().perform_actual_validation(save_probabilities)
        dense = self._dense_labels()
        if dense is not None and self.local_rank == 0:
            self._evaluate_on_dense_labels(dense)
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

    # ----------------------------------------------------------------------------------------------------- checkpoints

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint of the inference network, with everything else under `ssl_state`, written atomically."""
        randomness = self._random_states_of_all_ranks()
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return

        def write(temporary: Path) -> None:
            with self._inference_network_in_place():
                super(nnUNetTrainerSSL, self).save_checkpoint(str(temporary))
            checkpoint = torch.load(temporary, map_location="cpu", weights_only=False)
            # the live tensors: a teacher that is also the inference network is then stored once
            checkpoint["network_weights"] = self.inference_network().module.state_dict()
            checkpoint["ssl_state"] = self._state(randomness)
            torch.save(checkpoint, temporary)

        write_atomically(filename, write)

    def _random_states_of_all_ranks(self) -> list[dict]:
        if not self.is_ddp:
            return [random_states()]
        states: list = [None] * dist.get_world_size()
        dist.all_gather_object(states, random_states())
        return states

    def _state(self, randomness: list[dict]) -> dict:
        members = self._members.values()
        return {
            "format": STATE_FORMAT,
            "student": self.student.module.state_dict(),
            "members": {m.name: m.module.state_dict() for m in members},
            "optimizers": {m.name: m.optimizer.state_dict() for m in members if m.optimizer is not None},
            "teacher_updates": {m.name: m.updates for m in members if isinstance(m, Teacher)},
            "states": {name: state.state_dict() for name, state in self._states.items()},
            "iteration": self.iteration,
            "nonfinite_steps": self.nonfinite_steps,
            "unlabeled_pool": self._pool,
            "curves": self._curves.values,
            "random_states": randomness,
            "seed": self.seed,
            "split": None if self._cases is None else self._cases.record(),
            "hyperparameters": {k: repr(v) for k, v in declared_hyperparameters(type(self)).items()},
        }

    def load_checkpoint(self, filename_or_checkpoint: str | os.PathLike) -> None:
        """Restore a checkpoint of this trainer completely: all networks, optimizers, counters, banks, random numbers.

        Raises:
            UserError: when the file was not written by this kind of trainer.
        """
        filename = os.fspath(filename_or_checkpoint)
        super().load_checkpoint(filename)
        state = torch.load(filename, map_location=self.device, weights_only=False).get("ssl_state")
        members = set(self._members)
        if state is None or state["format"] != STATE_FORMAT or set(state["members"]) != members:
            found = "no state of nnunet-ssl" if state is None else f"members {sorted(state['members'])}"
            raise UserError(
                f"{filename} has {found}, {type(self).__name__} needs {sorted(members)} (format {STATE_FORMAT}). It was "
                f"written by another trainer or version; to start from its weights use `-pretrained_weights {filename}`."
            )
        self.student.module.load_state_dict(state["student"])
        for name, member in self._members.items():
            member.module.load_state_dict(state["members"][name])
            if member.optimizer is not None:
                member.optimizer.load_state_dict(state["optimizers"][name])
            if isinstance(member, Teacher):
                member.updates = state["teacher_updates"][name]
        for name, registered in self._states.items():
            registered.load_state_dict(state["states"][name])
        self.iteration = state["iteration"]
        self.nonfinite_steps = state["nonfinite_steps"]
        self._pool = state["unlabeled_pool"]
        self._curves.values = state["curves"]
        randomness = state["random_states"]
        if self.local_rank < len(randomness):
            restore_random_states(randomness[self.local_rank])
        self._loaded_checkpoint = True


def _generator(augmenter):
    """The loader inside one of batchgenerators' augmenters."""
    return augmenter.generator if hasattr(augmenter, "generator") else augmenter.data_loader
