"""Draws of golden files with odd batches, other numbers of classes and odd sizes, computed here without nnunet_ssl."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from torch import Tensor

from tests.golden.framework import GoldenFile, check, load_adapter
from tests.golden.redraw import DATA, Arrays, redrawn
from tests.golden.reference.unimatch import adaptive_threshold

SHAPES = {"2d": (5, 7, 9), "3d": (3, 5, 6, 3)}  # classes and voxels; the stored draws have 4 and 2 classes


def drawn(samples: int, dim: str, seed: int) -> tuple[Tensor, Tensor]:
    """Logits that float32 holds exactly, as float64 with a graph, and labels."""
    random, (classes, *spatial) = torch.Generator().manual_seed(seed), SHAPES[dim]
    logits = (2 * torch.randn(samples, classes, *spatial, generator=random)).double().requires_grad_()
    return logits, torch.randint(classes, (samples, *spatial), generator=random)


def weight_of(file: dict, key: str, weight: float = 0.1, length: float = 200) -> float:
    constants = file["arrays"][key]["constants"]
    weight, length = constants.get("consistency", weight), constants.get("rampup", length)
    return weight * math.exp(-5 * (1 - min(constants["iter_num"] // 150, length) / length) ** 2)


def channels(labels: Tensor, classes: int) -> Tensor:
    return torch.stack([labels == c for c in range(classes)], 1).double()


def ce(z: Tensor, labels: Tensor) -> Tensor:
    return -(z.log_softmax(1) * channels(labels, z.shape[1])).sum(1).mean()


def dice(z: Tensor, labels: Tensor) -> Tensor:
    p, y = z.softmax(1), channels(labels, z.shape[1])
    axes = (0, *range(2, z.ndim))
    return (1 - (2 * (p * y).sum(axes) + 1e-5) / ((p**2).sum(axes) + (y**2).sum(axes) + 1e-5)).mean()


def half(z: Tensor, labels: Tensor) -> Tensor:
    return (ce(z, labels) + dice(z, labels)) / 2


def slope(value: Tensor, z: Tensor) -> Tensor:
    return torch.autograd.grad(value, z, retain_graph=True)[0]


def entropy(p: Tensor) -> Tensor:
    return -(p * (p + 1e-6).log()).sum(1, keepdim=True)


# each: sidecar, all samples, labeled ones -> arrays of the step; outputs that are not computed here


def draw_cct(sidecar: dict, n: int, labeled: int) -> tuple[Arrays, tuple[str, ...]]:
    z, labels = [drawn(n, "2d", i)[0] for i in range(4)], drawn(n, "2d", 9)[1]
    p = [of_decoder.softmax(1)[labeled:] for of_decoder in z]
    terms = [((q - p[0]) ** 2).mean() for q in p[1:]]
    consistency, supervised = sum(terms) / 3, sum(half(x[:labeled], labels[:labeled]) for x in z) / 4
    weight = weight_of(sidecar, "weight")
    arrays = {"labels": labels, "supervised": supervised, "consistency": consistency, "weight": weight}
    arrays |= {f"logits_{i}": x for i, x in enumerate(z)} | {f"consistency_{i + 1}": t for i, t in enumerate(terms)}
    arrays |= {f"grad_consistency_{i}": slope(consistency, x) for i, x in enumerate(z)}
    arrays["loss"] = supervised + weight * consistency
    whole = [x.softmax(1) for x in z]
    arrays |= {"off_mse": ((whole[1] - whole[0]) ** 2).mean()}
    return arrays, ("off_mse_conf", "off_kl", "off_kl_conf", "off_js", "off_pairwise")


def draw_cps(sidecar: dict, n: int, labeled: int) -> tuple[Arrays, tuple[str, ...]]:
    arrays: Arrays = {}
    for dim in SHAPES:
        (a, labels), (b, _) = drawn(n, dim, 1), drawn(n, dim, 2)
        hard = [z[labeled:].argmax(1) for z in (a, b)]
        weight = weight_of(sidecar, f"weight{dim}")
        pseudo = ce(a[labeled:], hard[1]), ce(b[labeled:], hard[0])
        supervised = half(a[:labeled], labels[:labeled]), half(b[:labeled], labels[:labeled])
        loss = sum(supervised) + weight * sum(pseudo)
        arrays |= {f"labels{dim}": labels, f"weight{dim}": weight, f"loss{dim}": loss}
        for i, z in enumerate((a, b)):
            arrays |= {f"logits{dim}_{i + 1}": z, f"grad{dim}_{i + 1}": slope(loss, z)}
            arrays |= {f"pseudo_label{dim}_{i + 1}": hard[i], f"pseudo_loss{dim}_{i + 1}": pseudo[i]}
            arrays |= {f"sup_loss{dim}_{i + 1}": supervised[i]}
    a, b = arrays["logits2d_1"], arrays["logits2d_2"]
    arrays["official_cps_loss"] = ce(a, b.argmax(1)) + ce(b, a.argmax(1))
    return arrays, ()


def draw_cross_teaching(sidecar: dict, n: int, labeled: int) -> tuple[Arrays, tuple[str, ...]]:
    arrays: Arrays = {}
    for dim in SHAPES:
        (a, labels), (b, _) = drawn(n, dim, 3), drawn(n, dim, 4)
        weight = weight_of(sidecar, f"weight{dim}")
        pseudo = dice(a[labeled:], b[labeled:].argmax(1)), dice(b[labeled:], a[labeled:].argmax(1))
        supervised = half(a[:labeled], labels[:labeled]), half(b[:labeled], labels[:labeled])
        loss = sum(supervised) + weight * sum(pseudo)
        arrays |= {f"labels{dim}": labels, f"weight{dim}": weight, f"loss{dim}": loss}
        for i, (name, z) in enumerate({"cnn": a, "vit": b}.items()):
            arrays |= {f"logits{dim}_{name}": z, f"grad{dim}_{name}": slope(loss, z)}
            arrays |= {f"pseudo_loss{dim}_{i + 1}": pseudo[i], f"sup_loss{dim}_{i + 1}": supervised[i]}
    return arrays, ()


def draw_entropy_minimization(sidecar: dict, n: int, labeled: int) -> tuple[Arrays, tuple[str, ...]]:
    arrays: Arrays = {}
    for dim, (classes, *_) in SHAPES.items():
        z, labels = drawn(n, dim, 5)
        for key in (f"entropy_loss{dim}", f"entropy_loss_map{dim}"):
            sidecar["arrays"][key]["constants"]["C"] = classes
        found, weight = entropy(z.softmax(1)), weight_of(sidecar, f"step{dim}_weight")
        in_script = sidecar["arrays"][f"step{dim}_consistency"]["constants"]["C_in_script"]
        supervised, consistency = half(z[:labeled], labels[:labeled]), found.mean() / math.log(in_script)
        loss = supervised + weight * consistency
        arrays |= {f"logits{dim}": z, f"labels{dim}": labels, f"step{dim}_weight": weight, f"step{dim}_loss": loss}
        arrays |= {f"entropy_loss{dim}": found.mean() / math.log(classes), f"entropy_minmization{dim}": found.mean()}
        arrays |= {f"entropy_loss_map{dim}": found / math.log(classes), f"entropy_map{dim}": found}
        arrays |= {f"step{dim}_supervised": supervised, f"step{dim}_consistency": consistency}
        arrays[f"step{dim}_grad"] = slope(loss, z)
    p = arrays["logits2d"].softmax(1)
    bits = -p * (p + 1e-30).log2() / math.log2(p.shape[1])
    return arrays | {"advent_entropy_loss": bits.sum(1).mean(), "advent_prob_2_entropy": bits}, ()


def draw_fixmatch(sidecar: dict, n: int, labeled: int) -> tuple[Arrays, tuple[str, ...]]:
    (weak, labels), (strong, _), (teacher, _) = drawn(n, "2d", 6), drawn(n, "2d", 7), drawn(n, "2d", 8)
    p, q, weight = weak.detach().softmax(1), strong.softmax(1), weight_of(sidecar, "weight")
    normalized = (p - p.min(1, keepdim=True)[0]) / p.max(1, keepdim=True)[0]
    kept = normalized > 0.8
    label = torch.where(kept, p, 0.0).argmax(1)[labeled:]
    share = q.flatten(2) / q.flatten(2).sum(2, keepdim=True)
    certainty = 1 + (share * share.log()).sum(2).mean() / math.log(share.shape[2])
    complementary = certainty * ce(1 - q, p.argmin(1))

    def full(z: Tensor, y: Tensor) -> Tensor:
        return ce(z, y) + dice(z, y)

    supervised = full(weak[:labeled], labels[:labeled])
    unsupervised = full(strong[labeled:], label) + certainty * complementary
    cta = full(strong[labeled:], teacher.argmax(1)[labeled:])
    loss = supervised + weight * unsupervised
    arrays = {"logits_weak": weak, "logits_strong": strong, "labels": labels, "cta_ema_logits": teacher}
    arrays |= {"normalized": normalized, "pseudo_mask": kept, "pseudo_label": label, "as_weight": certainty}
    arrays |= {"comp_loss": complementary, "sup_loss": supervised, "unsup_loss": unsupervised, "weight": weight}
    arrays |= {"loss": loss, "grad_weak": slope(loss, weak), "grad_strong": slope(loss, strong)}
    return arrays | {"cta_sup_loss": supervised, "cta_unsup_loss": cta, "cta_loss": supervised + weight * cta}, ()


def draw_mc_net(sidecar: dict, n: int, labeled: int) -> tuple[Arrays, tuple[str, ...]]:
    arrays: Arrays = {}
    for dim in SHAPES:
        for decoders in (2, 3):
            case, labels = f"{dim}_n{decoders}", drawn(n, dim, 20)[1]
            z = [drawn(n, dim, 10 * decoders + i)[0] for i in range(decoders)]
            p, supervised = [x.softmax(1) for x in z], 0.0
            for q in p:
                if dim == "2d":
                    y, axes = channels(labels[:labeled], q.shape[1]), (0, 2, 3)
                    both, each = (q[:labeled] * y).sum(axes), (q[:labeled] ** 2).sum(axes) + (y**2).sum(axes)
                    supervised += (1 - (both + 1e-10) / (each + 1e-10)).mean()
                else:
                    y, first = (labels[:labeled] == 1).double(), q[:labeled, 1]
                    supervised += 1 - (2 * (first * y).sum() + 1e-8) / (first.sum() + y.sum() + 1e-8)
            sharp = [1 / (1 + ((1 - q) / q) ** 10) for q in p]
            consistency = sum(((p[i] - sharp[j]) ** 2).mean() for i, j in permutations(range(decoders), 2))
            weight = weight_of(sidecar, f"{case}_weight")
            lamda = sidecar["arrays"][f"{case}_loss"]["constants"]["lamda"]
            arrays |= {f"{case}_labels": labels, f"{case}_dice_sum": supervised, f"{case}_consistency": consistency}
            arrays |= {f"{case}_weight": weight, f"{case}_loss": lamda * supervised + weight * consistency}
            arrays |= {f"{case}_logits{i}": x for i, x in enumerate(z)}
            arrays |= {f"{case}_grad_consistency{i}": slope(consistency, x) for i, x in enumerate(z)}
    return arrays, ()


def draw_r_drop(sidecar: dict, n: int, labeled: int) -> tuple[Arrays, tuple[str, ...]]:
    def both_ways(a: Tensor, b: Tensor, axis: int) -> Tensor:
        p, q = a.log_softmax(axis), b.log_softmax(axis)
        return ((p.exp() - q.exp()) * (p - q)).mean() / 2

    arrays: Arrays = {}
    for dim in SHAPES:
        (a, labels), (b, _) = drawn(n, dim, 30), drawn(n, dim, 31)
        supervised = sum(half(z[:labeled], labels[:labeled]) for z in (a, b))
        last, classes = (both_ways(a[labeled:], b[labeled:], axis) for axis in (-1, 1))
        weight = weight_of(sidecar, f"loss{dim}")
        arrays |= {f"logits{dim}_1": a, f"logits{dim}_2": b, f"labels{dim}": labels, f"weight{dim}": weight}
        arrays |= {f"kl_lastaxis{dim}": last, f"kl_class{dim}": classes, f"loss{dim}": supervised + weight * last}
        arrays |= {f"grad_class{dim}_{i}": slope(classes, z) for i, z in ((1, a), (2, b))}
    return arrays, ()


def draw_urpc(sidecar: dict, n: int, labeled: int) -> tuple[Arrays, tuple[str, ...]]:
    arrays: Arrays = {}
    for dim in SHAPES:
        z, labels = [drawn(n, dim, 40 + s)[0] for s in range(4)], drawn(n, dim, 39)[1]
        p = [x.softmax(1)[labeled:] for x in z]
        mean = sum(p) / 4
        divergences = [(mean * (mean / q).log()).sum(1, keepdim=True) for q in p]
        terms = []
        for q, d in zip(p, divergences):
            w = (-d).exp()
            terms.append(((mean - q) ** 2 * w).mean() / (w.mean() + 1e-8) + d.mean())
        supervised = sum(half(x[:labeled], labels[:labeled]) for x in z) / 4
        consistency, weight = sum(terms) / 4, weight_of(sidecar, f"weight{dim}")
        arrays |= {f"labels{dim}": labels, f"supervised{dim}": supervised, f"consistency{dim}": consistency}
        arrays |= {f"weight{dim}": weight, f"loss{dim}": supervised + weight * consistency}
        for s, x in enumerate(z):
            arrays |= {f"logits{dim}_scale{s}": x, f"variance{dim}_scale{s}": divergences[s]}
            arrays |= {f"term{dim}_scale{s}": terms[s], f"grad_consistency{dim}_scale{s}": slope(consistency, x)}
    return arrays, ()


DRAWS: dict[str, Callable] = {
    "cct": draw_cct,
    "cps": draw_cps,
    "cross_teaching": draw_cross_teaching,
    "entropy_minimization": draw_entropy_minimization,
    "fixmatch": draw_fixmatch,
    "mc_net": draw_mc_net,
    "r_drop": draw_r_drop,
    "urpc": draw_urpc,
}


@pytest.mark.parametrize("samples", [1, 3, 5])
@pytest.mark.parametrize("name", DRAWS)
def test_an_odd_batch_has_the_smaller_half_labeled(name, samples):
    sidecar = json.loads((DATA / f"{name}.json").read_text())
    arrays, dropped = DRAWS[name](sidecar, samples, samples // 2)
    adapter = load_adapter(name)
    report = check(redrawn(name, arrays, dropped, sidecar), adapter)
    assert report.complete, report


@pytest.mark.parametrize("unlabeled", [1, 2])
@pytest.mark.parametrize("name", ["cps", "fixmatch", "urpc"])
def test_what_shapes_say_of_the_labeled_samples_goes_before_the_half(name, unlabeled):
    sidecar = json.loads((DATA / f"{name}.json").read_text())
    arrays, dropped = DRAWS[name](sidecar, 5, 5 - unlabeled)
    assert check(redrawn(name, arrays, dropped), load_adapter(name)).complete


def test_dycon_has_the_smaller_half_labeled():
    """Three of the four stored samples; the second one is unlabeled then."""
    file = redrawn("dycon", {})
    step = (
        "step_label",
        "step_student_logits",
        "step_teacher_logits",
        "step_student_features",
        "step_teacher_features",
    )
    arrays = {key: torch.from_numpy(file.inputs[key][:3]) for key in step}
    found = load_adapter("dycon").adapt(redrawn("dycon", arrays))
    student, teacher = (arrays[f"step_{who}_logits"].double() for who in ("student", "teacher"))
    label = arrays["step_label"].long()
    p, y = student[:1].softmax(1)[:, 1], (label[:1] == 1).double()
    twice = [z[1:].softmax(1).softmax(1) for z in (student, teacher)]
    assert found["step_loss_seg"].item() == pytest.approx(ce(student[:1], label[:1]).item(), rel=1e-4)
    dice_loss = 1 - (2 * (p * y).sum() + 1e-5) / ((p**2).sum() + (y**2).sum() + 1e-5)
    assert found["step_loss_seg_dice"].item() == pytest.approx(dice_loss.item(), rel=1e-4)
    assert found["step_consistency_loss"].item() == pytest.approx(((twice[0] - twice[1]) ** 2).mean().item(), rel=1e-3)
    assert found["step_mask_con"].shape[0] == 3
    assert found["step_grad_features"].abs().flatten(1).sum(1).bool().tolist() == [False, True, True]


def test_ad_mt_follows_its_constants():
    stored = redrawn("ad_mt", {})
    sidecar = json.loads((DATA / "ad_mt.json").read_text())
    sidecar["constants"]["ramp"]["iterations_per_ramp_step"] = 70
    sidecar["constants"]["alternator"]["initial_state"] = False
    for dim, form in (("2d", "cross entropy, mean over confident voxels"), ("3d", "masked Dice")):
        sidecar["constants"][f"step_{dim}"] |= {"ensemble_temperature": 0.5, "unlabeled_loss": form}
    arrays = {key: stored.inputs[key] for key in stored.inputs} | stored.expected()
    found = load_adapter("ad_mt").adapt(GoldenFile("ad_mt", arrays, sidecar))
    expected = stored.expected()
    assert found["alternator/out/state"] == (~expected["alternator/out/state"]).tolist()
    key = "alternator/out/state_not_random_as_released"
    assert found[key] == (~expected[key]).tolist()
    ramp = [2 * math.exp(-5 * (1 - min(i // 70, 40) / 40) ** 2) for i in stored.numbers("ramp/in/iteration")]
    assert found["ramp/out/weight_f64"] == pytest.approx(ramp, rel=1e-9)
    for dim in SHAPES:
        squares = torch.from_numpy(expected[f"step_{dim}/out/ensemble"]).double() ** 2
        sharp = squares / squares.sum(1, keepdim=True)
        torch.testing.assert_close(found[f"step_{dim}/out/ensemble"].double(), sharp, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found[f"step_{dim}/out/confidence"].double(), sharp.amax(1), rtol=1e-4, atol=1e-6)
        sure = found[f"step_{dim}/out/true_confidence"] >= stored.constant("conf_threshold", f"step_{dim}")
        label, z = found[f"step_{dim}/out/true_label"].long(), stored.tensor(f"step_{dim}/in/student_logits").double()
        z, y = z[-len(label) :], channels(label, z.shape[1])
        entropy_of_sure = -(z.log_softmax(1) * y).sum(1)[sure].mean().item()
        loss = found[f"step_{dim}/out/true_loss_u"].item()
        assert (loss == pytest.approx(entropy_of_sure, rel=1e-4)) == (dim == "2d")


@pytest.mark.parametrize("classes", [2, 5, 7])
def test_the_threshold_of_corrmatch_is_a_running_sum_over_the_classes(classes):
    """Stored as float64, but official single precision: another order of the sum is another number."""
    random = torch.Generator().manual_seed(classes)
    batches = [torch.randn(3, classes, 7, 11, generator=random).softmax(1) for _ in range(20)]
    start, momentum, expected = 0.85, 0.5, []
    now = torch.tensor(start)
    for p in batches:
        confidence, label = p.max(1)
        total = 0.0
        for k in label.unique():
            total = total + confidence[label == k].max()
        now = momentum * now + (1 - momentum) * (total / len(label.unique()))
        expected.append(now.item())
    assert adaptive_threshold(start, batches, label >= 0, momentum) == expected


def test_mixtures_of_flat_predictions_are_estimated_to_the_end():
    """A hundred steps do not reach the official tolerance here, and the official code has no limit."""
    random = torch.Generator().manual_seed(6)
    z = 0.2 * torch.randn(3, 4, 32, 32, generator=random)
    scribble = torch.randint(4, (3, 32, 32), generator=random)
    scribble[torch.rand(3, 32, 32, generator=random) < 0.8] = 4
    annotated = scribble < 4
    p = z.softmax(1).movedim(1, -1)[annotated].double()
    share = torch.stack([(scribble[annotated] == c).double().mean() for c in range(4)])
    mixture, change, steps = share, 1.0, 0
    while change > 1e-3:
        parts = mixture * p / share
        updated = (parts / parts.sum(1, keepdim=True)).mean(0)
        change, mixture, steps = (updated - mixture).abs().sum().item(), updated, steps + 1
    assert steps > 100
    file = redrawn("cyclemix_shapepu", {"logits": z, "scribble": scribble, "probs_other": z.softmax(1)})
    found = load_adapter("cyclemix_shapepu").adapt(file)
    torch.testing.assert_close(found["em_ratio"], mixture, rtol=1e-9, atol=0)


@pytest.mark.parametrize("classes, code", [(4, 4), (3, 4), (3, 3), (6, 6)])
def test_the_largest_code_of_a_scribble_is_that_of_voxels_without_one(classes, code):
    random = torch.Generator().manual_seed(classes)
    z, ensemble = (torch.randn(2, classes, 7, 9, generator=random) for _ in range(2))
    ensemble = (3 * ensemble).softmax(1)
    scribble = torch.randint(classes, (2, 7, 9), generator=random)
    scribble[torch.rand(2, 7, 9, generator=random) < 0.8] = code
    confidence, label = ensemble.max(1)
    label = torch.where((scribble == code) & (confidence > 0.8), label, code)
    arrays = {"logits": z, "scribble": scribble, "ensemble": ensemble.movedim(1, -1), "u_labels": label}
    arrays["loss_u"] = torch.nn.functional.cross_entropy(z, label, ignore_index=code)
    annotated = torch.nn.functional.cross_entropy(z, scribble, ignore_index=code)
    arrays["loss"] = annotated + 0.5 * arrays["loss_u"]
    arrays["ensemble_item0_after_update"] = (0.2 * z[0].softmax(0) + 0.8 * ensemble[0]).movedim(0, -1)
    report = check(redrawn("scribble2label", arrays), load_adapter("scribble2label"))
    assert report.complete, report


def test_a_class_without_scribble_leaves_the_slice_to_the_background():
    scribble = redrawn("random_walker", {}).tensor("scribble")
    scribble[scribble == 3] = 4
    nothing = torch.zeros_like(scribble)
    arrays = {"scribble": scribble, "pseudo_label": nothing, "pseudo_label_class_missing": nothing}
    report = check(redrawn("random_walker", arrays), load_adapter("random_walker"))
    assert report.complete, report


def test_a_draw_without_the_released_walk_has_the_other_scribbles():
    labels = torch.zeros(1, 80, 48, dtype=torch.uint8)
    labels[0, 20:60, 10:20], labels[0, 20:60, 40:], labels[0, 20:60, 30:40] = 1, 2, 3
    box = torch.where(labels[0] == 3, 3, 0)
    others = [key for key in redrawn("scribble_generators", {}).outputs if key not in ("weak_box_strat", "bresenham")]
    file = redrawn("scribble_generators", {"labels": labels, "weak_box_strat": box}, tuple(others))
    report = check(file, load_adapter("scribble_generators"))
    assert report.complete, report


@pytest.mark.parametrize("apart", [False, True])
def test_a_class_that_the_disk_at_its_centroid_misses_is_kept_as_a_mask(apart):
    labels = torch.zeros(1, 40, 40, dtype=torch.uint8)
    labels[0, 8:33, 8:33] = 3
    labels[0, 12:29, 12:29] = 0 if apart else 3
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    near = (rows - 20) ** 2 + (columns - 20) ** 2 < 2.5**2
    expected = (labels[0] == 3).long() if apart else 3 * near
    others = [key for key in redrawn("scribble_generators", {}).outputs if key != "weak_centroid_strat"]
    file = redrawn("scribble_generators", {"labels": labels, "weak_centroid_strat": expected}, tuple(others))
    report = check(file, load_adapter("scribble_generators"))
    assert report.complete, report
