"""What every trainer must keep, asked of all of them.

The lists come from the classes: the folder of `trainers/` says which labels a trainer is for. What single methods need stands in
`tests/helpers/trainers.py`. `--trainer NAME` asks it of a trainer that is no part of this package.
"""

from __future__ import annotations

import inspect
import pickle
import statistics

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

import nnunet_ssl.engine.optimization
from nnunet_ssl.data.model_files import read_checkpoint
from nnunet_ssl.engine.curves import Curves
from nnunet_ssl.engine.members import NetworkMember, Teacher
from nnunet_ssl.engine.prediction import inference_network_in_place
from nnunet_ssl.errors import UserError
from tests.golden.framework import adapter_names, load_adapter, record_calls
from tests.helpers.trainers import (
    CLASSES,
    GUESTS,
    PARTIAL,
    SPARSE,
    SPARSE_TEST_ONLY,
    UNLABELED,
    UNLABELED_TEST_ONLY,
    WEIGHTED,
    WHOLE_PATCHES,
    hide_labels,
    needs,
    next_batches,
    past_every_switch,
    past_every_switch_and_update,
    run_steps,
    stock_step,
)
from tests.helpers.training import (
    copy_batch,
    copy_dataset,
    largest_difference,
    make_trainer,
    seed_everything,
    started,
    weights_of,
)

CONTROLS = [name for name in UNLABELED if not CLASSES[name].needs_unlabeled]
SEMI_SUPERVISED = [name for name in UNLABELED if name not in CONTROLS] + UNLABELED_TEST_ONLY
WEAK = SPARSE + SPARSE_TEST_ONLY
TRAINERS = SEMI_SUPERVISED + CONTROLS + WEAK + PARTIAL

each_trainer = pytest.mark.parametrize("name", TRAINERS)
each_semi_supervised_trainer = pytest.mark.parametrize("name", SEMI_SUPERVISED)
each_dimension = pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])


def test_every_trainer_is_of_one_kind():
    assert sorted(UNLABELED + SPARSE + PARTIAL) == sorted(CLASSES)


@each_trainer
def test_found_by_nnunet_with_its_constructor(name):
    cls = recursive_find_trainer_class_by_name(name)
    if name not in GUESTS:  # nnU-Net imports other people's anew each time
        assert cls is recursive_find_trainer_class_by_name(name)
        assert pickle.loads(pickle.dumps(cls)) is cls
    ours, theirs = inspect.signature(cls.__init__), inspect.signature(nnUNetTrainer.__init__)
    assert list(ours.parameters) == list(theirs.parameters)
    assert [p.default for p in ours.parameters.values()] == [p.default for p in theirs.parameters.values()]
    assert "plans_manager" in inspect.signature(cls.build_network_architecture).parameters


def is_network(member) -> bool:
    """Whether a member segments: the average of a head is called like a network, but does not."""
    return is_network(member.source) if isinstance(member, Teacher) else isinstance(member, NetworkMember)


@each_trainer
@each_dimension
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_a_step_trains(name, configuration, deep_supervision, datasets, tmp_path, monkeypatch):
    out, dataset = datasets(**needs(name))
    trainer = make_trainer(
        name, out, dataset, configuration, results=tmp_path, enable_deep_supervision=deep_supervision
    )
    files = {"progress_ssl.png", "checkpoint_best.pth", "split.json"}
    if (configuration, deep_supervision) != ("2d", True):
        # the figures know the terms, but neither dimensions nor scales, and took most of the time of this test
        files.remove("progress_ssl.png")
        monkeypatch.setattr(Curves, "plot", lambda *_: None)
        monkeypatch.setattr(type(trainer.logger), "plot_progress_png", lambda *_: None)
    if not deep_supervision and "no_deep_supervision" in trainer.unsupported:
        with pytest.raises(NotImplementedError, match="'no_deep_supervision'"):
            trainer.initialize()
        return
    started(trainer)
    assert list(trainer.networks) == ["student", *(m.name for m in trainer.members if is_network(m))]
    before = weights_of(trainer.network)
    past_every_switch(trainer)
    outputs = run_steps(trainer, next_batches(trainer, 2))
    assert outputs[0].keys() == outputs[1].keys() >= {"loss", "labeled", *trainer.weights(), *trainer.term_patches}
    assert all(isinstance(v, np.ndarray) and v.shape == () and np.isfinite(v) for o in outputs for v in o.values())
    assert largest_difference(before, weights_of(trainer.network)) > 0
    trainer.on_train_epoch_end(outputs)
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        validation = [trainer.validation_step(copy_batch(next(trainer.dataloader_val)))]
    trainer.on_validation_epoch_end(validation)
    trainer.on_epoch_start(), trainer.on_epoch_end()
    for file in files:
        assert list((tmp_path / dataset).rglob(file)), file


