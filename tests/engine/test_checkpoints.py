"""What `nnunet_ssl.engine.checkpoints` writes: nnU-Net's own checkpoint and ours beside it, in one write."""

from __future__ import annotations

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ssl.engine.prediction import inference_network_in_place
from nnunet_ssl.errors import UserError
from tests.helpers.training import largest_difference, make_trainer, started, weights_of


def equal(first, second) -> bool:
    """Equality of nested containers that hold tensors."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


def test_all_that_nnunet_writes_is_in_our_file(datasets, tmp_path):
    trainer = started(make_trainer("nnUNetTrainerCPS", *datasets(), results=tmp_path))
    trainer.train_step(next(trainer.dataloader_train))
    ours, stock = tmp_path / "ours.pth", tmp_path / "stock.pth"
    trainer.save_checkpoint(str(ours))
    nnUNetTrainer.save_checkpoint(trainer, str(stock))
    ours, stock = (torch.load(file, weights_only=False) for file in (ours, stock))
    assert ours.keys() == stock.keys() | {"ssl_state"}
    assert stock["optimizer_state"]["state"] and stock["network_weights"]
    for key, value in stock.items():
        assert equal(value, ours[key]), key


def test_a_key_that_a_later_nnunet_adds_is_kept(datasets, tmp_path, monkeypatch):
    def later(self, filename):
        torch.save({"network_weights": self.network.state_dict(), "new": 7, "optimizer_state": None}, filename)

    trainer = started(make_trainer("nnUNetTrainerMeanTeacher", *datasets(), results=tmp_path))
    monkeypatch.setattr(nnUNetTrainer, "save_checkpoint", later)
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    found = torch.load(tmp_path / "c.pth", weights_only=False)
    assert found["new"] == 7 and found["ssl_state"]["iteration"] == 0
    assert largest_difference(found["network_weights"], trainer.teacher.module.state_dict()) == 0


def test_the_file_is_written_once(datasets, tmp_path, monkeypatch):
    trainer = started(make_trainer("nnUNetTrainerMeanTeacher", *datasets(), results=tmp_path))
    files, save = [], torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: (files.append(file), save(content, file)))
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    on_disk = [file for file in files if not hasattr(file, "read")]
    assert len(on_disk) == 1
    # what nnU-Net writes into memory on the way has no weights in it
    (memory,) = (file for file in files if hasattr(file, "read"))
    assert len(memory.getbuffer()) < 0.1 * (tmp_path / "c.pth").stat().st_size


def test_the_network_is_back_after_an_error(datasets, tmp_path, monkeypatch):
    trainer = started(make_trainer("nnUNetTrainerMeanTeacher", *datasets(), results=tmp_path))
    network, optimizer = trainer.network, trainer.optimizer

    def fails(self, filename):
        raise OSError("no space")

    monkeypatch.setattr(nnUNetTrainer, "save_checkpoint", fails)
    try:
        trainer.save_checkpoint(str(tmp_path / "c.pth"))
    except OSError as error:
        assert str(error) == "no space"
    assert trainer.network is network and trainer.optimizer is optimizer
    assert list(tmp_path.glob("*.pth")) == []


def test_both_names_of_the_argument_are_accepted(datasets, tmp_path):
    trainer = started(make_trainer("nnUNetTrainerMeanTeacher", *datasets(), results=tmp_path))
    trainer.train_step(next(trainer.dataloader_train))
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    for name in ("filename_or_checkpoint", "checkpoint"):
        other = make_trainer("nnUNetTrainerMeanTeacher", *datasets(), results=tmp_path / name)
        other.load_checkpoint(**{name: tmp_path / "c.pth"})
        assert other.iteration == 1


MEAN_TEACHER = "nnUNetTrainerMeanTeacher"


def start(out, dataset, tmp_path, **attributes):
    return started(make_trainer(MEAN_TEACHER, out, dataset, results=tmp_path / "results", **attributes))


@pytest.mark.parametrize("written_by", ["nnUNetTrainer", "nnUNetTrainerCPS"])
@pytest.mark.parametrize("name", [MEAN_TEACHER, "nnUNetTrainerSASSNet"])  # it has more in the optimizer
def test_a_checkpoint_of_another_trainer_is_validated_and_not_continued(name, written_by, datasets, tmp_path):
    out, dataset = datasets()
    one = make_trainer(written_by, out, dataset, results=tmp_path / "a")
    one.initialize()
    one.save_checkpoint(str(tmp_path / "one.pth"))
    weights = torch.load(tmp_path / "one.pth", map_location="cpu", weights_only=False)["network_weights"]
    trainer = make_trainer(name, out, dataset, results=tmp_path / "b")
    trainer.load_checkpoint(str(tmp_path / "one.pth"))
    with inference_network_in_place(trainer):
        assert largest_difference(weights, weights_of(trainer.network)) == 0
    with pytest.raises(UserError, match=rf"one\.pth has .* by {written_by}\. `--val` .*-pretrained_weights"):
        trainer.run_training()
    assert not list((tmp_path / "b").rglob("*.pth"))


DAN = "nnUNetTrainerDAN"


def written(name, datasets, tmp_path, **attributes):
    trainer = make_trainer(name, *datasets(), results=tmp_path / "before", **attributes)
    trainer.initialize()
    trainer.save_checkpoint(str(tmp_path / "before.pth"))


@pytest.mark.parametrize(
    ("name", "attributes", "part"),
    [
        (DAN, {"discriminator_sees_image": True}, "discriminator"),  # as it was before: the same names, other tensors
        ("nnUNetTrainerSemiSupervised", {"by_class": False}, "thresholds"),  # a part less
        (MEAN_TEACHER, {"noise_std": 0.3}, None),
    ],
)
def test_a_checkpoint_of_other_settings_is_continued_if_its_parts_are_the_same(
    name, attributes, part, datasets, tmp_path
):
    written(name, datasets, tmp_path, **attributes)
    ((setting, value),) = attributes.items()
    trainer = make_trainer(name, *datasets(), results=tmp_path / "now")
    trainer.load_checkpoint(str(tmp_path / "before.pth"))
    if part is not None:
        with pytest.raises(
            UserError,
            match=rf"needs \(.*{part}.*\).* other settings \({setting} = {value} \(now .*: set them as",
        ):
            trainer.on_train_start()
        again = make_trainer(name, *datasets(), results=tmp_path / "again", **attributes)
        again.load_checkpoint(str(tmp_path / "before.pth"))
        again.on_train_start()
        assert "Begun with other settings" not in "".join(f.read_text() for f in tmp_path.glob("again/**/*.txt"))
        return
    trainer.on_train_start()
    log = "".join(f.read_text() for f in tmp_path.glob("now/**/*.txt"))
    assert f"Begun with other settings: {setting} = {value} (now " in log


def test_a_network_of_other_plans_is_refused(datasets, tmp_path):
    written(MEAN_TEACHER, datasets, tmp_path)
    checkpoint = torch.load(tmp_path / "before.pth", weights_only=False)
    for weights in (checkpoint["network_weights"], checkpoint["ssl_state"]["student"]):
        weights.pop(next(iter(weights)))
    torch.save(checkpoint, tmp_path / "before.pth")
    trainer = make_trainer(MEAN_TEACHER, *datasets(), results=tmp_path / "now")
    with pytest.raises(
        UserError,
        match=r"before\.pth has other parts than .*\(network\). .* with other plans, or by another version\. `--val`",
    ):
        trainer.load_checkpoint(str(tmp_path / "before.pth"))


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

        def load_state_dict(self, state):
            """Never loaded."""

    trainer.register_state("bank", NoSpace())
    with pytest.raises(OSError, match="No space left"):
        trainer.save_checkpoint(str(file))
    assert file.read_bytes() == before
    assert trainer.network is network
    assert [f.name for f in tmp_path.iterdir() if f.is_file()] == ["checkpoint_latest.pth"]


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
