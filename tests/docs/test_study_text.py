"""Figures in the text of docs/studies against the files that they are of."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from benchmarks.studies import STUDIES as ALL_STUDIES
from benchmarks.studies import UNLABELED
from benchmarks.study_report import Results
from tests.helpers.paths import REPOSITORY

STUDIES = REPOSITORY / "docs" / "studies"
PAGES = ("README", "semi_supervised", "methods")
TEXT = "\n".join((STUDIES / f"{page}.md").read_text(encoding="utf-8") for page in PAGES) + "\n## "
ACDC = pd.read_csv(STUDIES / "ACDC_2.5mm.csv")
PATIENT = "patient039"
FIRST = "SemiSupervised, first form"
NUMBERS = {
    16: "sixteen",
    17: "seventeen",
    18: "eighteen",
    19: "nineteen",
    20: "twenty",
    21: "twenty-one",
    22: "twenty-two",
    23: "twenty-three",
    24: "twenty-four",
}
SEEDS = {1: "one seed", 2: "two seeds", 3: "three seeds"}


def section(head: str) -> str:
    """What stands below a heading, in one line."""
    (found,) = re.findall(rf"^## {re.escape(head)}\n(.*?)\n(?=#)", TEXT, re.MULTILINE | re.DOTALL)
    return " ".join(found.split())


def gains(data: str, row: str, to: str = "nnU-Net", data_to: str | None = None) -> pd.Series:
    """Difference in Dice of every cell of the seeds that both rows have."""
    keys = ["seed", "patient", "case", "class"]
    one, two = (
        ACDC[(ACDC["data"] == d) & (ACDC["row"] == r)].set_index(keys)["Dice"]
        for d, r in ((data, row), (data_to or data, to))
    )
    return (one - two).dropna()


def of_frames(values: pd.Series, name: str = "RV") -> pd.Series:
    """Mean over seeds of one class, by frame, the lowest first."""
    return values.xs(name, level="class").groupby("case").mean().sort_values()


def test_what_one_patient_gains():
    text = section("One patient")
    of_patients = [gains(data, FIRST).groupby("patient").mean() for data in ("ACDC3", "ACDC5", "ACDC7")]
    one, *others = (f"{values[PATIENT]:.0f}" for values in of_patients)
    assert f"{one} Dice with 3 labeled patients, {others[0]} with 5 (one seed), {others[1]} with 7" in text
    medians = [f"{values.round(6).median():.1f}" for values in of_patients]
    assert f"over the ten patients is {medians[0]}, {medians[1]} and {medians[2]}" in text
    means = [f"{values.drop(PATIENT).mean():.1f}" for values in of_patients]
    assert f"the means are {means[0]}, {means[1]} and {means[2]}" in text
    of_labels = gains("ACDCall", "all labels", data_to="ACDC7").groupby("patient").mean()[PATIENT]
    assert f"gains {of_labels:.0f} above 7 labels" in text


def test_where_it_loses_with_7_patients_and_with_all():
    frames = of_frames(gains("ACDC7", FIRST))
    text = section("ACDC 7")
    patients = [int(case[7:10]) for case in frames.index[:3]]
    lost = [f"{-value:.0f}" for value in frames[:3]]
    assert (
        f"patients {patients[0]}, {patients[1]} and {patients[2]}: {lost[0]}, {lost[1]} and {lost[2]} Dice below"
        in text
    )
    best = frames[[case for case in frames.index if case.startswith(PATIENT)]]
    assert f"gains {best.mean():.0f} Dice in the right ventricle of patient 39" in text
    last = gains("ACDC7", "SemiSupervised, first form, labels last")
    of_classes, of_patients = last.groupby("class").mean(), last.groupby("patient").mean()
    assert f"{of_classes['RV']:.1f} in the right ventricle, is better in" in text
    assert f"better in {(of_patients > 0).sum()} of the {len(of_patients)} patients" in text
    results = Results(ALL_STUDIES["ACDC_7"])
    gained = results.difference("SemiSupervised, first form, labels last").text(sign="")
    above = results.row_minus("SemiSupervised, first form, labels last", FIRST).text(sign="")
    assert f"it gains {gained}, " in text and f"and {above} above the first form: three seeds" in text
    labels = of_frames(gains("ACDCall", "all labels", data_to="ACDC7"))
    assert f"all labels does the same ({-labels[frames.index[0]]:.0f} below nnU-Net" in text

    again = gains("ACDCagain", "SemiSupervised, all labels, first form", "all labels", "ACDCall")
    text, of_classes = section("All labels, and the same images again"), again.groupby("class").mean()
    assert (
        f"is {-of_classes.mean():.1f} below nnU-Net" in text and f"{-of_classes['RV']:.1f} of it in the right" in text
    )
    assert f"classes are {of_classes['MLV']:.1f} and {of_classes['LVC']:.1f} better" in text
    last = gains("ACDCagain", "SemiSupervised, all labels, first form, labels last", "all labels", "ACDCall")
    of_classes = last.groupby("class").mean()
    assert f"it is {-of_classes.mean():.1f} below, {-of_classes['RV']:.1f} in the right ventricle" in text
    row, own = "SemiSupervised, all labels, rectangles", "SemiSupervised, all labels"
    present, results = gains("ACDCagain", row, "all labels", "ACDCall"), Results(ALL_STUDIES["ACDC_3"])
    of_classes, below = present.groupby("class").mean(), results.row_minus("all labels", row).text(sign="")
    seeds, of_right = SEEDS[len(results.seeds(row))], results.row_minus("all labels", row, ["RV"]).text(sign="")
    assert f"(row *rectangles*) it is {below} below ({seeds}), {of_right} in the right ventricle, " in text
    assert f"{of_classes[['MLV', 'LVC']].mean():.1f} above in the other classes" in text
    above, of_right = results.difference(own).text(sign=""), results.row_minus("all labels", own, ["RV"]).text(sign="")
    seeds, better = SEEDS[len(results.seeds(own))], results.patients_better(own).split(" / ")[0]
    assert f"is {above} above nnU-Net with all labels ({seeds}), better in {better} of the 10 patients" in text
    assert f"and {of_right} below in the right ventricle" in text
    of_seeds = [results.means(own, seed)[0] - results.means(row, seed)[0] for seed in results.seeds(own)]
    more, seeds = results.row_minus(own, row).text(sign=""), "{:.1f}, {:.1f} and {:.1f}".format(*of_seeds)
    assert f"That is {more} more than with them; of the seeds {seeds}, " in text
    worst = present.xs("RV", level="class").groupby("case").mean().nsmallest(2)
    assert all(re.search(r"_frame(?!01)", case) for case in worst.index)  # end systole
    lost = [f"{-value:.0f} in patient {int(case[7:10])}" for case, value in worst.items()]
    assert f"Most in two frames at end systole: {lost[0]}, {lost[1]}." in text
    of_classes = ACDC[ACDC["row"] == "all labels"].groupby(["seed", "class"])["Dice"].mean()
    seeds = of_classes.groupby("seed").mean()
    assert f"Three seeds of all labels differ by {seeds.max() - seeds.min():.1f}." in text
    frames = of_frames(again)[:3]
    patients, lost = [int(case[7:10]) for case in frames.index], [f"{-value:.0f}" for value in frames]
    assert f"(patients {patients[0]}, {patients[1]} and {patients[2]}: {lost[0]}, {lost[1]} and {lost[2]})" in text


def test_what_labels_last_adds():
    row = "SemiSupervised, first form, labels last"
    of_3, of_7 = (gains(pack, row, FIRST).groupby("class").mean().mean() for pack in ("ACDC3", "ACDC7"))
    again = gains(
        "ACDCagain", "SemiSupervised, all labels, first form, labels last", "SemiSupervised, all labels, first form"
    )
    of_again = again.groupby("class").mean().mean()
    of_atria = Results(ALL_STUDIES["LA_8"]).row_minus(row, FIRST).value
    assert f"{of_again:.1f}" == f"{of_atria:.1f}"
    assert (
        f"{of_7:.1f} on ACDC 7 (three seeds), {of_3:.1f} on ACDC 3 (two seeds), {of_again:.1f} on all labels again and on LA 8"
        in TEXT
    )
    assert f"On ACDC 3 it changes nothing ({of_3:.1f}, two seeds)" in section("ACDC 7") and abs(of_3) < 0.5


def test_what_rounds_gain_with_all_seeds_and_with_the_first():
    rows = ("round 1", "round 1 above 0.9", f"round of {FIRST}")
    of_seeds = [gains("ACDC3", row).groupby(["seed", "class"]).mean().groupby("seed").mean() for row in rows]
    assert [list(of_row.index) for of_row in of_seeds] == [[0], [0, 1], [0, 1, 2]]
    one, sure, own = ((f"{of_row.mean():.1f}", f"{of_row[0]:.1f}") for of_row in of_seeds)
    text = section("Rounds of nnU-Net")
    assert f"gains {one[0]} on ACDC 3 (seed 0)" in text
    assert f"above 0.9 alone: {sure[0]} (two seeds; {sure[1]} with seed 0)" in text
    assert f"the first form's give {own[0]} (three seeds; {own[1]} with seed 0)" in text
    hidden = gains("ACDC3", "round 1 above 0.9, rectangles")
    better, first = (hidden.groupby("patient").mean() > 0).sum(), hidden.xs(0, level="seed")
    both = f"{hidden.groupby('class').mean().mean():.1f}, better in {better} of the ten patients (three seeds"
    assert f"{both}; {first.groupby('class').mean().mean():.1f} with seed 0)" in text
    results, row = Results(ALL_STUDIES["ACDC_3"]), "round 1 above 0.9, rectangles"
    half = f"{row}, half of the cases"
    gained, above = results.difference(half), results.row_minus(half, row).text(sign="")
    seeds = SEEDS[len(results.seeds(half, row))]
    better, _ = results.patients_better(half).split(" / ")
    both = f"gains {gained.text(sign='')}, better in {better} of the ten patients, {above} above the round with all"
    assert f"{both} of them ({seeds})" in text
    second = "round 2 above 0.9, rectangles, after half of the cases"
    (seed,) = results.seeds(second)
    last, of_half = results.difference(second), results.row_minus(second, half).text(sign="")
    own_method = results.differences("SemiSupervised", "nnU-Net", [seed])[0]
    assert results.patients_better(second) == "10 / 0"
    passes = "with 5 times nnU-Net's passes, better in each of the ten patients"
    assert f"gains {last.text(sign='')} {passes} (seed {seed}): {of_half} above the first" in text
    assert f"as good as SemiSupervised ({own_method:.1f} with this seed)" in text
    longer = gains("ACDC3", "nnU-Net, 7/3 steps").groupby("class").mean().mean()
    assert f"2.3 times them gains {longer:.1f} with this seed" in text
    page = " ".join((REPOSITORY / "docs" / "pseudo_labels.md").read_text(encoding="utf-8").split())
    with_all = results.differences(row, "nnU-Net", results.seeds(half, row))[0]
    assert f"a round gained {gained.value:.1f} Dice ({seeds}), with" in page
    assert f"all of them {with_all:.1f} with these seeds" in page
    assert f"gained {last.value:.1f} (one seed; `nnUNetTrainerSemiSupervised` {own_method:.1f} with it)" in page
    choose = " ".join((REPOSITORY / "docs" / "choose.md").read_text(encoding="utf-8").split())
    assert f"`--drop 0.5`, as well: {gained.value:.1f} ({seeds}), and {last.value:.1f} after a second round" in choose
    above = of_seeds[1][0] - of_seeds[0][0]
    assert f"still 0.9 was {above:.1f} better than 0 with 3 patients of ACDC (one seed)" in page
    assert (
        f"it gained {own[0]} Dice (three seeds), {own[1]} with the one seed" in page
        and f"which gained {one[0]}." in page
    )


def test_what_all_labels_gain_with_8_atria():
    atria = pd.read_csv(STUDIES / "LA_3mm.csv").set_index(["data", "row", "seed", "case"])["Dice"]
    of_labels = (atria["LAall", "all labels", 0] - atria["LA8", "nnU-Net", 0]).round(1)
    own = (atria["LA8", FIRST] - atria["LA8", "nnU-Net"]).groupby("case").mean()
    first, second = of_labels.sort_values().index[[-1, -2]]
    text = section("LA 8")
    assert "Six of the ten atria gain no more than 0.2" in text and (of_labels <= 0.2).sum() == 6
    assert (
        f"{of_labels[first]:.0f} of the {of_labels.sum():.0f} Dice" in text
        and f"and {of_labels[second]:.0f} another" in text
    )
    assert f"gains {own[first]:.1f} in the first and loses {-own[second]:.1f} in the second" in text


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("UniMatch", "UniMatch"),
        ("FixMatch", "FixMatch"),
        ("ICT", "ICT, which mixes images,"),
        ("ADMT", "AD-MT, with two teachers in turn,"),
        ("CCT", "CCT"),
        ("MCNet", "MC-Net+"),
        ("DeepCoTraining", "deep co-training, with 11 times nnU-Net's passes,"),
        ("EntropyMinimization", "entropy minimization"),
        ("MeanTeacher", "Mean Teacher"),
        ("DyCON", "DyCON"),
        ("MCF", "MCF, whose two networks differ,"),
        ("CPS", "CPS"),
        ("DTC", "DTC"),
        ("ACMT", "AC-MT"),
        ("UAMT", "UA-MT"),
        ("UPC", "[UPC](#upc)"),
        ("CML", "CML, on mixes of labeled patches and of unlabeled ones, gains"),
        ("DAN", "DAN and URPC"),
        ("URPC", "DAN and URPC"),
        ("RDrop", "R-Drop"),
        ("SASSNet", "SASSNet"),
        ("FilterMatch", "FilterMatch, which takes every label of its own network,"),
        ("BCP", "BCP alone"),
        ("SDCL", "SDCL, on BCP's mixes of labeled and unlabeled patches, gains"),
    ],
)
def test_what_published_methods_gain(row, name):
    gain = gains("ACDC3", row).groupby("class").mean().mean()
    assert f"{name} {gain:.1f}" in section("Published methods on ACDC 3")


def test_where_methods_gain_and_lose():
    text, dycon = section("Published methods on ACDC 3"), gains("ACDC3", "DyCON").groupby("patient").mean()
    assert f"better in {(dycon > 0).sum()} of the {len(dycon)} patients; of its terms" in text
    mcf = gains("ACDC3", "MCF").groupby("patient").mean()
    assert f"passes, better in {(mcf > 0).sum()} of the {len(mcf)}. What asks" in text
    cml = gains("ACDC3", "CML").groupby("patient").mean()
    assert f"{cml.max():.0f} in one patient, its median is {cml.median():.1f}" in text
    heavy = -gains("ACDC3", "MeanTeacher, weight 50").groupby("class").mean()
    words = f"is {heavy.mean():.1f} below nnU-Net, {heavy['MLV']:.1f} in the myocardium"
    assert words in section("Mean Teacher")


def test_what_noise_on_labeled_patches_does_in_upc():
    text, results, lost = section("UPC"), Results(ALL_STUDIES["ACDC_3"]), gains("ACDC3", "UPC, noise on labels")
    of_patients = lost.groupby("patient").mean()
    below = results.row_minus("nnU-Net", "UPC, noise on labels").text(sign="")
    assert f"{below} below nnU-Net (row *noise on labels*), worse in {(of_patients < 0).sum()} of the ten" in text
    assert f"{-lost.groupby('class').mean()['RV']:.1f} in the right ventricle" in text
    choose = " ".join((REPOSITORY / "docs" / "choose.md").read_text(encoding="utf-8").split())
    assert f"as published, {-of_patients.mean():.1f} were lost there" in choose
    default = gains("ACDC3", "UPC")
    better, of_classes = (default.groupby("patient").mean() > 0).sum(), default.groupby("class").mean()
    assert f"it gains {results.difference('UPC').text(sign='')}, better in {better} of the ten patients: " in text
    myocardium, left = (
        f"{of_classes[name]:.1f} in the {words}" for name, words in (("MLV", "myocardium"), ("LVC", "left"))
    )
    assert f"{myocardium}, {left} ventricle, and it loses {-of_classes['RV']:.1f} in the right one" in text


def test_patients_that_sdcl_changes_most():
    of_patients = gains("ACDC3", "SDCL").groupby("patient").mean().sort_values(ascending=False)
    best, worst = [f"{value:.0f}" for value in of_patients[:3]], of_patients[-3:]
    text = section("Published methods on ACDC 3")
    assert f"{best[0]}, {best[1]} and {best[2]} in three patients" in text
    assert f"loses {-worst.iloc[0]:.0f} to {-worst.iloc[-1]:.0f} in three others" in text


def test_classes_that_bcp_changes():
    of_classes = gains("ACDC3", "BCP").groupby("class").mean()
    more, less = f"{of_classes['MLV']:.1f} more in the myocardium", f"{-of_classes['RV']:.1f} less in the right"
    assert f"{more}, {less}" in section("Published methods on ACDC 3")


def test_what_the_weight_of_dan_did():
    log, text = pd.read_csv(STUDIES / "dan_weight_1.csv").set_index("steps"), section("DAN")
    first, last = 1250, log.index[-1]
    dice = [" / ".join(f"{log.loc[steps, name]:.2f}" for name in ("RV", "MLV", "LVC")) for steps in (first, last)]
    assert (
        f"from {first} to {last} of 4000 steps its Dice on validation patches fell from {dice[0]} to {dice[1]}" in text
    )
    lowest = log["labeled"].idxmin()
    assert (
        f"from {lowest} steps on its labeled loss rose from {log['labeled'].min():.2f} to {log.loc[last, 'labeled']:.2f}"
        in text
    )
    assert f"(loss {log.loc[first, 'discriminator']:.2f} to {log.loc[last, 'discriminator']:.2f})" in text
    shares = log.loc[first:, "share_percent"]
    assert f"gradient was {shares.min():.0f} to {shares.max():.0f} % of" in text
    shares = pd.read_csv(STUDIES / "dan_weight_0.2.csv").set_index("steps").loc[1500:, "share_percent"]
    assert f"term {shares.min():.0f} to {shares.max():.0f} % of the labeled loss's from 1500 steps on" in text
    official, with_images, default = (
        gains("ACDC3", row).groupby("patient").mean()
        for row in ("DAN, with images, weight 0.2", "DAN, with images", "DAN")
    )
    assert f"{-official.mean():.1f} below nnU-Net, worse in all {(official < 0).sum()} patients" in text
    assert f"{-with_images.mean():.1f} are lost, again in all {(with_images < 0).sum()} patients" in text
    assert default.mean() < 0 and f"(row *DAN*: {-default.mean():.1f} [" in text
    assert f"worse in {(default < 0).sum()} of the {len(default)})" in text
    later = pd.read_csv(STUDIES / "dan_maps_alone.csv").query("steps > 2000")
    loss, shares = later["discriminator"], later["share_percent"]
    assert f"loss {loss.min():.2f} to {loss.max():.2f} in the second half" in text and loss.max() < np.log(2)
    assert f"gradient is {shares.min():.1f} to {shares.max():.0f} % of the labeled loss's there" in text
    page = " ".join((REPOSITORY / "docs" / "methods.md").read_text(encoding="utf-8").split())
    lost = f"loses {-official.mean():.1f} Dice", f"weight {-with_images.mean():.1f}, as it is {-default.mean():.1f}."
    assert all(words in page for words in lost)


def test_the_shares_of_sassnet():
    text = " ".join((REPOSITORY / "docs" / "methods.md").read_text(encoding="utf-8").split())
    shares = pd.read_csv(STUDIES / "sassnet_shares.csv").set_index("steps")
    sdf, passing = shares["sdf_percent"], shares["adversarial_percent"]
    assert f"{sdf.min():.0f} to {sdf.max():.0f} % of the labeled loss's for the distances" in text
    assert f"from {passing.iloc[0]:.1f} to {passing.iloc[-1]:.0f} % in {shares.index[-1]} steps" in text


def test_the_table_of_strong_views_says_what_the_file_says():
    table = pd.read_csv(STUDIES / "strong_view.csv")
    shown = re.findall(r"^\| (?:\(nnU-Net\)|intensities[^|]*) \|(.*)\|$", TEXT, re.MULTILINE)
    columns = ["Dice", "Dice_largest_component", "elsewhere_ml"]
    values = table.set_index(["data", "strong_view"])[columns]
    for view, line in zip(("nnU-Net", "CutMix", "intensity only", "rectangles"), shown, strict=True):
        expected = [*values.loc["ACDC3", view], *values.loc["ACDC7", view]]
        assert [float(cell) for cell in line.split("|")] == expected


def test_the_table_of_unlabeled_atria_says_what_the_file_says():
    table = pd.read_csv(STUDIES / "unlabeled_LA_4.csv")
    dice = 100 * table.set_index(["network", "case"])["Dice"]
    for name, values in dice.groupby(level="network"):
        row = f"| {name} | {values.mean():.1f} | {values.median():.1f} | {(values < 70).sum()} | {values.min():.0f} |"
        assert row in TEXT
    assert {len(values) for _, values in dice.groupby(level="network")} == {76}


def test_which_atria_become_worse():
    dice = 100 * pd.read_csv(STUDIES / "unlabeled_LA_4.csv").pivot(index="case", columns="network", values="Dice")
    start, later = dice["at the start of the second stage"], dice.filter(like="750 steps later")
    low = later[(start < 70) | (later < 70).any(axis=1)]
    worse = low.lt(start[low.index], axis=0).sum().rename(lambda name: name.split(",")[0])
    assert worse.to_dict() == {"first form": 5, "thresholds by class": 1, "sure patches": 0} and len(low) == 9
    text = (
        "below 70 in one of the first four networks, the first form makes five worse, thresholds one, sure patches none"
    )
    lowest = dice["sure patches, at the end"].min()
    later = dice["sure patches, labels last, another run"]
    end = f"and at its end no atrium is below {lowest:.0f}; with labels last, another run"
    assert f"{text}, {end}" in section("LA 4") and f"one is at {later.min():.0f} and" in section("LA 4")
    by_hand = pd.read_csv(STUDIES / "continued.csv").query("study == 'LA_4' and network == 'first form, seed 1'")
    vanilla = pd.read_csv(STUDIES / "LA_3mm.csv").query("data == 'LA4' and row == 'nnU-Net' and seed == 1")["Dice"]
    gain = 100 * by_hand["Dice"].mean() - vanilla.mean()
    assert f"({gain:.1f} above nnU-Net, by hand)" in section("LA 4") and len(by_hand) == 10


def test_what_sure_patches_lose():
    row = "SemiSupervised, first form, sure patches, labels last"
    atria = Results(ALL_STUDIES["LA_4"]).difference(row).value
    other = "SemiSupervised, first form, labels last"
    of_7, of_all = (gains("ACDC7", name).xs(0, level="seed").groupby("class").mean().mean() for name in (row, other))
    frames = ACDC[(ACDC["data"] == "ACDC7") & (ACDC["seed"] == 0)].groupby(["row", "class"])["95HD"].mean()
    text = section("LA 4")
    assert f"and the gain {atria:.1f}. But on ACDC 7 it gains {of_7:.1f}, where the first form with labels last" in text
    assert f"gains {of_all:.1f} (seed 0)" in text
    assert f"(95HD {frames[row].mean():.1f} mm in place of {frames[other].mean():.1f})" in text


def of_unlabeled(pack: str) -> pd.DataFrame:
    """Dice of the unlabeled images, patients or atria by networks."""
    table = pd.read_csv(STUDIES / f"unlabeled_{pack}.csv")
    return (
        100 * table.assign(of=table["case"].str.split("_").str[0]).groupby(["of", "network"])["Dice"].mean().unstack()
    )


def test_the_table_of_what_begins_with_one_network():
    validation = pd.read_csv(STUDIES / "continued.csv").groupby(["study", "network", "class"])["Dice"].mean()
    validation = 100 * validation.groupby(["study", "network"]).mean()
    of_studies = {  # networks that are runs of a study
        ("ACDC_3", "confidence 0"): f"{FIRST}, confidence 0",
        ("ACDC_3", "sure patches, labels last"): f"{FIRST}, sure patches, labels last",
        ("ACDC_3", "thresholds, labels last"): "SemiSupervised",
        ("ACDC_7", "thresholds, labels last"): "SemiSupervised",
    }
    for (study, network), row in of_studies.items():
        own = ACDC[(ACDC["data"] == study.replace("_", "")) & (ACDC["row"] == row)]
        validation[study, network] = own[own["seed"] == 0].groupby("class")["Dice"].mean().mean()
    lines = []
    for pack in ("ACDC_3", "ACDC_7", "LA_8"):
        for network, dice in pd.read_csv(STUDIES / f"unlabeled_{pack}.csv").groupby("network")["Dice"]:
            value = validation.get((pack, network))
            its = "-" if value is None else f"{value:.1f}"
            lines.append((f"| {pack.replace('_', ' ')} | {network} ", f"| {100 * dice.mean():.1f} | {its} |"))
    assert len(lines) == 16
    for head, tail in lines:
        assert any(line.startswith(head) and line.endswith(tail) for line in TEXT.splitlines()), (head, tail)


def test_what_is_said_of_what_begins_with_one_network():
    text = " ".join(TEXT.split())
    three, seven, atria = map(of_unlabeled, ("ACDC_3", "ACDC_7", "LA_8"))
    assert [len(three), len(seven), len(atria)] == [67, 63, 72] and "67 and 63 patients of ACDC and 72 atria" in text
    more = three["mirrored"] - three["first form"]
    assert f"{more.mean():.1f} more on the patients of ACDC 3, better in {(more > 0).sum()} of 67" in text
    for table in (seven, atria):
        assert abs((table["mirrored"] - table["first form"]).mean()) < 0.1
    more = seven["mirrored, labels last"] - seven["mirrored"]
    assert f"{more.mean():.1f} more, better in {(more > 0).sum()} of 63 patients" in text
    of_7, of_8 = (table["first form"] - table["nnU-Net"] for table in (seven, atria))
    both = (seven["thresholds, labels last"] - seven["nnU-Net"]).mean()
    better = f"better in {(of_7 > 0).sum()} of 63 patients (median {of_7.median():.1f})"
    better += f", with thresholds by class and labels last {both:.1f}"
    assert f"{of_7.mean():.1f} above nnU-Net, {better}" in text
    assert f"on LA 8 {of_8.mean():.1f}, better in {(of_8 > 0).sum()} of 72 atria" in text


def test_what_was_gained_and_lost_with_4_atria():
    results, text = Results(ALL_STUDIES["LA_4"]), section("LA 4")
    atria = pd.read_csv(STUDIES / "LA_3mm.csv").set_index(["data", "row", "seed", "case"])["Dice"]
    of_seeds = (atria["LA4", FIRST] - atria["LA4", "nnU-Net"]).groupby("seed").mean()
    assert "gain {:.1f}, {:.1f} and {:.1f}".format(*of_seeds) in text
    lost = results.difference("SemiSupervised, first form, labels last").value
    assert (
        f"lost {-lost:.1f}" in text
        and f"thresholds*, {results.difference('SemiSupervised, first form, thresholds').value:.1f} above" in text
    )
    own = (atria["LA4", "SemiSupervised"] - atria["LA4", "nnU-Net"]).groupby("seed").mean()
    assert "gain {:.1f}, {:.1f} and {:.1f}. *Sure".format(*own) in text
    by_hand = pd.read_csv(STUDIES / "continued.csv").query("study == 'LA_4' and network == 'first form, seed 1'")[
        "Dice"
    ]
    one = [*of_seeds, lost, 100 * by_hand.mean() - atria["LA4", "nnU-Net", 1].mean()]
    thresholds = [*own, results.difference("SemiSupervised, first form, thresholds").value]
    said = section("SemiSupervised and its first form")
    assert "one of five runs with one threshold lost, none of four with thresholds by class" in said
    assert (len(one), sum(gain < 0 for gain in one)) == (5, 1) and len(thresholds) == 4 and min(thresholds) > 0
    for page in ("README.md", "docs/choose.md"):
        assert f"[lost {-lost:.1f}](" in (REPOSITORY / page).read_text(encoding="utf-8")
    row, other = atria["LA4", "SemiSupervised, first form, labels last", 0], atria["LA4", FIRST, 0]
    worst = (row - other).idxmin()
    assert f"one atrium has {row[worst]:.0f} Dice in place of {other[worst]:.0f}" in text


def test_what_semi_supervised_gains_now_and_in_its_first_form():
    text = section("SemiSupervised and its first form")
    for pack in ("ACDC 3", "ACDC 7", "LA 4", "LA 8"):
        results = Results(ALL_STUDIES[pack.replace(" ", "_")])
        seeds = [seed for seed in results.seeds("SemiSupervised") if seed in results.seeds(FIRST)]
        of_rows = (np.mean(results.differences(row, "nnU-Net", seeds)[0]) for row in ("SemiSupervised", FIRST))
        own, first = (f"{value:.1f}".replace("-0.0", "0.0") for value in of_rows)
        before, end = ("first form " if pack == "ACDC 3" else ""), (f", {SEEDS[len(seeds)]}" if pack == "LA 8" else "")
        assert f"{own} on {pack} ({before}{first}{end})" in text
        assert len(seeds) == 3 or pack == "LA 8"
    seven = Results(ALL_STUDIES["ACDC_7"])
    last = seven.row_minus("SemiSupervised, first form, labels last", FIRST).text(sign="")
    assert f"labels last gains {last} on ACDC 7" in text
    assert f"SemiSupervised gains {seven.difference('SemiSupervised').text(sign='')}, where" in section("ACDC 7")


def test_what_the_pages_say_of_semi_supervised():
    choose, readme = (
        " ".join((REPOSITORY / page).read_text(encoding="utf-8").split()) for page in ("docs/choose.md", "README.md")
    )
    row, packs = "SemiSupervised", ("ACDC_3", "ACDC_7", "LA_4", "LA_8")
    results = {pack: Results(ALL_STUDIES[pack]) for pack in packs}
    gain = {pack: f"{results[pack].difference(row).value:.1f}".replace("-0.0", "0.0") for pack in packs}
    median = {pack: results[pack].median_text(row).lstrip("+") for pack in packs}
    seeds = SEEDS[len(results["LA_8"].seeds(row))]
    interval = re.findall(r"\[(.*), (.*)\]", results["ACDC_7"].difference(row).text(sign=""))[0]
    assert f"{gain['ACDC_3']} Dice above nnU-Net with 3 labeled patients of ACDC" in choose
    assert f"{gain['ACDC_7']} with 7 of them (its interval, {' to '.join(interval)}, holds 0)" in choose
    assert (
        f"{gain['LA_4']} with 4 labeled left atria" in choose
        and f"{gain['LA_8']} with 8, where" in choose
        and seeds == "three seeds"
    )
    assert f"median over patients is {median['ACDC_3']} and {median['ACDC_7']} with 3 and 7 patients of" in choose
    assert f"{median['LA_4']} with 4 atria" in choose
    assert f"{gain['LA_4']} Dice are gained with 4 labeled left atria in 3D" in readme
    assert f"where all labels give little more, {gain['LA_8']} ({seeds})." in readme
    first = {pack: results[pack].means(row, 0)[0] - results[pack].means("nnU-Net", 0)[0] for pack in ("ACDC_3", "LA_4")}
    assert f"(one seed each; `nnUNetTrainerSemiSupervised` {first['ACDC_3']:.1f} and {first['LA_4']:.1f} with" in choose
    assert f"`nnUNetTrainerSemiSupervised` {first['ACDC_3']:.1f} with it), with 1.8 times" in choose
    published = [method for method in UNLABELED if results["ACDC_3"].seeds(method)]
    assert f"of the {NUMBERS[len(published)]} measured there" in choose
    now = results["ACDC_3"].difference("round of SemiSupervised").value
    above = results["ACDC_3"].row_minus("round of SemiSupervised", row).text(sign="")
    seeds = SEEDS[len(results["ACDC_3"].seeds("round of SemiSupervised"))]
    assert f"With its present form {now:.1f} ({seeds}), {above} above them." in choose
    assert f"the present form {now:.1f} ({seeds}), without a threshold" in section("Rounds of nnU-Net")
    above = results["ACDC_3"].row_minus(f"round of {FIRST}", FIRST).text(sign="")
    assert f"{above} above these networks themselves" in choose


@pytest.mark.parametrize(
    "row", ["thresholds", "confidence 0", "reliability", "sure patches, labels last", "sure background, labels last"]
)
def test_what_parts_of_semi_supervised_gain(row):
    (line,) = [line for line in TEXT.splitlines() if line.startswith("|") and f"row *first form, {row}*" in line]
    dice = pd.concat([ACDC, pd.read_csv(STUDIES / "LA_3mm.csv")]).set_index(["data", "row", "seed"])["Dice"]
    dice = dice.groupby(level=["data", "row", "seed"]).mean()
    named = dict(re.findall(r"((?:ACDC|LA) \d) \(([^)]*)\)", line))
    for data, seed in dice[:, f"{FIRST}, {row}"].index:
        gain, other = (dice[data, name, seed] - dice[data, "nnU-Net", seed] for name in (f"{FIRST}, {row}", FIRST))
        pack = re.sub(r"(\d)", r" \1", data)
        assert f"{gain:.1f} on {pack} (" in line
        assert named.pop(pack).removeprefix("first form ") == f"{other:.1f}"
    assert not named


def test_going_back_would_not_have_acted():
    values = pd.read_csv(STUDIES / "pseudo_dice.csv")
    runs = {
        key: run.sort_values("epoch")["pseudo_dice"] for key, run in values.groupby(["data", "row", "seed"], sort=False)
    }
    averages = {key: run.ewm(alpha=0.1, adjust=False).mean() for key, run in runs.items()}
    below = {key: (average.cummax() - average).max() for key, average in averages.items()}
    text = section("Going back")
    assert f"In the {len(runs)} runs whose logs are kept" in text
    assert f"never more than {max(below.values()):.3f} below" in text and max(below.values()) < 0.03
    assert max(below, key=below.get) == ("LA4", "SemiSupervised, first form, labels last", 0)
    falls = max((run.cummax() - run).max() for run in runs.values())
    assert f"fall by up to {falls:.2f}" in " ".join(text.split())


def test_volumes_of_classes():
    table = pd.read_csv(STUDIES / "volumes.csv").set_index(["pack", "network", "class"])
    shares = (table["predicted"] / table["labeled"]).unstack()[["RV", "MLV", "LVC", "left atrium"]]
    text = section("Volumes of classes")
    for (pack, network), row in shares.iterrows():
        cells = ["-" if np.isnan(share) else f"{share:.2f}" for share in row]
        assert f"| {' | '.join((pack, network, *cells))} |" in text
    before = {"ACDC 3, small patches": "nnU-Net"}
    changes = pd.concat(
        rows / rows.loc[(pack, before.get(pack, "SemiSupervised, at the start of the second stage"))]
        for pack, rows in shares.groupby(level="pack")
    )
    most = ("ACDC 3, small patches", "SemiSupervised, full weight, random patches")
    assert f"labels {changes.loc[most, 'RV']:.1f} times the right ventricle" in text
    others = changes.drop([most]).stack().dropna()
    assert others.between(1 / 1.25, 1.25).all() and changes.stack().dropna().between(0.5, 2).all()


def test_cross_teaching_with_4_atria():
    results, name = Results(ALL_STUDIES["LA_4"]), "CrossTeaching, same view"
    lost = results.row_minus(name, "nnU-Net")
    of_own, *_ = results.differences("SemiSupervised", "nnU-Net", [0])
    better, worse = results.patients_better(name).split(" / ")
    assert results.seeds(name) == [0] and int(better) + int(worse) == 10
    text = " ".join(section("Published methods on ACDC 3").split())
    assert f"{-lost.value:.1f} below nnU-Net with 4 atria, worse in {worse} of the 10 (one seed;" in text
    assert f"SemiSupervised gains {of_own:.1f} with it" in text


def test_what_is_lost_where_foreground_is_rare():
    results, text = Results(ALL_STUDIES["ACDC_3_small"]), section("Where foreground is rare")
    full = "SemiSupervised, full weight"
    lost = {row: -results.difference(row).value for row in results.cells if row != "nnU-Net"}
    worse = results.patients_better(full).split(" / ")[1]
    assert f"loses {lost[full]:.1f} Dice there, worse in {worse} of the 10 patients, and" in text
    at_random = f"{full}, random patches"
    assert f"and {lost[at_random]:.1f} with unlabeled patches at random places alone" in text
    without = [lost[f"{at_random}, {part}"] for part in ("no rectangles", "one threshold")]
    assert f"rectangles it loses {without[0]:.1f}, with one threshold for all classes {without[1]:.1f} (both" in text
    small = results.difference("SemiSupervised, weight 0.3")
    assert f"With this it gains {results.difference('SemiSupervised').text(sign='')}." in " ".join(text.split())
    assert f"0.30 in place of 0.29 loses {-small.value:.1f} [{-small.high:.1f}, {-small.low:.1f}]" in text
    patients = of_unlabeled("ACDC_3_small")
    change = patients.drop(columns="nnU-Net").sub(patients["nnU-Net"], axis=0)
    now, before = change["SemiSupervised"], -change[at_random]
    assert f"The {len(now)} unlabeled patients say" in text
    assert f"{now.mean():.1f} above nnU-Net, better in {(now > 0).sum()} of them" in text
    assert f"random patches {before.mean():.1f} below, better in {(before < 0).sum()}." in text
    luck = change["SemiSupervised, weight 0.3"]
    assert f"The run with 0.30 is {luck.mean():.1f} above, better in {(luck > 0).sum()}." in text
    advice = " ".join((REPOSITORY / "docs" / "choose.md").read_text(encoding="utf-8").split())
    assert (
        f"{-lost['SemiSupervised']:.1f} in one run, {small.value:.1f} in another with nearly the same weight" in advice
    )
    assert f"{lost[full]:.1f} were lost there with its full weight" in advice


def test_what_a_smaller_weight_gains():
    said = []
    for study in ("ACDC_3", "LA_8", "LA_4"):
        results = Results(ALL_STUDIES[study])
        seeds = results.seeds("SemiSupervised, weight 0.3")
        rows = ("SemiSupervised, weight 0.3", "SemiSupervised")
        small, own = (np.mean(results.differences(row, "nnU-Net", seeds)[0]) for row in rows)
        name = "SemiSupervised " if study == "ACDC_3" else ""
        said.append(f"{small:.1f} on {study.replace('_', ' ')} ({name}{own:.1f}")
        assert len(seeds) == (2 if study == "LA_4" else 1)
    assert f"no difference: {said[0]}) and {said[1]}), one seed each, {said[2]}, two seeds)" in TEXT


def test_how_good_the_labels_of_rounds_are():
    labels = pd.read_csv(STUDIES / "round_labels.csv")
    page = (REPOSITORY / "docs" / "pseudo_labels.md").read_text(encoding="utf-8")
    for (pack, name), own in labels.groupby(["pack", "labels_of"]):
        of_share = own.groupby("share").agg({"Dice": "mean", "lowest": "min"})
        cells = [f"{row.Dice:.1f} ({row.lowest:.0f})" for row in of_share.itertuples()]
        assert f"| {pack}: {name} | {own['seed'].nunique()} | {' | '.join(cells)} |" in page
    of_nnunet = labels[labels["labels_of"] == "nnU-Net, above 0.9"].groupby("share")["Dice"].mean()
    text = section("Rounds of nnU-Net")
    assert f"half has labels with a Dice of {of_nnunet[0.5]:.0f}, all have {of_nnunet[1]:.0f}" in text
