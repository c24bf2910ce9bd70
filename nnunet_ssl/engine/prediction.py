"""Predictions between epochs: the network for inference in the student's place, and whole images by nnU-Net's sliding window."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nnunet_ssl.engine.members import LikeDDP, Teacher, in_place_of_student, set_deep_supervision
from nnunet_ssl.predictions.probabilities import probabilities


@contextlib.contextmanager
def inference_network_in_place(trainer) -> Iterator[None]:
    """Within this context `trainer.network` is the inference network, so that nnU-Net's own code validates and saves it."""
    member = trainer.inference_network()
    if member is trainer.student:
        yield
        return
    network = member.network
    if trainer.is_ddp and not isinstance(network, DistributedDataParallel):
        network = LikeDDP(network)
    set_deep_supervision(trainer, member, trainer.enable_deep_supervision)
    try:
        with in_place_of_student(trainer, network):
            yield
    finally:
        _restore_deep_supervision(trainer, member)


def _restore_deep_supervision(trainer, member) -> None:
    set_deep_supervision(trainer, member, trainer.enable_deep_supervision and not isinstance(member, Teacher))


def predict_cases(trainer, dataset, tile_step_size: float, mirroring: bool) -> Iterator[tuple[str, Tensor]]:
    """Cases and their probabilities `(C, *spatial)`, float32; see `nnUNetTrainerSSL.predicted_cases`."""
    mine = dataset.identifiers[trainer.local_rank :: dist.get_world_size()] if trainer.is_ddp else dataset.identifiers
    member = trainer.inference_network()
    was_training = member.module.training
    set_deep_supervision(trainer, member, False)
    try:
        # neither compiled nor wrapped: ranks predict different numbers of patches
        predictor = nnUNetPredictor(tile_step_size, True, mirroring, True, trainer.device, allow_tqdm=False)
        predictor.manual_initialization(
            member.module,
            trainer.plans_manager,
            trainer.configuration_manager,
            None,
            trainer.dataset_json,
            type(trainer).__name__,
            trainer.inference_allowed_mirroring_axes,
        )
        for case in mine:
            image = torch.from_numpy(np.array(dataset.load_case(case)[0][:]))
            logits = predictor.predict_sliding_window_return_logits(image)
            yield case, probabilities(logits[None], trainer.activation)[0]
    finally:
        _restore_deep_supervision(trainer, member)
        member.module.train(was_training)
    if trainer.is_ddp:
        dist.barrier()


def score_cases(
    trainer, dataset, score: Callable[[np.ndarray], float], tile_step_size: float, mirroring: bool
) -> dict[str, float]:
    """A number for every case, on every GPU; see `nnUNetTrainerSSL.score_unlabeled`."""
    predictions = trainer.predicted_cases(dataset, tile_step_size, mirroring)
    scores = {case: float(score(p.cpu().numpy())) for case, p in predictions}
    if trainer.is_ddp:
        everyone: list = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, scores)
        scores = {case: value for part in everyone for case, value in part.items()}
    return dict(sorted(scores.items()))
