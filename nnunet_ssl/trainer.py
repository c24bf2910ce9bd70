"""The engine: an `nnUNetTrainer` that also sees unlabeled images.

This file holds the hooks of nnU-Net; what methods override or call stands in `nnunet_ssl/seams.py`. The machinery is in
`nnunet_ssl.engine` (members, steps, checkpoints, curves) and `nnunet_ssl.dataloading` (the two streams of patches).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import join, load_pickle, save_json
from torch import autocast
from torch import distributed as dist

from nnunet_ssl.data.annotated_classes import KEY as PARTIAL_LABELS
from nnunet_ssl.data.annotated_classes import Target, as_target
from nnunet_ssl.data.atomic import remove_unfinished
from nnunet_ssl.data.label_values import label_values
from nnunet_ssl.data.locks import OutputLock
from nnunet_ssl.data.names import dataset_number
from nnunet_ssl.dataloading.cases import check_fold, gather_cases
from nnunet_ssl.dataloading.dataset import unpack_images
from nnunet_ssl.dataloading.loader import TwoStreamLoader
from nnunet_ssl.dataloading.places import FoundPlaces
from nnunet_ssl.dataloading.pool import UnlabeledPool
from nnunet_ssl.dataloading.streams import loader_of, two_streams, unlabeled_batch_size_here
from nnunet_ssl.engine.batch import SSLBatch
from nnunet_ssl.engine.checkpoints import (
    changed_settings,
    random_states,
    random_states_of_all_ranks,
    reason_against,
    restore,
    restore_random_states,
    state_of,
    write_checkpoint,
)
from nnunet_ssl.engine.configurable import declared_hyperparameters
from nnunet_ssl.engine.curves import LABELED, UNLABELED, Curves, epoch_values, is_drawn
from nnunet_ssl.engine.gradient_shares import described, keep_compiled_graphs
from nnunet_ssl.engine.members import NetworkMember
from nnunet_ssl.engine.optimization import (
    LARGEST_WAITING,
    NonFiniteWatch,
    WithoutGradientWatch,
    finite_outputs,
    out_of_memory_message,
    training_step,
    trains_as_nnunet,
    waiting_message,
)
from nnunet_ssl.engine.prediction import inference_network_in_place
from nnunet_ssl.engine.seam_values import patches_of_terms, weights_of_terms
from nnunet_ssl.errors import UserError
from nnunet_ssl.preprocessing.dense_labels import DenseLabels, preprocessing_command, raw_dense_labels
from nnunet_ssl.preprocessing.empty_surroundings import refuse_ignored_surroundings
from nnunet_ssl.preprocessing.preprocessed import dataset_class_of
from nnunet_ssl.ramps import ends_a_part
from nnunet_ssl.seams import MethodSeams

TIMES_PLACES_ARE_SHOWN = 20  # in a run, to the workers; each time patches are dropped that were drawn before


class nnUNetTrainerSSL(MethodSeams):
    """Base class of all methods; on its own it trains nnU-Net on the labeled part and ignores the unlabeled one.

    Attributes: those of `MethodSeams`.
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.view_names: tuple[str, ...] = ("unlabeled",)
        self.labeled_view_names: tuple[str, ...] = ()
        self.further_view_names: dict[str, tuple[str, ...]] = {}
        self.curves = Curves()
        self.nonfinite = NonFiniteWatch()
        self.without_gradient_watch = WithoutGradientWatch()
        self.gradient_shares: dict[str, float] = {}  # of the epoch's last step, see engine/gradient_shares.py
        self._split: tuple[list[str], list[str]] | None = None
        self._lock: OutputLock | None = None  # of output_folder, while this process trains
        self._weight_names: tuple[str, ...] | None = None
        self._loaded_checkpoint = False
        self._changed_settings: list[str] = []  # since the loaded checkpoint was written
        self._not_continued: UserError | None = None  # why not, where a checkpoint was loaded that cannot be
        self._randomness: dict | None = None  # of the checkpoint that is continued
        self._places_before: dict | None = None  # of its foreground in unlabeled images
        self._began_with: dict | None = None  # its split, as `TrainingCases.record` has it
        self._weights_at_start: list[float] = []
        self._waited = 0.0
        self._waiting_said = False
        self._step_ended: float | None = None
        self._epoch_started = 0.0

    # -------------------------------------------------------------------------------------------------------- start-up

    def initialize(self) -> None:
        self.check_supported()
        if self._do_i_compile():
            # teachers and further networks run the student's code: dynamo must tell those with hooks (dropout, feature taps)
            # from those without, or it runs whichever it compiled first
            torch._dynamo.config.skip_nnmodule_hook_guards = False
            # a step has few batch sizes (labeled, unlabeled, both): each gets code of its own. Code for any size failed to compile
            # where a decoder sees a part of the batch twice (UniMatch, PyTorch 2.14 on CPU)
            torch._dynamo.config.automatic_dynamic_shapes = False
            keep_compiled_graphs()
        super().initialize()
        self.build_method()
        patches_of_terms(f"{type(self).__name__}.term_patches", self.term_patches)
        chosen = self.inference_network()  # a wrong choice is refused now and not at the first validation
        if not isinstance(chosen, NetworkMember):
            raise TypeError(
                f"{type(self).__name__}.inference_network must return the student or a registered network or teacher, got "
                f"{type(chosen).__name__}."
            )
        self._weights_at_start = self._fingerprint()

    def _fingerprint(self) -> list[float]:
        parameters = [p.detach().float() for p in self.student.module.parameters()]
        return torch.stack(torch._foreach_norm(parameters)).cpu().tolist()

    def on_train_start(self) -> None:
        if self._not_continued is not None:
            raise self._not_continued
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
            unpack_images(self.cases.folders)
        if self.is_ddp:
            dist.barrier()  # nobody reads a file that is being unpacked
        super().on_train_start()
        if self._randomness is not None:  # nnU-Net has drawn batches, to see that its loaders work
            restore_random_states(self._randomness)
        if self.local_rank == 0:
            save_json(self.cases.record(), join(self.output_folder, "split.json"))
        values = declared_hyperparameters(type(self))
        lines = "\n".join(f"  {k}: {v}" for k, v in values.items())
        self.print_to_log_file(f"Hyper-parameters of {type(self).__name__}:\n{lines}", add_timestamp=False)
        if self._changed_settings:
            self.print_to_log_file(f"Begun with other settings: {', '.join(self._changed_settings)}.")
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
        refuse_ignored_surroundings(
            self.preprocessed_dataset_folder,
            self.cases.train,
            self.plans_manager,
            self.configuration_manager,
            self.configuration_name,
            self.label_manager,
        )
        if self._began_with is not None:
            self.cases.refuse_another_split(self._began_with, f"{self.output_folder}/split.json")
            if self.needs_unlabeled:
                self.cases = self.cases.of_run(self._began_with["unlabeled"])
        self.print_to_log_file(self.cases)
        if PARTIAL_LABELS in self.dataset_json and not self.knows_partial_labels:
            self.print_to_log_file(
                f"Warning: dataset.json says that cases annotate only some classes ('{PARTIAL_LABELS}'), and {type(self).__name__} "
                "takes what is not annotated for background. nnUNetTrainerPartialLabel and nnUNetTrainerSemiSupervised do not."
            )
        for note in self.cases.notes:
            self.print_to_log_file(note)
        if self.gate is not None:
            shown: set[Target] = set()
            for case in self.cases.train:
                if shown == set(self.targets):  # mostly after the first case; these files are large
                    break
                shown |= self.shown_in(case)
            name_of = {as_target(label): name for name, label in label_values(self.dataset_json).items()}
            self.gate.leave_out({name_of[target]: target not in shown for target in self.targets})
        # a pool from a checkpoint: cases that have gone since then cannot be drawn
        wanted = self.cases.unlabeled if self._pool is None else self._pool
        self._pool = [case for case in wanted if case in self.cases.folders]

    @property
    def targets(self) -> list[Target]:
        """Foreground labels, or with regions the labels of each, in the order of the network's channels."""
        manager = self.label_manager
        found = manager.foreground_regions if manager.has_regions else manager.foreground_labels
        return [as_target(target) for target in found]

    def shown_in(self, case: str) -> set[Target]:
        """Foreground labels or regions that a labeled case shows, from what nnU-Net's preprocessing noted down."""
        locations = load_pickle(join(self.preprocessed_dataset_folder, f"{case}.pkl"))["class_locations"]
        found = {as_target(key) for key, voxels in locations.items() if len(voxels)}
        return found & set(self.targets)  # the rest is what there is for the ignore label

    def annotates(self, case: str) -> set[Target]:
        """Foreground labels or regions that a labeled case annotates, whether it shows them or not."""
        return set(self.targets)

    def get_tr_and_val_datasets(self):
        """nnU-Net's, but cases of sparse or partial labels are validated on their dense labels where there are any."""
        train, validation = super().get_tr_and_val_datasets()
        dense = self.dense_labels()
        if dense is not None:
            cases = validation.identifiers
            validation = dataset_class_of(dense.folder, cases)(dense.folder, cases)
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
        self.places = None
        self.restart_workers(train, two_streams(self, train, self._shared_pool), role="train")
        if self.places is not None and self._places_before is not None:
            self.places.load_state_dict(self._places_before)
        self.restart_workers(validation, TwoStreamLoader(loader_of(validation)), role="validation")
        next(train), next(validation)  # as nnU-Net: fail here rather than in the first epoch
        self._spare_unlabeled()
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
        self.without_gradient_watch.start_epoch()
        self._waited = 0.0
        self._epoch_started = self._step_ended = perf_counter()

    def autocast(self):
        """nnU-Net's rule: mixed precision on CUDA only."""
        return autocast("cuda", enabled=True) if self.device.type == "cuda" else contextlib.nullcontext()

    def train_step(self, batch: dict) -> dict[str, np.ndarray]:
        """One optimizer step. Returns the weighted loss and every named term, inactive ones as 0, as numpy scalars."""
        if self._step_ended is not None:
            self._waited += perf_counter() - self._step_ended
        weights = self._weights_of_step()
        moved = SSLBatch.from_loader(
            self._of_this_pool(batch), self.view_names, self.device, self.labeled_view_names, self.further_view_names
        )
        try:
            values, made = training_step(self, moved, weights)
        except torch.cuda.OutOfMemoryError as error:
            unlabeled = unlabeled_batch_size_here(self) if self._pool else None
            raise RuntimeError(out_of_memory_message(type(self).__name__, self.batch_size, unlabeled)) from error
        self.iteration += 1
        problem = self.nonfinite.see(values, made, self.gradient_shares, self.max_nonfinite_steps)
        if problem is not None:
            self.print_to_log_file(f"Skipped step {self.iteration}: {problem}")
        self._step_ended = perf_counter()
        return values

    def _of_this_pool(self, batch: dict) -> dict:
        """The batch, or, if the pool has changed since it was drawn, the next one that was drawn after the change."""
        while (
            self._shared_pool is not None
            and not self._spares_unlabeled  # unlabeled patches that were drawn before are not used
            and batch.get("pool_version", self._shared_pool.version) != self._shared_pool.version
        ):
            batch = next(self.dataloader_train)
        return batch

    def _spare_unlabeled(self) -> None:
        """Workers of a gated method draw no unlabeled patch before the first is used, and after the last."""
        if self.gate is None or not self._pool or self._spares_unlabeled:
            return
        if trains_as_nnunet(self, self._current_weights()):
            self._spares_unlabeled = True
            self._share_pool()

    def _weights_of_step(self) -> dict[str, float]:
        """The weights now. With the first one of a gated method, unlabeled patches are drawn again."""
        weights = self._current_weights()
        if self._spares_unlabeled and not trains_as_nnunet(self, weights):
            self._spares_unlabeled = False
            self._share_pool()
        return weights

    def _current_weights(self) -> dict[str, float]:
        labeled = {self.labeled_name(m): 1.0 for m in self.supervised_networks()}
        weights = dict(weights_of_terms(f"{type(self).__name__}.weights", self.weights()))
        if self._weight_names is None:
            self._weight_names = tuple(weights)
        if tuple(weights) != self._weight_names:
            raise ValueError(
                f"{type(self).__name__}.weights() must name the same terms in every step: first {self._weight_names}, "
                f"now {tuple(weights)}. Give an inactive term the weight 0."
            )
        return labeled | weights

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        if self.grad_scaler is not None:
            self.nonfinite.see_scaler(self.grad_scaler, self.gradient_shares, self.max_nonfinite_steps)
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
        if warning := self.without_gradient_watch.found(train_outputs):
            self.print_to_log_file(warning)
        if values["loader/waiting"] > LARGEST_WAITING and not self._waiting_said:
            self._waiting_said = True
            self.print_to_log_file(waiting_message(values["loader/waiting"]))
        for logger in self.logger.loggers:
            for name, value in values.items():
                logger.log(f"nnunet_ssl/{name}", value, self.current_epoch)
        if self.gate is not None:
            self.gate.look()
            self._weights_of_step()  # if it has opened, workers begin to draw while the epoch is validated
            self._spare_unlabeled()
        self.members.end_epoch()
        if self.places is not None:
            self._end_epoch_of_places(self.places)
        self.after_epoch()

    def _end_epoch_of_places(self, places: FoundPlaces) -> None:
        places.end_epoch(self.is_ddp)
        if ends_a_part(self.current_epoch, self.num_epochs, TIMES_PLACES_ARE_SHOWN) and (cases := places.show()):
            self.print_to_log_file(
                f"Foreground was found in {cases} of {len(self.unlabeled_pool)} unlabeled images so far"
            )
            self._share_pool()  # what workers have drawn before is dropped

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if self.local_rank == 0 and is_drawn(self.current_epoch - 1, self.num_epochs):
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

        Of a file that another kind of trainer wrote only the network is taken, which is enough to validate it; `on_train_start`
        refuses to train it.
        """
        filename = os.fspath(checkpoint if filename_or_checkpoint is None else filename_or_checkpoint)
        if not self.was_initialized:
            self.initialize()
        loaded = torch.load(filename, map_location="cpu", weights_only=False)  # nnU-Net's copy is on the device
        self._not_continued = reason_against(self, loaded, filename)
        if self._not_continued is not None:
            try:
                self.inference_network().module.load_state_dict(loaded["network_weights"])
            except RuntimeError as error:  # of other plans
                raise self._not_continued from error
            self.inference_allowed_mirroring_axes = loaded["inference_allowed_mirroring_axes"]
            self.print_to_log_file(f"Only to validate it: {self._not_continued}")
            return
        super().load_checkpoint(filename)
        restore(self, loaded)
        self._changed_settings = changed_settings(self, loaded)
        self._randomness = random_states()
        self._loaded_checkpoint = True