@each_trainer
@pytest.mark.parametrize(
    "options",
    [
        {"regions": True},
        {"ignore": True},
        {"regions": True, "ignore": True},
        {"residual": True},
        {"channels": 2, "mask_norm": True},
    ],
    ids=lambda o: "+".join(o),
)
def test_a_step_trains_with_every_kind_of_label_and_network(name, options, datasets, tmp_path):
    out, dataset = datasets(**needs(name, **options))
    trainer = make_trainer(name, out, dataset, "2d", results=tmp_path)
    if "regions" in options and "regions" in trainer.unsupported:
        with pytest.raises(NotImplementedError, match="'regions'"):
            trainer.initialize()
        return
    if "ignore" in options and name in WHOLE_PATCHES:
        with pytest.raises(UserError, match="which such labels do not tell"):
            started(trainer)
        return
    started(trainer)
    past_every_switch_and_update(trainer)
    before = weights_of(trainer.network)
    outputs = run_steps(trainer, next_batches(trainer, 3))  # after two updates a teacher is still equal to its student
    assert all(np.isfinite(v) for o in outputs for v in o.values())
    # the baseline for sparse labels has no term of its own, those for partial labels change the labeled loss; a log barrier is
    # negative where its constraint holds
    assert name in PARTIAL or not trainer.weights() or any(o[term] != 0 for o in outputs for term in trainer.weights())
    assert largest_difference(before, weights_of(trainer.network)) > 0


@each_semi_supervised_trainer
def test_unequal_batches_and_no_assumption_of_halves(name, datasets, tmp_path):
    out, dataset = datasets(**needs(name))
    trainer = started(make_trainer(name, out, dataset, results=tmp_path, unlabeled_batch_size=3))
    past_every_switch(trainer)
    (batch,) = next_batches(trainer)
    assert batch["data"].shape[0] == 2 and batch["unlabeled"].shape[0] == 3
    assert all(np.isfinite(v) for v in trainer.train_step(batch).values())


@pytest.mark.parametrize(
    "name", SEMI_SUPERVISED + WEAK
)  # the others change the labeled loss and have no term of their own
def test_terms_of_the_method_reach_the_student_and_never_the_teacher(name, datasets, tmp_path, monkeypatch):
    out, dataset = datasets(**needs(name))
    trainer = started(make_trainer(name, out, dataset, results=tmp_path))
    if not trainer.weights():
        pytest.skip(f"{name} has no terms beside nnU-Net's loss")
    past_every_switch_and_update(trainer)
    run_steps(trainer, next_batches(trainer, 3))  # so that teacher and student differ
    method_weights = trainer.weights
    trainer._weight_names = None
    labeled = dict.fromkeys((trainer.labeled_name(m) for m in trainer.supervised_networks()), 0.0)
    trainer.weights = lambda: labeled | method_weights()
    teachers = [m for m in trainer.members if isinstance(m, Teacher)]
    state = [weights_of(t.module) for t in teachers]
    gradients = {}
    monkeypatch.setattr(
        nnunet_ssl.engine.optimization,
        "step_optimizers",
        lambda *_: gradients.update(
            {n: p.grad.abs().max() for n, p in trainer.network.named_parameters() if p.grad is not None}
        ),
    )
    trainer.train_step(next_batches(trainer)[0])
    assert gradients and max(gradients.values()) > 0
    for teacher, before in zip(teachers, state, strict=True):
        assert all(p.grad is None and not p.requires_grad for p in teacher.module.parameters())
        assert largest_difference(before, weights_of(teacher.module)) == 0


@each_trainer
def test_teachers_follow_the_student_exactly(name, datasets, tmp_path):
    out, dataset = datasets(**needs(name))
    trainer = started(make_trainer(name, out, dataset, results=tmp_path))
    teachers = [m for m in trainer.members if isinstance(m, Teacher)]
    expected = [weights_of(t.module) for t in teachers]
    updates = [0] * len(teachers)
    for batch in next_batches(trainer, 3):
        trainer.train_step(batch)
        for i, teacher in enumerate(teachers):
            if not teacher.updating:  # it is another one's turn
                assert largest_difference(expected[i], weights_of(teacher.module)) == 0
                continue
            updates[i] += 1
            decay = min(1 - 1 / updates[i], teacher.decay) if teacher.warmup else teacher.decay
            student = weights_of(teacher.source.module)
            expected[i] = {k: decay * expected[i][k] + (1 - decay) * student[k] for k in student}
            assert largest_difference(expected[i], weights_of(teacher.module)) < 1e-6


