"""Steps that several golden files share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunet_ssl.engine.ema import ema_decay_at, ema_update
from nnunet_ssl.networks.map_discriminator import MapDiscriminator
from nnunet_ssl.ramps import sigmoid_rampup, stepwise_progress
from tests.golden.framework import GoldenFile

# number of the first update; stands in the sidecars' `meaning` only
FIRST_EMA_STEP = {"from0": 0, "cross": 97}
# iterations that the scripts of SSL4MIS call an epoch, which their ramps count; stands in the specification only
RAMP_INTERVAL = 150


def labeled_count(file: GoldenFile, whole: str, unlabeled: str | None = None) -> int:
    """How many samples of a batch are labeled; they come first.

    Args:
        whole: array of the whole batch.
        unlabeled: array of its unlabeled samples alone. None where the file has none: half of the batch, rounded down, is
            labeled, as the sidecars' `meaning` says ("indices 0..B/2-1").
    """
    samples = file.length(whole)
    return divmod(samples, 2)[0] if unlabeled is None else samples - file.length(unlabeled)


def largest_code(file: GoldenFile, key: str) -> int:
    """The largest code of a label map: that of voxels without annotation, which is behind those of the classes."""
    return max(file.numbers(key))


def ssl4mis_weight(file: GoldenFile, key: str, **constants: float) -> float:
    """The weight at `iter_num` of an array, ramped up to `consistency` over `rampup` blocks of 150 iterations.

    Args:
        key: of the array whose constants these are.
        constants: those that the sidecar has not.
    """
    of_file = {"iter_num", "consistency", "rampup"} - set(constants)
    constants |= {name: file.constant(name, key) for name in of_file}
    progress = stepwise_progress(constants["iter_num"], RAMP_INTERVAL, constants["rampup"])
    return sigmoid_rampup(progress, constants["consistency"])


def _network(parameters: dict[str, Tensor]) -> nn.ParameterDict:
    return nn.ParameterDict({name: nn.Parameter(value.clone()) for name, value in parameters.items()})


def ema_sequence(
    teacher: dict[str, Tensor], student: dict[str, Tensor], steps: Sequence[int], decay: float
) -> dict[str, Tensor]:
    """A teacher that follows a student over `steps`.

    Args:
        teacher: parameter name -> value before the first update, `(*shape)`.
        student: parameter name -> values at the updates, `(len(steps), *shape)`.
        steps: number of each update, the t of the decay's warm-up.
        decay: limit of the decay.

    Returns:
        parameter name -> the teacher's value after each update, `(len(steps), *shape)`.
    """
    network = _network(teacher)
    after: dict[str, list[Tensor]] = {name: [] for name in teacher}
    for i, step in enumerate(steps):
        students = _network({name: values[i] for name, values in student.items()})
        ema_update(network, students, ema_decay_at(step, decay))
        for name, parameter in network.items():
            after[name].append(parameter.detach().clone())
    return {name: torch.stack(values) for name, values in after.items()}


def stored_ema_sequences(file: GoldenFile) -> dict[str, Tensor]:
    """All arrays `ema_<sequence>_teacher_<parameter>`, from the students and the first teacher that the file holds."""
    produced = {}
    for sequence in file.match(r"ema_(\w+?)_student_\w+"):
        names = file.match(rf"ema_{sequence}_student_(\w+)")
        student = {name: file.tensor(f"ema_{sequence}_student_{name}") for name in names}
        first = FIRST_EMA_STEP[sequence]
        teacher = ema_sequence(
            {name: file.tensor(f"ema_teacher_init_{name}") for name in names},
            student,
            range(first, first + len(student[names[0]])),
            file.constant("ema_decay", f"ema_{sequence}_teacher_{names[0]}"),
        )
        produced |= {f"ema_{sequence}_teacher_{name}": values for name, values in teacher.items()}
    return produced


# of the official discriminators' inputs, which are stored on a coarse grid; stands in the sidecars' `meaning` only
ENLARGED = 16


def _enlarged(file: GoldenFile, key: str) -> Tensor:
    values = file.tensor(key)
    for axis in range(2, values.ndim):
        values = values.repeat_interleave(ENLARGED, axis)
    return values


def discriminator_output(
    file: GoldenFile, weights: str, inputs: str, window: Sequence[int], activate_sum: bool
) -> Tensor:
    """The logits of our discriminator with the official one's weights, in evaluation mode.

    Args:
        weights: prefix of the arrays `<prefix>conv0.weight` and so on.
        inputs: prefix of the arrays `<prefix>map_low` and `<prefix>image_low`.
        window: of the official average pooling, voxels along each axis.
        activate_sum: as in `MapDiscriminator`.
    """
    maps, images = (_enlarged(file, f"{inputs}{name}_low") for name in ("map", "image"))
    names = {"conv0": "of_map", "conv1": "of_image", "conv2": "layers.0", "conv3": "layers.1", "conv4": "layers.2"}
    names |= {"classifier": "classifier"}
    state = {
        f"{ours}.{kind}": file.tensor(f"{weights}{theirs}.{kind}")
        for theirs, ours in names.items()
        for kind in ("weight", "bias")
    }
    features = len(state["of_map.bias"])
    module = MapDiscriminator(
        maps.shape[1], images.shape[1], maps.shape[2:], features, activate_sum=activate_sum, window=window
    )
    module.load_state_dict(state)
    return module.eval()(maps, images).detach()
