"""The engine: data checks, numbers that are not finite, pretrained weights, several processes, loaders, checkpoints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_ssl.errors import UserError
from nnunet_ssl.trainer import nnUNetTrainerSSL
from tests.helpers.paths import REPOSITORY
from tests.helpers.trainers import needs
from tests.helpers.training import copy_batch, copy_dataset, largest_difference, make_trainer, started, weights_of

MEAN_TEACHER = "nnUNetTrainerMeanTeacher"


@pytest.fixture
def own_copy(datasets, tmp_path):
    """(folder, data set name, preprocessed folder) of a data set that the test may change."""
    out, dataset = datasets()
    out = copy_dataset(out, tmp_path / "data")
    return out, dataset, out / "nnUNet_preprocessed" / dataset


def edit_json(file, change):
    content = json.loads(file.read_text())
    changed = change(content)
    file.write_text(json.dumps(content if changed is None else changed))


# ---------------------------------------------------------------------------------------------------- checks of the data


def start(out, dataset, tmp_path, **attributes):
    return started(make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path / "results", **attributes))


def test_without_unlabeled_list_the_message_names_the_command(own_copy, tmp_path):
    out, dataset, folder = own_copy
    (folder / "unlabeled.json").unlink()
    with pytest.raises(UserError, match=r"unlabeled.json does not exist.*nnunet_ssl preprocess_unlabeled -d 991 -c 2d"):
        start(out, dataset, tmp_path)


def test_without_unlabeled_cases_there_is_an_error(own_copy, tmp_path):
    out, dataset, folder = own_copy
    edit_json(folder / "unlabeled.json", lambda c: c.update(unlabeled={}))
    with pytest.raises(UserError, match="no unlabeled case for fold 0"):
        start(out, dataset, tmp_path)


def test_unlabeled_images_made_with_other_plans_are_refused(own_copy, tmp_path):
    out, dataset, folder = own_copy
    edit_json(folder / "nnUNetPlans.json", lambda p: p["configurations"]["2d"].update(spacing=[2.0, 2.0]))
    with pytest.raises(UserError, match="nnunet_ssl preprocess_unlabeled -d 991 -c 2d"):
        start(out, dataset, tmp_path)


def test_an_unfinished_unlabeled_folder_is_refused(own_copy, tmp_path):
    out, dataset, folder = own_copy
    edit_json(folder / "nnUNetPlans_2d_unlabeled.json", lambda m: m["cases"].pop("free_01") and None)
    with pytest.raises(UserError, match="free_01"):
        start(out, dataset, tmp_path)


def test_a_fold_that_the_file_lacks_is_refused(own_copy, tmp_path):
    out, dataset, _ = own_copy
    trainer = make_trainer(MEAN_TEACHER, out, dataset, fold=3, results=tmp_path)
    trainer.initialize()
    with pytest.raises(UserError, match=r"Fold 3 is not in .*splits_final.json, which has 1 fold"):
        trainer.on_train_start()


def test_fold_all_trains_on_all_labeled_cases(own_copy, tmp_path):
    out, dataset, _ = own_copy
    trainer = make_trainer(MEAN_TEACHER, out, dataset, fold="all", results=tmp_path)
    started(trainer)
    assert len(trainer.cases.train) == 4
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])


def test_fold_all_is_refused_when_labels_are_hidden(own_copy, tmp_path):
    out, dataset, folder = own_copy
    edit_json(folder / "unlabeled.json", lambda c: c.update(hidden_labels={"0": ["case_00"]}))
    trainer = make_trainer(MEAN_TEACHER, out, dataset, fold="all", results=tmp_path)
    trainer.initialize()
    with pytest.raises(UserError, match="hides labels"):
        trainer.on_train_start()


def test_a_missing_split_is_made_by_nnunet_or_refused(datasets, own_copy, tmp_path):
    out, dataset, folder = own_copy
    (folder / "splits_final.json").unlink()
    with pytest.raises(UserError, match="needs 5 labeled cases or more, found 4"):
        start(out, dataset, tmp_path)
    out, dataset = datasets(labeled=5)
    out = copy_dataset(out, tmp_path / "five")
    folder = out / "nnUNet_preprocessed" / dataset
    (folder / "splits_final.json").unlink()
    start(out, dataset, tmp_path)
    assert len(json.loads((folder / "splits_final.json").read_text())) == 5


def test_hidden_and_labeled_at_once_is_refused(own_copy, tmp_path):
    out, dataset, folder = own_copy
    edit_json(folder / "unlabeled.json", lambda c: c.update(hidden_labels={"0": ["case_00"]}))
    with pytest.raises(UserError, match="case_00 would be labeled training case"):
        start(out, dataset, tmp_path)


@pytest.mark.parametrize("place, case", [("labeled", "case_03"), ("test", "test_00")])
def test_an_unlabeled_image_that_is_a_validation_or_test_image_is_refused(place, case, own_copy, tmp_path):
    out, dataset, folder = own_copy

    def leak(content):
        content["unlabeled"]["free_02"]["sha256"] = content[place][case]["sha256"]

    edit_json(folder / "unlabeled.json", leak)
    edit_json(
        folder / "nnUNetPlans_2d_unlabeled.json",
        lambda m: m["cases"].update(
            free_02=json.loads((folder / "unlabeled.json").read_text())["unlabeled"]["free_02"]["sha256"]
        ),
    )
    with pytest.raises(UserError, match=rf"free_02 is the same image as {case}"):
        start(out, dataset, tmp_path)
    assert start(out, dataset, tmp_path, allow_transductive=True)


def test_the_log_names_counts_and_split(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    log = Path(trainer.log_file).read_text()
    assert "labeled: 3, unlabeled: 3 (0 of them with hidden labels), validation: 1 cases; split" in log
    assert json.loads(Path(trainer.output_folder, "split.json").read_text())["hash"] in log
    assert "consistency_weight: 0.2" in log


# ------------------------------------------------------------------------------------------------- the step's safeguards


def poisoned(trainer, name):
    original = trainer.unlabeled_terms

    def terms(logits, batch):
        return {k: v * (float("nan") if k == name else 1) for k, v in original(logits, batch).items()}

    trainer.unlabeled_terms = terms
    return lambda: setattr(trainer, "unlabeled_terms", original)


def test_a_step_that_is_not_finite_is_skipped_and_counted(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    batch = next(trainer.dataloader_train)
    good = trainer.train_step(copy_batch(batch))
    student, teacher = weights_of(trainer.network), weights_of(trainer.teacher.module)
    heal = poisoned(trainer, "consistency")
    bad = trainer.train_step(copy_batch(batch))
    assert not np.isfinite(bad["loss"]) and trainer.nonfinite.skipped == 1
    assert largest_difference(student, weights_of(trainer.network)) == 0
    assert largest_difference(teacher, weights_of(trainer.teacher.module)) == 0
    heal()
    trainer.train_step(copy_batch(batch))
    assert largest_difference(student, weights_of(trainer.network)) > 0
    trainer.on_train_epoch_end([good, bad])
    assert trainer.logger.get_value("train_losses", step=-1) == pytest.approx(float(good["loss"]))
    assert trainer.curves.values["steps/skipped"] == [1]


def test_many_steps_in_a_row_that_are_not_finite_stop_the_run_and_name_the_term(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path, max_nonfinite_steps=3)
    batch = next(trainer.dataloader_train)
    poisoned(trainer, "consistency")
    trainer.train_step(copy_batch(batch)), trainer.train_step(copy_batch(batch))
    with pytest.raises(RuntimeError, match=r"3 steps in a row .* term\(s\): consistency"):
        trainer.train_step(copy_batch(batch))


def test_out_of_gpu_memory_names_the_unlabeled_batch_size(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path, unlabeled_batch_size=3)

    def exhausted(logits, batch):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    trainer.unlabeled_terms = exhausted
    with pytest.raises(RuntimeError, match=r"2 labeled and 3 unlabeled patches\..* lower `unlabeled_batch_size`"):
        trainer.train_step(next(trainer.dataloader_train))


def test_weights_must_name_the_same_terms_in_every_step(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    batch = next(trainer.dataloader_train)
    trainer.train_step(copy_batch(batch))
    trainer.weights = lambda: {"another": 1.0}
    with pytest.raises(ValueError, match="must name the same terms"):
        trainer.train_step(copy_batch(batch))


def test_a_term_without_weight_is_an_error(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    trainer.weights = lambda: {"other": 1.0}
    with pytest.raises(ValueError, match=r"no weight for term\(s\) \['consistency'\]"):
        trainer.train_step(next(trainer.dataloader_train))


def test_frozen_members_pass_gradients_but_keep_their_parameters(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    head = trainer.register_module("head", torch.nn.Conv2d(1, 1, 1), optimizer=lambda p: torch.optim.SGD(p, 0.1))
    image = torch.ones(1, 1, 2, 2, requires_grad=True)
    with trainer.frozen(head):
        loss = head(image).sum()
    loss.backward()
    assert image.grad is not None
    assert all(p.grad is None and p.requires_grad for p in head.module.parameters())
    with pytest.raises(ValueError, match="registered already"):
        trainer.register_module("head", torch.nn.Conv2d(1, 1, 1))


def test_the_logits_of_labeled_patches_are_kept_for_the_method(datasets, tmp_path):
    out, dataset = datasets()
    trainer = started(make_trainer("nnUNetTrainerTestTwoNetworks", out, dataset, results=tmp_path))
    seen = []
    original = trainer.unlabeled_terms
    trainer.unlabeled_terms = lambda logits, batch: seen.append(batch) or original(logits, batch)
    batch = next(trainer.dataloader_train)
    with torch.no_grad():
        expected = [trainer.student(batch["data"]), trainer.second(batch["data"])]
    trainer.train_step(copy_batch(batch))
    assert list(seen[0].labeled_logits) == ["student", "second"]
    for scales, found in zip(expected, seen[0].labeled_logits.values(), strict=True):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(scales, found, strict=True))


def test_a_forward_without_gradient_does_not_take_the_next_ones_gradient(datasets, tmp_path):
    """Autocast keeps the weights it has cast; those cast without a gradient must not be used again."""
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    image = next(trainer.dataloader_train)["unlabeled"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = trainer.without_gradient(trainer.student, image)
        assert len(logits) > 1 and not any(scale.requires_grad for scale in logits)
        sum(scale.float().mean() for scale in trainer.student(image)).backward()
    assert all(p.grad is not None for p in trainer.network.parameters())


def test_own_optimizers_follow_nnunets_schedule(datasets, tmp_path):
    out, dataset = datasets()
    trainer = make_trainer("nnUNetTrainerTestTwoNetworks", out, dataset, results=tmp_path)
    started(trainer)
    for epoch in (0, 500, 999):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        expected = 1e-2 * (1 - epoch / 1000) ** 0.9
        rates = [g["lr"] for o in trainer.members.optimizers for g in o.param_groups]
        assert rates == pytest.approx([expected] * 3)  # student, head that shares its optimizer, second network


# ------------------------------------------------------------------------------------------------------- whole networks


def test_pretrained_weights_reach_all_networks_and_heads_stay_different(datasets, tmp_path):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    out, dataset = datasets()
    donor = make_trainer("nnUNetTrainer", out, dataset, results=tmp_path / "donor")
    torch.manual_seed(99)
    donor.initialize()
    file = tmp_path / "donor.pth"
    torch.save({"network_weights": donor.network.state_dict()}, file)
    for name in (MEAN_TEACHER, "nnUNetTrainerTestTwoNetworks"):
        trainer = make_trainer(name, out, dataset, results=tmp_path / name)
        torch.manual_seed(0)
        trainer.initialize()
        load_pretrained_weights(trainer.network, str(file))
        trainer.on_train_start()
        student = weights_of(trainer.network)
        body = [k for k in student if ".seg_layers." not in k]
        assert all(torch.equal(student[k], donor.network.state_dict()[k]) for k in body)
        if name == MEAN_TEACHER:
            assert largest_difference(student, weights_of(trainer.teacher.module)) == 0
        else:
            second = weights_of(trainer.second.module)
            assert all(torch.equal(student[k], second[k]) for k in body)
            layers = [k for k in student if ".seg_layers." in k and k.endswith("weight")]
            assert layers and not any(torch.equal(student[k], second[k]) for k in layers)


def test_without_pretrained_weights_networks_stay_different(datasets, tmp_path):
    out, dataset = datasets()
    trainer = make_trainer("nnUNetTrainerTestTwoNetworks", out, dataset, results=tmp_path)
    started(trainer)
    assert largest_difference(weights_of(trainer.network), weights_of(trainer.second.module)) > 0.01


def test_a_checkpoint_of_another_trainer_is_refused_for_continuing(datasets, tmp_path):
    out, dataset = datasets()
    stock = make_trainer("nnUNetTrainer", out, dataset, results=tmp_path / "a")
    stock.initialize()
    stock.save_checkpoint(str(tmp_path / "stock.pth"))
    trainer = make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path / "b")
    with pytest.raises(UserError, match=r"has no state of nnunet-ssl.*-pretrained_weights"):
        trainer.load_checkpoint(str(tmp_path / "stock.pth"))


def test_a_failed_write_leaves_the_old_checkpoint_and_no_temporary_file(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    file = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(file))
    before = file.read_bytes()
    network = trainer.network

    class NoSpace:
        def state_dict(self):
            raise OSError(28, "No space left on device")

    trainer.register_state("bank", NoSpace())
    with pytest.raises(OSError, match="No space left"):
        trainer.save_checkpoint(str(file))
    assert file.read_bytes() == before
    assert trainer.network is network
    assert [f.name for f in tmp_path.iterdir() if f.is_file()] == ["checkpoint_latest.pth"]


def test_validation_and_checkpoints_leave_the_student_in_place(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    network = trainer.network
    trainer.train_step(next(trainer.dataloader_train))
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        trainer.validation_step(next(trainer.dataloader_val))
    assert trainer.network is network
    assert trainer.teacher.module.decoder.deep_supervision is False
    assert network.decoder.deep_supervision is True
    assert len(trainer.teacher(torch.zeros(1, 1, 24, 24))) == 1


@pytest.mark.parametrize(
    "name, attributes",
    [
        (MEAN_TEACHER, {"noise_std": 0.0, "consistency_weight": 0.5}),
        ("nnUNetTrainerTestTwoNetworks", {}),
        # without what is drawn at random: the mixture and the dropped channels
        ("nnUNetTrainerScribbleDMPLS", {"dropout": 0.0, "pseudo_weight": 0.0}),
    ],
)
def test_two_processes_train_like_one(name, attributes, datasets, tmp_path):
    out, dataset = datasets(**needs(name, batch_size=4))
    trainer = started(make_trainer(name, out, dataset, results=tmp_path / "one", **attributes))
    trainer.iteration = 0
    batches = [next(trainer.dataloader_train) for _ in range(2)]
    for batch in batches:  # all voxels count: else the mean over counted voxels is another one per process
        if "inside" in batch:
            batch["inside"].fill_(True)
        for target in batch["target"]:
            target[target == 3] = 0  # the ignore label
    reference = {
        "attributes": attributes,
        "start": weights_of(trainer.network),
        "members": {k: weights_of(m.module) for k, m in ((m.name, m) for m in trainer.members)},
        "batches": [copy_batch(b) for b in batches],
    }
    torch.save(reference, tmp_path / "reference.pth")
    for batch in batches:
        trainer.train_step(batch)
    arguments = [name, str(out), dataset, str(tmp_path / "two"), str(tmp_path)]
    command = [sys.executable, "-m", "tests.helpers.ddp_worker"]
    processes = [subprocess.Popen([*command, str(rank), "2", *arguments], cwd=REPOSITORY) for rank in range(2)]
    assert [p.wait(timeout=300) for p in processes] == [0, 0]
    ranks = [torch.load(tmp_path / f"rank{r}.pth", weights_only=False) for r in range(2)]
    assert ranks[0]["batch_size"] == ranks[1]["batch_size"] == (2, 2)
    for found in ranks:
        assert largest_difference(weights_of(trainer.network), found["student"]) < 1e-5
        for key, member in ((m.name, m) for m in trainer.members):
            assert largest_difference(weights_of(member.module), found["members"][key]) < 1e-5
    checkpoint = torch.load(tmp_path / "checkpoint_ddp.pth", weights_only=False)
    expected = weights_of(trainer.inference_network().module)
    assert largest_difference(expected, checkpoint["network_weights"]) < 1e-5
    assert len(checkpoint["ssl_state"]["random_states"]) == 2


def test_compiled_networks_are_saved_under_plain_names(datasets, tmp_path):
    """torch.compile wraps lazily, so this needs no compiler; nnU-Net itself switches compilation off on CPU."""
    out, dataset = datasets()
    trainer = make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path)
    trainer._do_i_compile = lambda: True
    trainer.initialize()
    assert type(trainer.network).__name__ == "OptimizedModule" == type(trainer.teacher.network).__name__
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    checkpoint = torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    keys = [*checkpoint["network_weights"], *checkpoint["ssl_state"]["members"]["teacher"]]
    assert not any("_orig_mod" in key for key in keys)
    other = make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path)
    other.load_checkpoint(str(tmp_path / "checkpoint.pth"))


@pytest.mark.parametrize(
    "name", [MEAN_TEACHER, "nnUNetTrainerDyCON", "nnUNetTrainerTestTwoNetworks", "nnUNetTrainerScribbleDMPLS"]
)
def test_compiled_networks_train_and_validate_like_plain_ones(name, datasets, tmp_path, monkeypatch):
    """With dynamo's eager backend: the graphs are traced as on a GPU, without a compiler and without its rounding."""
    out, dataset = datasets(**needs(name))
    compile_network = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compile_network(module, backend="eager"))
    results = []
    for compiled in (False, True):
        trainer = make_trainer(name, out, dataset, results=tmp_path / str(compiled))
        trainer._do_i_compile = lambda compiled=compiled: compiled
        started(trainer)
        torch.manual_seed(0)
        np.random.seed(0)
        steps = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(2)]
        trainer.on_validation_epoch_start()
        with torch.no_grad():
            validation = trainer.validation_step(next(trainer.dataloader_val))
        trainer.on_train_epoch_start()
        steps.append(trainer.train_step(next(trainer.dataloader_train)))
        results.append((steps, validation, weights_of(trainer.inference_network().module)))
    (plain_steps, plain_validation, plain), (steps, validation, weights) = results
    for a, b in zip(plain_steps, steps, strict=True):
        assert {k: float(v) for k, v in a.items()} == pytest.approx({k: float(v) for k, v in b.items()}, rel=1e-4)
    assert float(plain_validation["loss"]) == pytest.approx(float(validation["loss"]), rel=1e-4)
    assert largest_difference(plain, weights) < 1e-5