def weighted(names) -> list[str]:
    return [name for name in names if WEIGHTED.get(name) is not None]


def test_every_trainer_with_terms_of_its_own_is_compared_with_nnunet():
    assert WEIGHTED.keys() >= {*UNLABELED, *SPARSE}
    assert not [name for name in weighted(UNLABELED + SPARSE) if CLASSES[name].replaces_labeled_loss]


@pytest.mark.parametrize("options", [{}, {"regions": True}, {"ignore": True}], ids=str)
@pytest.mark.parametrize("name", weighted(SEMI_SUPERVISED))
@pytest.mark.parametrize("weight", [0.0, 1e-30])
def test_without_weight_the_step_is_nnunets_bit_for_bit(name, weight, options, datasets, tmp_path):
    if "ignore" in options and name in WHOLE_PATCHES:
        pytest.skip(f"{name} refuses labels of which every patch has ignored voxels")
    out, dataset = datasets(**needs(name, **options))
    trainer = started(make_trainer(name, out, dataset, results=tmp_path / "a", **WEIGHTED[name](weight)))
    start = weights_of(trainer.network)
    (batch,) = next_batches(trainer)
    loss = trainer.train_step(copy_batch(batch))["labeled"]
    expected, expected_loss = stock_step(out, dataset, tmp_path / "b", start, batch)
    assert torch.get_num_threads() == 1
    # Only a parameter that is 0, with a gradient of exactly 0 in nnU-Net's step, can show a difference this small: it is
    # the term of weight 1e-30 itself. Any other parameter would have to be equal to the last bit.
    assert largest_difference(expected, weights_of(trainer.network)) <= weight
    assert loss == expected_loss


@pytest.mark.parametrize("options", [{}, {"regions": True}], ids=str)
@pytest.mark.parametrize("name", weighted(WEAK))
@pytest.mark.parametrize("weight", [0.0, 1e-30])
def test_without_weight_a_step_on_sparse_labels_is_nnunets_bit_for_bit(name, weight, options, datasets, tmp_path):
    out, dataset = datasets(**needs(name, **options))
    trainer = make_trainer(name, out, dataset, results=tmp_path / "a", **WEIGHTED[name](weight))
    if options and "regions" in trainer.unsupported:
        pytest.skip(f"{name} refuses regions")
    started(trainer)
    past_every_switch(trainer)
    start = weights_of(trainer.network)
    (batch,) = next_batches(trainer)
    loss = trainer.train_step(copy_batch(batch))["labeled"]
    expected, expected_loss = stock_step(out, dataset, tmp_path / "b", start, batch)
    # The gradient of logits that were turned lies in memory in another order, with which convolutions differ in the last bit.
    most = 1e-8 if name == "nnUNetTrainerScribbleUSTM" else 0
    assert largest_difference(expected, weights_of(trainer.network)) <= max(weight, most)  # see above
    assert loss == expected_loss


@pytest.mark.parametrize("name", WEAK)
def test_labels_that_are_not_sparse_are_refused(name, datasets, tmp_path):
    out, dataset = datasets()
    with pytest.raises(UserError, match="have no 'ignore'"):
        make_trainer(name, out, dataset, results=tmp_path).initialize()


def test_without_weight_no_unlabeled_patch_is_looked_at(datasets, tmp_path):
    out, dataset = datasets()
    trainer = started(make_trainer("nnUNetTrainerMeanTeacher", out, dataset, results=tmp_path, consistency_weight=0.0))
    (batch,) = next_batches(trainer)
    batch["unlabeled"].fill_(float("nan"))
    assert np.isfinite(trainer.train_step(batch)["loss"])
    assert trainer.nonfinite.skipped == 0


