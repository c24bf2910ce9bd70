"""The seams in a real run, two processes against one, loggers, labels that are ignored."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from nnunet_ssl.errors import UserError
from nnunet_ssl.trainer import nnUNetTrainerSSL
from tests.helpers.paths import REPOSITORY
from tests.helpers.trainers import PARTIAL, SPARSE, UNLABELED, needs
from tests.helpers.training import copy_batch, largest_difference, make_trainer, started, weights_of

MEAN_TEACHER = "nnUNetTrainerMeanTeacher"


def start(out, dataset, tmp_path, **attributes):
    return started(make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path / "results", **attributes))


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


EVERY = [*UNLABELED, *SPARSE, *PARTIAL]
WITHOUT_CHANCE = {
    MEAN_TEACHER: {"noise_std": 0.0, "consistency_weight": 0.5},
    "nnUNetTrainerTestTwoNetworks": {},
    "nnUNetTrainerTestSecondDecoding": {},
    "nnUNetTrainerPseudoLabels": {"pseudo_weight": 0.5},
    "nnUNetTrainerCPS": {"rampup_fraction": 0.0},  # networks in turn, a backward pass each
    # the same with two passes each; without a step, since the sign of a gradient of rounding errors is one of chance
    "nnUNetTrainerDeepCoTraining": {"rampup_fraction": 0.0, "step": 0.0},
    # one network in two passes with a backward pass each
    "nnUNetTrainerUniMatch": {
        "earliest": 0.0,
        "competence": 0.0,
        "ramp": 0.0,
        "confidence": 0.34,
        "feature_dropout": 0.0,
        "cutmix": 0.0,
    },
    "nnUNetTrainerSemiSupervised": {"earliest": 0.0, "competence": 0.0, "ramp": 0.0, "confidence": 0.0},
    # a discriminator with Adam beside the student
    "nnUNetTrainerDAN": {"discriminator_dropout": 0.0, "rampup_fraction": 0.0},
    "nnUNetTrainerSASSNet": {"discriminator_dropout": 0.0, "rampup_fraction": 0.0, "sdf_weight": 0.0},
    # without what is drawn at random: the mixture and the dropped channels
    "nnUNetTrainerScribbleDMPLS": {"dropout": 0.0, "pseudo_weight": 0.0},
}

# terms that depend neither on the segmentation layers nor on the last decoder stage
WITHOUT_SHARE = {
    "nnUNetTrainerDAN": {"discriminator"},
    "nnUNetTrainerSASSNet": {"discriminator"},
}


@pytest.fixture(scope="module")
def both_ways(datasets, tmp_path_factory):
    """Trainer -> (its folder, itself after two steps in this process); two processes have made the same steps of all of them."""
    work = tmp_path_factory.mktemp("ddp")
    trained, jobs = {}, []
    with mock.patch.dict(os.environ):
        for name, attributes in WITHOUT_CHANCE.items():
            out, dataset = datasets(**needs(name, batch_size=4))
            attributes = {**attributes, "num_iterations_per_epoch": 2}
            trainer = started(make_trainer(name, out, dataset, results=work / name / "one", **attributes))
            trainer.iteration = 0
            batches = [next(trainer.dataloader_train) for _ in range(2)]
            for batch in batches:  # all voxels count: else the mean over counted voxels is another one per process
                if "inside" in batch:
                    batch["inside"].fill_(True)
                for target in (*batch["target"], *batch.get("unlabeled_target", ())):
                    target[target == 3] = 0  # the ignore label
            reference = {
                "start": weights_of(trainer.network),
                "members": {m.name: weights_of(m.module) for m in trainer.members},
                "batches": [copy_batch(b) for b in batches],
                "views": trainer.view_names,  # known with the loaders, which the processes do not make
            }
            job = {"name": name, "attributes": attributes, "out": out, "dataset": dataset, "work": work / name}
            jobs.append(job | {"reference": reference})
            for batch in batches:
                trainer.train_step(batch)
            trained[name] = work / name, trainer
        in_two_processes(jobs, work)
    return trained


def in_two_processes(jobs: list[dict], work: Path) -> None:
    torch.save(jobs, work / "jobs.pth")
    command = [sys.executable, "-m", "tests.helpers.ddp_worker"]
    arguments = ["2", str(work / "jobs.pth")]
    processes = [subprocess.Popen([*command, str(rank), *arguments], cwd=REPOSITORY) for rank in range(2)]
    assert [p.wait(timeout=600) for p in processes] == [0, 0]


@pytest.mark.parametrize("name", WITHOUT_CHANCE)
def test_two_processes_train_like_one(name, both_ways):
    work, trainer = both_ways[name]
    ranks = [torch.load(work / f"rank{r}.pth", weights_only=False) for r in range(2)]
    assert ranks[0]["batch_size"] == ranks[1]["batch_size"] == (2, 2)
    for found in ranks:
        assert largest_difference(weights_of(trainer.network), found["student"]) < 1e-5
        for member in trainer.members:
            assert largest_difference(weights_of(member.module), found["members"][member.name]) < 1e-5
        assert found["gradient_shares"] == pytest.approx(trainer.gradient_shares, rel=1e-3)
    unlabeled = [term for term, weight in trainer.weights().items() if weight and not term.startswith("labeled")]
    measured = set(unlabeled) - WITHOUT_SHARE.get(name, set())
    assert ranks[0]["gradient_shares"].keys() == {f"gradient_share/{term}" for term in measured}
    assert ranks[0]["gradient_shares"] == ranks[1]["gradient_shares"]
    checkpoint = torch.load(work / "checkpoint_ddp.pth", weights_only=False)
    expected = weights_of(trainer.inference_network().module)
    assert largest_difference(expected, checkpoint["network_weights"]) < 1e-5
    assert len(checkpoint["ssl_state"]["random_states"]) == 2


@pytest.fixture(scope="module")
def of_both_processes(datasets, tmp_path_factory):
    """Trainer -> what each of two processes holds of every network, after steps with random numbers of its own."""
    work = tmp_path_factory.mktemp("ranks")
    jobs = []
    with mock.patch.dict(os.environ):
        for name in EVERY:
            out, dataset = datasets(**needs(name, batch_size=4))
            attributes = {"num_iterations_per_epoch": 4}
            jobs.append({"name": name, "attributes": attributes, "out": out, "dataset": dataset, "work": work / name})
            (work / name).mkdir()
        in_two_processes(jobs, work)
    return {
        job["name"]: [torch.load(job["work"] / f"rank{r}.pth", weights_only=False) for r in range(2)] for job in jobs
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_all_processes_hold_the_same_networks(name, of_both_processes):
    first, second = of_both_processes[name]
    assert largest_difference(first["student"], second["student"]) == 0
    for member, weights in first["members"].items():
        if member != "competence":  # counts of this process, added up between epochs
            assert largest_difference(weights, second["members"][member]) == 0, member


@pytest.mark.parametrize(
    ("name", "seldom", "more"),
    [("nnUNetTrainerSemiSupervised", 2.0, {"by_class": False, "confidence": 0.0}), ("nnUNetTrainerADMT", 0.0, {})],
    ids=["SemiSupervised where foreground is rare", "ADMT"],
)
def test_the_gate_opens_in_both_processes_in_the_middle_of_an_epoch(name, seldom, more, datasets, tmp_path):
    out, dataset = datasets(**needs(name, batch_size=4))
    attributes = {"num_epochs": 3, "num_iterations_per_epoch": 4, "num_val_iterations_per_epoch": 1}
    attributes |= {"earliest": 0.5, "competence": 0.0, "ramp": 0.0} | more  # after 6 of 12 steps
    job = {"name": name, "attributes": attributes, "out": out, "dataset": dataset, "work": tmp_path, "whole": True}
    job["seldom"] = seldom
    with mock.patch.dict(os.environ):
        in_two_processes([job], tmp_path)
    ranks = [torch.load(tmp_path / f"rank{r}.pth", weights_only=False) for r in range(2)]
    assert [found["iteration"] for found in ranks] == [12, 12]
    assert largest_difference(ranks[0]["student"], ranks[1]["student"]) == 0
    curves = [{k: v for k, v in f["curves"].items() if k.startswith(("term/", "weight/"))} for f in ranks]
    assert curves[0] == curves[1]
    unlabeled = [v for k, v in curves[0].items() if k.startswith("term/") and "labeled" not in k]
    assert unlabeled and all(first == 0 and second > 0 and third > 0 for first, second, third in unlabeled)
    places = [found["places"] for found in ranks]
    if not seldom:
        assert places == [None, None]
        return
    for table in ("noted", "shown"):
        assert all(torch.equal(places[0][table][k], places[1][table][k]) for k in ("places", "found"))
    assert places[0]["shown"]["found"].sum() > 0


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


def test_a_user_folder_of_two_lines_takes_effect(datasets, tmp_path):
    class nnUNetTrainerShort(nnUNetTrainerSSL):
        num_epochs = 3
        initial_lr = 0.02

    out, dataset = datasets()
    trainer = make_trainer(nnUNetTrainerShort, out, dataset, results=tmp_path)
    assert (trainer.num_epochs, trainer.initial_lr) == (3, 0.02)
    trainer.initialize()
    assert trainer.optimizer.param_groups[0]["lr"] == 0.02


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


@pytest.mark.parametrize("regions", [True, False])
def test_annotated_voxels_are_those_without_the_ignore_label(datasets, tmp_path, regions):
    out, dataset = datasets(ignore=True, regions=regions)
    trainer = started(make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path))
    ignore = trainer.label_manager.ignore_label
    labels = torch.tensor([0, 1, ignore]).view(1, 1, 1, 3)
    target = torch.cat([labels > 0, labels > 1, labels == ignore], 1) if regions else labels
    assert trainer.annotated([target, target]).flatten().tolist() == [True, True, False]
    out, dataset = datasets()
    trainer = started(make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path))
    assert trainer.annotated(labels).all()


def test_a_fold_that_another_process_trains_is_refused(datasets, tmp_path):
    trainer = make_trainer(MEAN_TEACHER, *datasets(), results=tmp_path)
    trainer.initialize()
    hold = "import sys; from pathlib import Path; from nnunet_ssl.data.locks import only_writer\n"
    hold += "with only_writer(Path(sys.argv[1])): print('has it', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", hold, trainer.output_folder]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "has it\n"
        with pytest.raises(UserError, match=f"is in use by process {other.pid}"):
            trainer.on_train_start()
        other.stdin.close()
    trainer.on_train_start()


def test_lower_scales_without_a_loss_do_not_stop_two_processes(datasets, tmp_path):
    name = "nnUNetTrainerMCNet"
    out, dataset = datasets(**needs(name, batch_size=4))
    attributes = {"num_epochs": 1, "num_iterations_per_epoch": 3, "num_val_iterations_per_epoch": 1}
    attributes |= {"auxiliary_weight": 0.0}  # the further decoders have a loss on the highest scale alone
    job = {"name": name, "attributes": attributes, "out": out, "dataset": dataset, "work": tmp_path, "whole": True}
    job["seldom"] = 0.0
    with mock.patch.dict(os.environ):
        in_two_processes([job], tmp_path)
    first, second = (torch.load(tmp_path / f"rank{r}.pth", weights_only=False) for r in range(2))
    assert first["iteration"] == second["iteration"] == 3
    assert largest_difference(first["student"], second["student"]) == 0