def test_scalars_go_to_other_loggers_too(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    seen = {}

    class Logger:
        def log(self, key, value, step):
            seen[key, step] = value

    trainer.logger.loggers.append(Logger())
    trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train))])
    expected = {"term/labeled", "term/consistency", "weight/consistency", "ema_decay/teacher", "loader/waiting"}
    assert {f"nnunet_ssl/{name}" for name in expected} <= {key for key, step in seen if step == 0}
    assert seen["nnunet_ssl/ema_decay/teacher", 0] == 0.5  # of the next update
    assert 0 <= seen["nnunet_ssl/loader/waiting", 0] <= 1


def test_mixed_precision_keeps_the_loss_terms_in_float32(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    trainer.autocast = lambda: torch.autocast("cpu", dtype=torch.bfloat16)
    dtypes = []
    original = trainer.unlabeled_terms

    def terms(logits, batch):
        result = original(logits, batch)
        dtypes.extend([logits[0].dtype, result["consistency"].dtype])
        return result

    trainer.unlabeled_terms = terms
    values = trainer.train_step(next(trainer.dataloader_train))
    assert dtypes == [torch.bfloat16, torch.float32]
    assert np.isfinite(values["loss"])


def test_the_gradient_scaler_steps_every_optimizer(datasets, tmp_path):
    """The CUDA path of the step with a scaler that works on CPU: same weights as without."""
    out, dataset = datasets()
    results = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        trainer = make_trainer("nnUNetTrainerTestTwoNetworks", out, dataset, results=tmp_path)
        started(trainer)
        trainer.grad_scaler = scaler
        torch.manual_seed(0)
        np.random.seed(0)
        trainer.train_step(next(trainer.dataloader_train))
        results.append([weights_of(trainer.network), weights_of(trainer.second.module)])
    for plain, scaled in zip(*results, strict=True):
        assert largest_difference(plain, scaled) < 1e-6


# ------------------------------------------------------------------------------------------------------------- the pool


def test_the_pool_can_shrink_to_nothing(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    trainer.set_unlabeled_cases(["free_01"])
    batch = next(trainer.dataloader_train)
    assert set(map(str, batch["unlabeled_keys"])) == {"free_01"}
    with pytest.raises(ValueError, match="case_00"):
        trainer.set_unlabeled_cases(["case_00"])
    trainer.set_unlabeled_cases([])
    batch = next(trainer.dataloader_train)
    assert "unlabeled" not in batch
    assert trainer.train_step(batch)["consistency"] == 0


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("name", [MEAN_TEACHER, "nnUNetTrainerTestShrinkingPool"])
def test_whole_unlabeled_images_are_scored_with_the_inference_network(name, configuration, datasets, tmp_path):
    out, dataset = datasets()
    trainer = started(make_trainer(name, out, dataset, configuration, results=tmp_path))
    before = weights_of(trainer.network)
    seen = []
    in_2d = configuration == "2d"  # in 3D the eight mirrored passes would make this one of the slowest tests
    scores = trainer.score_unlabeled(lambda p: seen.append(p) or float(len(seen)), mirroring=in_2d)
    assert scores == {"free_00": 1.0, "free_01": 2.0, "free_02": 3.0}
    assert all(p.dtype == np.float32 and p.ndim == 4 and np.allclose(p.sum(0), 1, atol=1e-4) for p in seen)
    assert largest_difference(before, weights_of(trainer.network)) == 0
    assert trainer.network.training and trainer.network.decoder.deep_supervision
    if name == MEAN_TEACHER:
        assert not trainer.teacher.module.training and not trainer.teacher.module.decoder.deep_supervision
    trainer.set_unlabeled_cases(["free_01"])
    assert list(trainer.score_unlabeled(lambda p: 0.0, mirroring=False)) == ["free_01"]
    trainer.set_unlabeled_cases([])
    assert trainer.score_unlabeled(lambda p: 0.0) == {} and trainer.unlabeled_pool == []


def test_unlabeled_patches_pass_through_nnunets_geometry_and_intensity(datasets, tmp_path):
    out, dataset = datasets()
    trainer = started(make_trainer("nnUNetTrainerTestShrinkingPool", out, dataset, results=tmp_path))
    batch = next(trainer.dataloader_train)
    weak, strong = batch["unlabeled"].chunk(2, dim=1)
    assert trainer.view_names == ("weak", "strong")
    assert weak.shape == strong.shape == (2, 1, 24, 24) and batch["inside"].dtype == torch.bool
    # same geometry: the views of one patch resemble each other, those of different patches do not
    pairs = [np.corrcoef(weak[i].ravel(), strong[i].ravel())[0, 1] for i in range(2)]
    assert min(pairs) > 0.7
    views = trainer.dataloader_train.data_loader.unlabeled.transforms
    names = [type(t).__name__ for t in views.geometry.transforms]
    assert names == ["SpatialTransform", "MirrorTransform"]
    assert len(views.views["strong"].transforms) == 8 and not views.views["weak"].transforms


def test_padding_is_marked_as_outside(datasets, tmp_path):
    out, dataset = datasets()
    trainer = start(out, dataset, tmp_path)
    outside = 0
    for _ in range(20):
        batch = next(trainer.dataloader_train)
        outside += int((~batch["inside"]).sum())
        if outside:
            break
    assert outside


def test_a_user_folder_of_two_lines_takes_effect(datasets, tmp_path):
    class nnUNetTrainerShort(nnUNetTrainerSSL):
        num_epochs = 3
        initial_lr = 0.02

    out, dataset = datasets()
    trainer = make_trainer(nnUNetTrainerShort, out, dataset, results=tmp_path)
    assert (trainer.num_epochs, trainer.initial_lr) == (3, 0.02)
    trainer.initialize()
    assert trainer.optimizer.param_groups[0]["lr"] == 0.02


# --------------------------------------------------------------------------------------------- teachers of other schedules


def test_a_teacher_without_warm_up_has_its_decay_from_the_first_update_on(datasets, tmp_path):
    out, dataset = datasets()
    trainer = make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path)
    trainer.build_method = lambda: setattr(trainer, "teacher", trainer.register_teacher(0.75, warmup=False))
    started(trainer)
    for decay in (0.75, 0.0):  # a method may change it; 0 copies
        trainer.teacher.decay = decay
        before = weights_of(trainer.teacher.module)
        trainer.train_step(next(trainer.dataloader_train))
        student = weights_of(trainer.network)
        expected = {k: decay * before[k] + (1 - decay) * student[k] for k in student}
        assert largest_difference(expected, weights_of(trainer.teacher.module)) < 1e-6
        assert trainer.teacher.current_decay == decay


def test_a_teacher_may_be_the_average_of_a_head(datasets, tmp_path):
    out, dataset = datasets()
    trainer = make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path)
    trainer.initialize()
    head = trainer.register_module("head", torch.nn.Conv2d(2, 3, 1))
    teacher = trainer.register_teacher(0.5, "head_teacher", head, warmup=False)
    features = torch.ones(1, 2, 4, 4)
    (output,) = teacher(features)
    assert torch.equal(output, head(features)) and not output.requires_grad
    before = weights_of(teacher.module)
    with torch.no_grad():
        head.module.bias += 1
    teacher.update()
    assert torch.allclose(teacher.module.bias, before["bias"] + 0.5)
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    members = torch.load(tmp_path / "checkpoint.pth", weights_only=False)["ssl_state"]["members"]
    assert largest_difference(members["head_teacher"], weights_of(teacher.module)) == 0


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_scale_weights_are_those_of_nnunets_loss(deep_supervision, datasets, tmp_path):
    out, dataset = datasets()
    trainer = make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path, enable_deep_supervision=deep_supervision)
    started(trainer)
    batch = next(trainer.dataloader_train)
    targets = batch["target"] if deep_supervision else [batch["target"]]
    scales = trainer.student(batch["data"])
    assert len(trainer.scale_weights) == len(scales) == len(targets)
    single = trainer.loss.loss if deep_supervision else trainer.loss
    by_hand = sum(w * single(h, t) for w, h, t in zip(trainer.scale_weights, scales, targets))
    assert float(by_hand) == pytest.approx(float(trainer.supervised_loss(scales, batch["target"], None)), rel=1e-6)