@each_trainer
def test_save_load_step_equals_step(name, datasets, tmp_path):
    out, dataset = datasets(**needs(name))
    attributes = {"results": tmp_path, "num_epochs": 2, "num_iterations_per_epoch": 2}
    trainer = started(make_trainer(name, out, dataset, **attributes))
    batches = next_batches(trainer, 4)
    outputs = run_steps(trainer, batches[:2])
    trainer.on_train_epoch_end(outputs)
    trainer.current_epoch = 0
    file = tmp_path / "checkpoint.pth"
    trainer.save_checkpoint(str(file))
    # the pool may restart loaders and draw random numbers; what is compared is the step
    updates = {teacher.name: teacher.updates for teacher in trainer.members.teachers}
    expected = []
    for batch in batches[2:]:
        expected += run_steps(trainer, [batch])
        for teacher in trainer.members.teachers:
            updates[teacher.name] += teacher.updating  # of several the turns are the method's

    other = make_trainer(name, out, dataset, **attributes)
    seed_everything(7)
    other.initialize()
    other.load_checkpoint(str(file))
    # names of views come with the loaders, which would draw random numbers here
    for names in ("view_names", "labeled_view_names", "further_view_names"):
        setattr(other, names, getattr(trainer, names))
    other.lr_scheduler.step(0)
    for member in other.members:
        if member.optimizer is not None and not member.has_own_schedule:
            member.scheduler.step(0)
    other.network.train()
    found = run_steps(other, batches[2:])
    assert found == expected
    assert other.iteration == trainer.iteration == 4
    assert other._pool == trainer._pool
    assert largest_difference(weights_of(trainer.network), weights_of(other.network)) == 0
    for key, member in ((m.name, m) for m in trainer.members):
        assert largest_difference(weights_of(member.module), weights_of(other.members[key].module)) == 0
        if isinstance(member, Teacher):
            assert member.updates == other.members[key].updates == updates[key]
    for key, state in trainer.members.states.items():
        assert state.state_dict() == other.members.states[key].state_dict()
    assert other.curves.values == trainer.curves.values


@each_trainer
def test_stock_network_loads_network_weights_and_predicts_like_the_validated_network(name, datasets, tmp_path):
    out, dataset = datasets(**needs(name))
    trainer = started(make_trainer(name, out, dataset, results=tmp_path))
    run_steps(trainer, next_batches(trainer, 2))
    file = tmp_path / "checkpoint.pth"
    trainer.save_checkpoint(str(file))
    checkpoint = torch.load(file, weights_only=False)
    stock = make_trainer("nnUNetTrainer", out, dataset, results=tmp_path / "stock")
    stock.initialize()
    stock.network.load_state_dict(checkpoint["network_weights"], strict=True)
    image = torch.randn(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = trainer.inference_network()(image)[0]
        assert torch.equal(stock.network.eval()(image)[0], expected)
    with inference_network_in_place(trainer), torch.no_grad():
        assert torch.equal(trainer.network(image)[0], expected)
    assert checkpoint["trainer_name"] == name
    assert read_checkpoint(file)["ssl_state"].keys() == checkpoint["ssl_state"].keys()  # nothing in it needs --trust


@each_semi_supervised_trainer
def test_labels_that_are_hidden_are_never_read(name, tmp_path, datasets):
    out, dataset = datasets(**needs(name))
    out = copy_dataset(out, tmp_path / "data")
    folder = out / "nnUNet_preprocessed" / dataset
    hide_labels(folder, ["case_00", "case_01"])
    outputs = []
    for garbage in (False, True):
        if garbage:
            overwrite_labels(folder, ["case_00", "case_01"])
        trainer = make_trainer(name, out, dataset, results=tmp_path / str(garbage))
        started(trainer)
        past_every_switch(trainer)
        seed_everything(1)
        batches = next_batches(trainer, 8)
        assert {"case_00", "case_01"} & {str(k) for b in batches for k in b["unlabeled_keys"]}
        outputs.append((batches, run_steps(trainer, batches), weights_of(trainer.network)))
    (clean, steps, weights), (with_garbage, other_steps, other_weights) = outputs
    for batch, other in zip(clean, with_garbage, strict=True):
        different = [key for key in batch if not same_values(batch[key], other[key])]
        assert batch.keys() == other.keys() and not different, "the loader depends on hidden labels"
    assert steps == other_steps, "equal batches, other losses: what does the trainer read?"
    assert largest_difference(weights, other_weights) == 0


def same_values(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return len(a) == len(b) and all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b))


def overwrite_labels(folder, cases):
    for configuration in folder.glob("nnUNetPlans_?d"):
        for case in cases:
            (configuration / f"{case}_seg.b2nd").write_bytes(b"this is not a segmentation")
            (configuration / f"{case}.pkl").write_bytes(b"nor are these class locations")


@each_trainer
def test_a_cascade_is_refused_with_the_reason(name, datasets, tmp_path):
    out, dataset = datasets(**needs(name))
    trainer = make_trainer(name, out, dataset, "3d_cascade_fullres", results=tmp_path)
    with pytest.raises(NotImplementedError, match="first stage's segmentations"):
        trainer.initialize()


