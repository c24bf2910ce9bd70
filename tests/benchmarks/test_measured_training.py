"""nnU-Net's training with a stopwatch: steps, memory, validation, and the arguments."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import measured_training
from nnunet_ssl.discovery.variants import find_trainer
from nnunet_ssl.engine.configurable import ConfigurableTrainer
from tests.helpers.training import make_trainer, started

MEAN_TEACHER = "nnUNetTrainerMeanTeacher"


def test_arguments_go_to_nnunet_and_settings_to_the_class(monkeypatch, tmp_path, capsys):
    seen = {}
    monkeypatch.setattr(measured_training, "measure", lambda *given: seen.update(measured=given))
    monkeypatch.setattr(measured_training, "run_training_entry", lambda: seen.update(argv=sys.argv))
    monkeypatch.setattr(measured_training, "become_idle", lambda: seen.update(idle=True))
    name = f"{MEAN_TEACHER}_3epochs_seed654"
    words = ["--measured", str(tmp_path / "m.json"), "--threads", "1", "--idle", "--disable_tta"]
    others = ["101", "3d_fullres", "0", "-device", "cpu", "--c"]
    monkeypatch.setattr(sys, "argv", ["measured_training.py", *words, *others, "-tr", name, "--set", "ema_decay=0.5"])
    measured_training.main()
    cls = find_trainer(name)
    assert seen["measured"] == (cls, tmp_path / "m.json", 1, True, False, "float32") and seen["idle"]
    assert seen["argv"] == ["nnUNetv2_train", *others, "-tr", name]
    assert cls.ema_decay == 0.5 and find_trainer(MEAN_TEACHER).ema_decay != 0.5
    assert "_do_i_compile" not in vars(cls)
    monkeypatch.setattr(sys, "argv", ["measured_training.py", *words, "-tr", name, "--compile"])
    measured_training.main()
    assert seen["measured"][-1] == "float32 compiled" and vars(cls)["_do_i_compile"](None)
    monkeypatch.setattr(sys, "argv", ["measured_training.py", *words, "-tr", name, "--set", "decay=0.5"])
    with pytest.raises(SystemExit):
        measured_training.main()
    assert "has no such attribute" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nnUNetTrainer", MEAN_TEACHER])
def test_steps_are_timed_and_memory_is_measured(name, datasets, tmp_path):
    out, dataset = datasets()
    cls = find_trainer(f"{name}_2epochs_2iters_seed987")
    file = tmp_path / "measured.json"
    measured_training.measure(cls, file, threads=1)
    trainer = started(make_trainer(cls, out, dataset, results=tmp_path))
    for _ in range(2):
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        outputs = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(2)]
        trainer.on_train_epoch_end(outputs)
        trainer.on_validation_epoch_start()
        with torch.no_grad():
            trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val))])
        trainer.on_epoch_end()
        measured = json.loads(file.read_text())
        assert len(measured["seconds"]) == 2 * trainer.current_epoch and min(measured["seconds"]) > 0
        assert len(measured["cpu_seconds"]) == 2 * trainer.current_epoch and min(measured["cpu_seconds"]) > 0
    assert measured["memory"] == "RSS" and 2**26 < measured["peak_memory_bytes"] < 2**36
    assert torch.load(next(tmp_path.rglob("checkpoint_latest.pth")), weights_only=False)["current_epoch"] == 1
    assert "train_step" not in vars(ConfigurableTrainer)


def test_validation_is_made_without_mirroring_or_left_out(datasets, tmp_path, monkeypatch):
    out, dataset = datasets()
    seen = []
    monkeypatch.setattr(
        ConfigurableTrainer,
        "perform_actual_validation",
        lambda self, save_probabilities=False: seen.append(self.inference_allowed_mirroring_axes),
        raising=False,
    )
    for epochs, options in ((3, {"mirroring": False}), (4, {}), (5, {"validation": False})):
        cls = find_trainer(f"nnUNetTrainer_{epochs}epochs_seed987")
        measured_training.measure(cls, tmp_path / "measured.json", **options)
        trainer = make_trainer(cls, out, dataset, results=tmp_path)
        trainer.inference_allowed_mirroring_axes = (0, 1)
        Path(trainer.output_folder).mkdir(parents=True, exist_ok=True)
        trainer.perform_actual_validation()
        assert trainer.inference_allowed_mirroring_axes == (0, 1)
        record = Path(trainer.output_folder) / measured_training.VALIDATED
        expected = None if options == {"validation": False} else {"mirroring": not options}
        assert (json.loads(record.read_text()) if record.is_file() else None) == expected
    assert seen == [None, (0, 1)]


def test_networks_in_bfloat16_train_and_their_copies_compute_with_their_own_weights(datasets, tmp_path):
    out, dataset = datasets()
    cls = find_trainer("nnUNetTrainerMeanTeacher_3epochs_seed986")
    measured_training.in_bfloat16(cls)
    trainer = make_trainer(cls, out, dataset, results=tmp_path)
    trainer.initialize()
    network, teacher = trainer.network, trainer.teacher.module
    seen = []
    network.encoder.stages[0].register_forward_hook(lambda module, given, output: seen.append(output[0].dtype))
    image = torch.randn(1, 1, *trainer.configuration_manager.patch_size)
    before = network(image)
    assert seen == [torch.bfloat16] and {z.dtype for z in before} == {torch.float32}
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    with torch.no_grad():
        teacher.decoder.seg_layers[-1].bias += 1
    assert torch.equal(network(image)[0], before[0]) and not torch.equal(teacher(image)[0], before[0])
