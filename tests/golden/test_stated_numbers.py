"""Adapters take the numbers that a sidecar states from it: a draw with other numbers is followed, or the number means nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import pytest
import torch

from tests.golden import framework
from tests.golden.framework import GoldenFile, check, load_adapter
from tests.golden.redraw import DATA, redrawn
from tests.helpers.paths import shared_dir

SIZES = {"seed", "N", "C", "H", "W", "B", "K", "T", "batch", "labeled_bs", "unlabeled_bs", "num_classes", "note"}
# what the arrays say as well, or what no array of the file depends on
NOT_READ = {
    "ac_mt": {"cleanlab", "perr_passes"},
    "ad_mt": {"P", "order"},
    "boxes_and_size": {"t0", "mu"},  # in the names of the arrays
    "c3s3": {"evidence", "Xi_note", "rank"},
    "cct": {"uniform_range", "nbr_of_pairs", "rampup"},
    "cml": {"acdc.l_weight", "acdc.u_weight", "acdc.dis_weight"},
    "cps": {"cps_weight_voc", "cps_weight_voc_cutmix"},
    "cyclemix_shapepu": {"invariant_weight_shapepu"},
    "dan": {"ndf", "n_channel", "input_size"},
    "dmpls": {"beta"},  # an input array
    "dycon": {"feature_scaler"},
    "ict": {"ict_alpha"},
    "offline_rounds": {"rounds", "background", "keep_range", "noise"},
    "partial_label": {"ce", "all_classes", "do_bg", "reduction", "bce", "ignore_index", "layout", "organ_numbers"},
    "random_walker": {"rescale", "markers"},
    "sassnet": {"ndf"},
    "scribble2label": {"warmup_iters", "ensemble_every"},
    "scribble_generators": {"skimage", "scipy"},
    "sdcl": {"mse_weight", "kl_weight"},
    "ssl4mis_common": {"rampup_length"},  # an input array
    "ustm": {"rot_axes", "noise", "ema_decay"},
}
# so small, or so large, that single precision does not show them; the functions have them
LIMITS = {
    "bcp": {"eps_ce"},
    "mcf": {"eps"},
    "partial_label": {"clamp_max", "dice_clamp_min", "clip"},
    "sdcl": {"eps"},
    "ua_mt": {"eps_den"},
}
# dictionaries that an adapter takes as a whole
TAKEN_WHOLE = {"regions", "superset_map", "template"}


class Recorded(dict):
    """Constants that note which of them were asked for."""

    def __init__(self, constants: dict, place: str, read: set[str]):
        super().__init__(
            {k: Recorded(v, f"{place}{k}.", read) if isinstance(v, dict) else v for k, v in constants.items()}
        )
        self.place, self.read = place, read

    def __getitem__(self, key: str):
        self.read.add(f"{self.place}{key}")
        return super().__getitem__(key)


def stated(constants: dict, place: str = "") -> Iterator[str]:
    for key, value in constants.items():
        if isinstance(value, dict):
            yield from stated(value, f"{place}{key}.")
        else:
            yield f"{place}{key}"


@pytest.mark.parametrize("name", framework.adapter_names())
def test_every_stated_number_is_read_or_means_nothing(name):
    folder = DATA if (DATA / f"{name}.npz").exists() else shared_dir("golden")
    file, read = GoldenFile.load(folder, name), set()
    sidecar = json.loads((folder / f"{name}.json").read_text())
    of_arrays = {key for entry in sidecar["arrays"].values() for key in stated(entry.get("constants", {}))}
    expected = of_arrays | set(stated(sidecar["constants"]))
    file._sidecar["constants"] = Recorded(sidecar["constants"], "", read)
    for entry in file._sidecar["arrays"].values():
        entry["constants"] = Recorded(entry.get("constants", {}), "", read)
    assert check(file, load_adapter(name)).complete
    excused = SIZES | TAKEN_WHOLE | NOT_READ.get(name, set()) | LIMITS.get(name, set())
    assert not {key for key in expected - read if key not in excused and excused.isdisjoint(key.split("."))}


def with_constants(name: str, change) -> dict:
    """What the adapter gives for the stored inputs after `change(sidecar)`."""
    stored = redrawn(name, {})
    sidecar = json.loads((DATA / f"{name}.json").read_text())
    change(sidecar)
    arrays = {key: stored.inputs[key] for key in stored.inputs} | stored.expected()
    return load_adapter(name).adapt(GoldenFile(name, arrays, sidecar))


@pytest.mark.parametrize(
    "like, radius, kernels",
    [
        ("orig_gcrf_two_kernels", 3, [{"weight": 0.9, "xy": 6, "rgb": 0.1}, {"weight": 0.1, "xy": 6}]),
        ("pymic_gcrf", 5, [{"weight": 1, "xy": 5, "rgb": 0.1}, {"weight": 1, "xy": 3}]),
    ],
)
def test_gated_crf_has_the_stated_kernels(like, radius, kernels):
    constants = {"radius": radius, "kernels_desc": str(kernels)}
    found = with_constants("gated_crf", lambda sidecar: sidecar["constants"].update(constants))
    expected = redrawn("gated_crf", {}).expected()[like]
    assert found["wsl_gcrf"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_entropies_have_the_stated_eps_and_number_of_classes():
    def change(sidecar: dict) -> None:
        sidecar["arrays"]["entropy_loss2d"]["constants"] = {"C": 7, "eps": 0.01}
        sidecar["arrays"]["entropy_loss_map2d"]["constants"] = {"C": 5}

    found = with_constants("entropy_minimization", change)
    p = redrawn("entropy_minimization", {}).tensor("logits2d").double().softmax(1)
    entropy = -(p * (p + 0.01).log()).sum(1, keepdim=True)
    assert found["entropy_loss2d"].item() == pytest.approx(entropy.mean().item() / math.log(7), rel=1e-5)
    torch.testing.assert_close(found["entropy_loss_map2d"].double(), entropy / math.log(5), rtol=1e-5, atol=1e-6)


def test_partial_labels_have_the_stated_constants_of_dice():
    official, exact, candidates = (
        "marginal_exclusion_official_1_batchdice",
        "marginal_exclusion_exact_1",
        "candidate_set_2d",
    )

    def change(sidecar: dict) -> None:
        constants = sidecar["constants"]
        constants[official]["soft_dice"] |= {"smooth": 3.0, "do_bg": True}
        constants[exact]["smooth"] = 3.0
        constants[candidates] |= {"smooth": 3.0, "do_bg": True}
        constants["label_set"]["eps"] = 3.0

    found = with_constants("partial_label", change)
    ce, dice, exclusion, total = (
        found[f"{official}/out/{k}"] for k in ("ce_loss", "dice_loss", "exclusion_loss", "total")
    )
    assert total.item() == pytest.approx((ce + dice + 2 * exclusion).item(), rel=1e-9)
    ce, dice, total = (found[f"{candidates}/out/{k}_ignore"] for k in ("ce", "dice_batch", "total_batch"))
    assert total.item() == pytest.approx((ce + dice).item(), rel=1e-9)

    file = redrawn("partial_label", {})
    target, q = file.tensor(f"{exact}/in/gt_compact")[:, 0], found[f"{exact}/out/q"]
    y = torch.stack([target == c for c in range(q.shape[1])], 1).double()
    axes = (0, *range(2, q.ndim))
    of_class = 1 - (2 * (q * y).sum(axes) + 3) / (q.sum(axes) + y.sum(axes) + 3)
    assert found[f"{exact}/out/marginal_dice_all"].item() == pytest.approx(of_class.mean().item(), rel=1e-9)

    p, y = found["label_set/out/marg_prob"].double(), found["label_set/out/marg_onehot"].double()
    of_pair = 1 - 2 * (p * y).sum(2) / ((p + y).sum(2) + 3)
    assert found["label_set/out/marginalized_dice_sq0"].item() == pytest.approx(of_pair.mean().item(), rel=1e-5)