def test_what_a_method_cannot_do_is_refused_with_its_reason(datasets, tmp_path):
    out, dataset = datasets(regions=True)
    trainer = make_trainer(
        "nnUNetTrainerMeanTeacher", out, dataset, results=tmp_path, unsupported={"regions": "needs one class per voxel"}
    )
    with pytest.raises(NotImplementedError, match=r"'regions': needs one class per voxel"):
        trainer.initialize()
    trainer.unsupported = {"region": "misspelled"}
    with pytest.raises(ValueError, match="unknown"):
        trainer.initialize()


@pytest.mark.parametrize("golden", adapter_names())
def test_what_the_golden_values_prove_is_what_the_trainer_calls(golden, datasets, tmp_path, monkeypatch):
    adapter = load_adapter(golden)
    if adapter.trainer is None:
        pytest.skip(f"{golden} belongs to no trainer of its own")
    out, dataset = datasets(**needs(adapter.trainer))
    trainer = started(make_trainer(adapter.trainer, out, dataset, results=tmp_path))
    past_every_switch(trainer)
    calls = {name: record_calls(monkeypatch, name) for name in adapter.uses}
    run_steps(trainer, next_batches(trainer, 3))  # drawing a batch is part of a step: distance maps are made there
    assert [name for name, recorded in calls.items() if not recorded] == []


# No default term may be without effect: its gradient reaches 2 % of the labeled loss's, or the trainer is named here.
SMALLEST_SHARE = 0.02
MEASURED_STEPS = 8

# trainers of which no default term reaches it, and why the default stays
WITHOUT_EFFECT = {
    "nnUNetTrainerACMT": "no voxel passes its threshold, or few with a mean that explodes: no weight repairs that",
    "nnUNetTrainerDAN": "its discriminator has seen eight batches here; on ACDC it pulls with up to 43 %",
    "nnUNetTrainerScribbleIntensityVariance": "published weight of WSL4MIS; no study has decided on another",
    "nnUNetTrainerScribbleTV": "published weight of PyMIC; no study has decided on another",
}
# nnU-Net's own loss, in this or another form: nothing beside it
NO_TERM = {"nnUNetTrainerEMA", "nnUNetTrainerScribblePCE", *PARTIAL}


def largest_shares(name: str, datasets, tmp_path) -> dict[str, list[float]]:
    """Share of each term in some steps at the end of a training, or before its end on labels alone, when all ramps are over."""
    out, dataset = datasets(**needs(name))
    trainer = started(make_trainer(name, out, dataset, results=tmp_path, num_iterations_per_epoch=1, num_epochs=1000))
    past_every_switch_and_update(trainer)
    trainer.iteration = 990
    while not any(trainer.weights().values()) and trainer.iteration > 600:
        trainer.iteration -= 10
    found: dict[str, list[float]] = {}
    for batch in next_batches(trainer, MEASURED_STEPS):
        run_steps(trainer, [batch])
        for term, share in trainer.gradient_shares.items():
            found.setdefault(term, []).append(share)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in UNLABELED + SPARSE if name not in NO_TERM])
def test_a_default_term_pulls_at_the_segmentation_layers(name, datasets, tmp_path):
    found = largest_shares(name, datasets, tmp_path)
    if name in GUESTS and not found:
        pytest.skip(f"{name} has no terms that reach the network's last layers")
    assert found
    if name in WITHOUT_EFFECT:
        medians = {term: statistics.median(shares) for term, shares in found.items()}
        assert max(medians.values()) < SMALLEST_SHARE, f"{name} no longer belongs into WITHOUT_EFFECT: {medians}"
    else:
        assert max(map(max, found.values())) >= SMALLEST_SHARE, found


@pytest.mark.parametrize(
    "name", ["nnUNetTrainerMeanTeacher", "nnUNetTrainerPseudoLabels", "nnUNetTrainerSemiSupervised"]
)
def test_classes_that_are_not_annotated_are_not_taken_for_background_silently(name, datasets, tmp_path):
    out, dataset = datasets(**needs("nnUNetTrainerPartialLabel", **needs(name), unlabeled=4))
    trainer = started(make_trainer(name, out, dataset, results=tmp_path))
    (log,) = tmp_path.rglob("training_log*.txt")
    warned = "takes what is not annotated for background" in " ".join(log.read_text().split())
    assert warned == (name != "nnUNetTrainerSemiSupervised") == (not trainer.knows_partial_labels)
