"""Whole images predicted by a finished model, with nnU-Net's own predictor: mean probabilities of its folds, mirroring."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ssl.data.files import explain_reading_error, file_hash
from nnunet_ssl.data.json_files import read_json
from nnunet_ssl.data.memory import available_memory
from nnunet_ssl.data.model_files import load_predictor
from nnunet_ssl.data.names import dataset_number
from nnunet_ssl.data.splits import SEEN_VALIDATION
from nnunet_ssl.errors import UserError
from nnunet_ssl.predictions.fold_ensemble import mean_as_logits

# of the probabilities of a whole image in float32, while it is resampled, put back into its borders, scored (which takes the
# most: 3 of classes, 5 of regions, measured) and written
COPIES = 5
SHARE_OF_MEMORY = 0.5  # for these; the rest for the network, its sliding window and the images that wait


@dataclass(frozen=True)
class Model:
    """A trained model and how it predicts."""

    folder: Path
    trainer: str
    plans: str
    configuration: str
    folds: tuple[int | str, ...]
    checkpoint: str = "checkpoint_final.pth"
    device: str = "cuda"
    mirroring: bool = True
    trust: bool = False  # checkpoints and plans that would be executed, see `data/model_files.py`

    def settings(self) -> dict:
        """What its predictions depend on, checkpoints by content. UserError where one is missing."""
        checkpoints = {}
        for fold in self.folds:
            file = self.folder / f"fold_{fold}" / self.checkpoint
            if not file.is_file():
                raise UserError(
                    f"{file} does not exist: fold {fold} is not trained to its end, or not with this trainer, plans and "
                    f"configuration. Train it: `nnUNetv2_train {dataset_number(self.folder.parent.name)} {self.configuration} "
                    f"{fold} -tr "
                    f"{self.trainer} -p {self.plans}` (with --c to continue), or name another checkpoint with -chk."
                )
            checkpoints[str(fold)] = file_hash(file)
        of_model = {"trainer": self.trainer, "plans": self.plans, "configuration": self.configuration}
        return {**of_model, "checkpoint": self.checkpoint, "checkpoints": checkpoints, "mirroring": self.mirroring}

    def seen_validation(self) -> set[str]:
        """Validation cases of its folds that it has learned nevertheless, from pseudo labels: see their split.json."""
        files = [self.folder / f"fold_{fold}" / "split.json" for fold in self.folds]
        return {case for file in files if file.is_file() for case in read_json(file).get(SEEN_VALIDATION, [])}

    def load(self):
        """nnU-Net's predictor. UserError where it cannot load the model, or this is not trusted."""
        return load_predictor(
            self.folder,
            self.folds,
            self.checkpoint,
            device=self.device,
            trust=self.trust,
            use_mirroring=self.mirroring,
            allow_tqdm=False,
        )


Finish = Callable[[str, np.ndarray, np.ndarray, dict], Any]


def predict_cases(
    predictor, cases: Mapping[str, Sequence[str]], num_processes: int, finish: Finish
) -> Iterator[tuple[str, Any]]:
    """Predict images and yield `(case, finish(case, label map, probabilities, properties))` as they are finished.

    Images are preprocessed in background processes; while the network predicts one, others are resampled and written by
    `finish` in threads. At most `num_processes` of each wait at a time, and of predictions at their full size as many as half of
    the free memory holds, or one.

    Args:
        predictor: `nnUNetPredictor` with a model.
        cases: case -> channel files.

    Raises:
        UserError: an image cannot be read, or a background process died.
    """
    memory = SHARE_OF_MEMORY * available_memory()
    with ThreadPoolExecutor(max(1, num_processes)) as threads:
        running: dict[Future, str] = {}
        needed: dict[str, int] = {}
        for case, image, properties in _preprocessed(predictor, cases, num_processes):
            logits = _mean_of_folds(predictor, image)
            needed[case] = COPIES * 4 * len(logits) * math.prod(properties["shape_before_cropping"])
            while running and sum(needed[held] for held in (case, *running.values())) > memory:
                yield from _finished(running)
            running[threads.submit(_to_image, predictor, logits, properties, case, finish)] = case
            while running and (len(running) >= num_processes or any(f.done() for f in running)):
                yield from _finished(running)
        while running:
            yield from _finished(running)


def _finished(running: dict[Future, str]) -> Iterator[tuple[str, Any]]:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        yield running.pop(future), future.result()


def _mean_of_folds(predictor, image):
    """Logits `(C, *spatial)` of the preprocessed image whose probabilities are the mean of the folds'."""
    folds = predictor.list_of_parameters

    def of_each():
        for parameters in folds:
            predictor.list_of_parameters = [parameters]  # nnU-Net's own mean over folds is that of logits
            yield predictor.predict_logits_from_preprocessed_data(image).cpu()

    try:
        return mean_as_logits(of_each(), "sigmoid" if predictor.label_manager.has_regions else "softmax")
    finally:
        predictor.list_of_parameters = folds


def _to_image(predictor, logits, properties: dict, case: str, finish: Finish):
    import torch
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

    labels, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits,
        predictor.plans_manager,
        predictor.configuration_manager,
        predictor.label_manager,
        properties,
        return_probabilities=True,
        num_threads_torch=torch.get_num_threads(),  # another number would change that of the running prediction
    )
    return finish(case, labels, probabilities, properties)


def _preprocessed(predictor, cases: Mapping[str, Sequence[str]], num_processes: int) -> Iterator[tuple[str, Any, dict]]:
    import torch
    from nnunetv2.inference.data_iterators import preprocessing_iterator_fromfiles

    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    if num_processes <= 1 or len(cases) <= 1:
        preprocessor = configuration.preprocessor_class(verbose=False)
        for case, files in cases.items():
            try:
                image, _, properties = preprocessor.run_case(
                    list(files), None, plans, configuration, predictor.dataset_json
                )
            except Exception as error:  # readers raise whatever they like on a damaged file
                problem = explain_reading_error(case, files, plans.image_reader_writer_class)
                raise UserError(problem or f"case {case}: {type(error).__name__}: {error}") from error
            yield case, torch.from_numpy(image).float(), properties
        return
    try:
        for item in preprocessing_iterator_fromfiles(
            [list(files) for files in cases.values()],
            None,
            list(cases),
            plans,
            predictor.dataset_json,
            configuration,
            num_processes,
            predictor.device.type == "cuda",
        ):
            yield item["ofile"], item["data"], item["data_properties"]
    except RuntimeError as error:
        if "Background workers" not in str(error):
            raise
        raise UserError(
            "a background process died while it preprocessed images, of a damaged image (its message is above) or because the "
            "machine ran out of memory; what is finished is kept. Run the command again with fewer processes than "
            f"-np {num_processes}."
        ) from error
