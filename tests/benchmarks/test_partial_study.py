"""The study of partial labels: its commands, its table, and what it refuses. The trainings are those of the quick study."""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
import pytest

from benchmarks import partial_study, quick_study
from nnunet_ssl.commands import load
from nnunet_ssl.discovery.variants import find_trainer


def settings(tmp_path):
    return quick_study.settings_of(
        quick_study.parse_arguments(["ACDC", "--out", str(tmp_path), "--data", str(tmp_path), "--labeled", "20"])
    )


def test_the_partial_data_set_is_made_from_the_full_one_and_prepared_alike(tmp_path):
    steps = partial_study.preparing_steps(settings(tmp_path), 2)
    assert len({step.name for step in steps}) == len(steps)
    words = [list(map(str, step.action)) for step in steps]
    assert [w[1] if w[0] == "nnunet_ssl" else w[2] for w in words] == [
        *("convert", "plan_and_preprocess", "nnunet_ssl.plans.small"),
        *("weaken", "plan_and_preprocess", "nnunet_ssl.plans.small"),
    ]
    full, weaken, partial = words[1:3], words[3], words[4:]
    options = " ".join(weaken[2:])
    assert options == "-d 27 -o 227 --kind partial -name ACDC_partial --annotated RV MLV,LVC -np 2"
    for one, other in zip(full, partial, strict=True):
        assert [word if word != "27" else "227" for word in one] == other
    for command in (full[0], partial[0]):
        parser = argparse.ArgumentParser()
        load(command[1]).add_arguments(parser)
        parser.parse_args(command[2:])
    for _, trainer in partial_study.RUNS.values():
        find_trainer(f"{trainer}_6epochs_250iters_seed0")


def summary(dice: dict[str, tuple[float, float]]) -> pd.DataFrame:
    rows = []
    for trainer, (rv, lv) in dice.items():
        for metric, unit, scale in (("Dice", "%", 1), ("95HD", "mm", 0.1)):
            for name, value in (("RV", rv), ("LVC", lv), (quick_study.FOREGROUND, (rv + lv) / 2)):
                rows.append({"trainer": trainer, "class": name, "metric": metric, "unit": unit, "mean": value * scale})
    return pd.DataFrame(rows)


def test_the_table_shows_how_much_of_the_way_to_full_labels_is_made():
    trainings = {
        what: [quick_study.Training(trainer, seed, 2, 5) for seed in (0, 1)]
        for what, (_, trainer) in partial_study.RUNS.items()
    }
    del trainings["and pseudo labels"][1]
    dice = {
        "all classes": (80, 90),
        "missing = background": (20, 30),
        "candidate sets": (65, 75),
        "and pseudo labels": (70, 80),
    }
    summaries = {}
    for seed in (0, 1):
        for pack in partial_study.packs():
            of_pack = {
                t.name: dice[what]
                for what, ts in trainings.items()
                for t in ts
                if t.seed == seed and partial_study.RUNS[what][0] == pack
            }
            summaries[pack, seed] = summary(of_pack)
    table = partial_study.study_table(trainings, summaries)
    assert len(table) == 7
    row = table[(table["labels"] == "candidate sets") & (table["seed"] == 1)].iloc[0]
    assert (row["Dice RV"], row["Dice LVC"], row["Dice mean"], row["gained"]) == (65, 75, 70, 75)
    assert row["95HD mean"] == pytest.approx(7)
    text = partial_study.report(table, [["data", "ACDC"]], ["and pseudo labels, seed 1"])
    assert "Not finished, and so not in the table: and pseudo labels, seed 1" in text and "Means over seeds" in text
    only_one = {"candidate sets": trainings["candidate sets"]}
    assert np.isnan(partial_study.study_table(only_one, summaries)["gained"]).all()


def test_a_trainer_cannot_be_named_and_help_needs_no_data(tmp_path, capsys):
    assert partial_study.main(["--out", str(tmp_path), "-tr", "nnUNetTrainerCPS"]) == 1
    assert "the trainers of this study are fixed" in capsys.readouterr().err
    assert partial_study.main(["-h"]) == 0
    assert "candidate sets" in capsys.readouterr().out