# ------------------------------------------------------------------------------------- maps made of the labeled target


def _count_foreground(target):
    return {"voxels": (target > 0).flatten(1).sum(1), "shape": torch.tensor(target.shape)}


class _WithExtras(nnUNetTrainerSSL):
    def labeled_extras(self):
        return _count_foreground

    def terms(self, batch):
        self.seen = batch.extras, batch.target
        return self.labeled_terms(batch)

    def weights(self):
        return {"unused": 1.0}


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_labeled_extras_come_from_the_target_at_full_resolution(datasets, tmp_path, deep_supervision):
    out, dataset = datasets()
    trainer = started(
        make_trainer(_WithExtras, out, dataset, results=tmp_path, enable_deep_supervision=deep_supervision)
    )
    trainer.train_step(next(trainer.dataloader_train))
    extras, target = trainer.seen
    target = target[0] if deep_supervision else target
    assert sorted(extras) == ["shape", "voxels"]
    assert torch.equal(extras["voxels"], (target > 0).flatten(1).sum(1))
    assert extras["shape"].tolist() == list(target.shape)
    assert "extra/voxels" not in next(trainer.dataloader_val)


@pytest.mark.parametrize("regions", [True, False])
def test_annotated_voxels_are_those_without_the_ignore_label(datasets, tmp_path, regions):
    out, dataset = datasets(ignore=True, regions=regions)
    trainer = started(make_trainer(_WithExtras, out, dataset, results=tmp_path))
    ignore = trainer.label_manager.ignore_label
    labels = torch.tensor([0, 1, ignore]).view(1, 1, 1, 3)
    target = torch.cat([labels > 0, labels > 1, labels == ignore], 1) if regions else labels
    assert trainer.annotated([target, target]).flatten().tolist() == [True, True, False]
    out, dataset = datasets()
    trainer = started(make_trainer(_WithExtras, out, dataset, results=tmp_path))
    assert trainer.annotated(labels).all()
