"""The studies, as data: packs (what is trained on), rows (what is trained, and how long), and which rows a study compares.

`benchmarks/study.py` prepares, trains, records and reports them. Every epoch has 250 steps. Plans are small ones for a CPU core, at
a spacing at which a patch shows the whole object; those of `GPU_*`, for `benchmarks/gpu`, are nnU-Net's size. The augmentation is
nnU-Net's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

ITERATIONS = 250  # steps of an epoch, nnU-Net's
LONGER = (7, 3)  # steps of Mean Teacher cost this much time in passes: nnU-Net in the same time has 7/3 of its steps


@dataclass(frozen=True)
class Pack:
    """One nnU-Net data set: how it is made and planned. Recorded rows name it by `name`."""

    name: str  # after DatasetXXX_
    dataset_id: int
    records: str  # of the CSV in docs/studies that keeps its rows: same cases, same plan
    make: str  # arguments of nnunet_ssl; {data}: folder of the releases, {lists}: folder of `validation_list`
    spacing: tuple[float, ...] | None  # mm, in nnU-Net's order of axes; None: nnU-Net's choice
    patch: tuple[int, ...] = ()  # voxels; (): configuration `base` as nnU-Net plans it, with its batch and network
    batch_size: int = 0
    features: tuple[int, ...] = (16, 32, 64, 128)  # per stage
    base: str = "2d"  # configuration that the small one inherits from
    source: Pack | None = None  # whose raw data set `make` reads
    validation_list: str = ""  # below {data}: the list of cases that fold 0 validates on; "": as the converter does
    labeled_share: float = 1.0  # of the training images
    again: bool = False  # its labeled training images are unlabeled images once more
    foreign: Pack | None = None  # whose unlabeled images take the place of its own

    @property
    def dataset(self) -> str:
        return f"Dataset{self.dataset_id:03d}_{self.name}"

    @property
    def configuration(self) -> str:
        return f"{self.base}_small" if self.patch else self.base

    @property
    def plan(self) -> str:
        """For the page of a study."""
        spacing = "nnU-Net's spacing"
        if self.spacing:
            axes = self.spacing[-len(self.patch) :] if self.patch else self.spacing
            spacing = f"spacing {' x '.join(f'{s:g}' for s in axes)} mm"
        if not self.patch:
            return f"{self.base}, {spacing}, nnU-Net's patch, batch and network"
        return (
            f"{self.base}, {spacing}, patch {' x '.join(map(str, self.patch))}, batch {self.batch_size}, {self.features[0]} to "
            f"{self.features[-1]} features"
        )


@dataclass(frozen=True)
class Row:
    """One line of a table: a trainer on a pack, with as many seeds as the study has."""

    key: str
    pack: Pack
    trainer: str  # without suffixes; "": measured elsewhere, and recorded from its predictions
    epochs: int = 0
    group: str = "controls"  # for `study run --rows`
    after: tuple[str, ...] = ()  # keys of rows of the same seed that must be trained before
    # arguments of nnunet_ssl, run before the training; {dataset}, {configuration}, {seed}, {device}, and {after[0]}: name of the
    # run of the first row of `after`
    commands: tuple[str, ...] = ()
    pretrained: str = ""  # key of the row (one of `after`) whose last checkpoint is given to -pretrained_weights
    settings: tuple[str, ...] = ()  # class attributes of the trainer, NAME=JSON; {seed}
    variant: str = ""  # names a results folder of its own, where another row has the same trainer, pack and length
    iterations: int = ITERATIONS  # of an epoch
    baseline: str = ""  # key of the row that it is compared with; "": the study's

    @property
    def steps(self) -> int:
        return self.epochs * self.iterations

    def run_name(self, seed: int) -> str:
        return f"{self.trainer}_{self.epochs}epochs_{self.iterations}iters_seed{seed}"


@dataclass(frozen=True)
class Study:
    """Rows that are compared with `baseline`, and with `own`; `upper` minus `baseline` is the head-room."""

    name: str  # of its page in docs/studies
    title: str
    about: str  # what is labeled, and what is special
    rows: tuple[Row, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    baseline: str = "nnU-Net"
    upper: str = "all labels"
    own: str = "SemiSupervised"  # a study may do without

    def row(self, key: str) -> Row:
        return next(row for row in self.rows if row.key == key)


# --------------------------------------------------------------------------------------------------------------- packs

# 2.5 mm: 96 pixels are 240 mm, the whole body of most slices. Natively (1.5 mm) Dice was lost far from the heart.
_ACDC = {"records": "ACDC_2.5mm", "spacing": (10, 2.5, 2.5), "patch": (96, 96), "batch_size": 8}
# The crops of the release are 18 x 28-33 x 31-51 voxels of 3 mm, the largest atrium of the 90 cases is 15.4 x 26.9 x 43.8: the
# patch holds it. A step of nnU-Net takes 0.24 s of one core. The release has no validation list: fold 0 validates on the
# test cases, which nothing of a training depends on (the last checkpoint is used).
_LA = {"records": "LA_3mm", "spacing": (3, 3, 3), "patch": (20, 32, 48), "batch_size": 2, "base": "3d_fullres"}
_LA |= {"validation_list": "la/test.list"}


def _acdc(name: str, dataset_id: int, options: str, share: float = 1.0) -> Pack:
    return Pack(name, dataset_id, make=f"convert ACDC -i {{data}}/acdc {options}", labeled_share=share, **_ACDC)


def _la(name: str, dataset_id: int, options: str, share: float = 1.0) -> Pack:
    split = "--split {data}/la/train.list {lists}/val.list"
    return Pack(name, dataset_id, make=f"convert LA -i {{data}}/la {split} {options}", labeled_share=share, **_LA)


def _from(source: Pack, name: str, dataset_id: int, command: str) -> Pack:
    return replace(source, name=name, dataset_id=dataset_id, make=command, source=source, validation_list="")


ACDC_3 = _acdc("ACDC3", 23, "--labeled 3", 3 / 70)
ACDC_5 = _acdc("ACDC5", 25, "--labeled 5", 5 / 70)  # between 7 patients and all, less than 5 Dice can be gained
ACDC_7 = _acdc("ACDC7", 27, "--labeled 7", 7 / 70)
ACDC_ALL = _acdc("ACDCall", 30, "")
ACDC_AGAIN = replace(ACDC_ALL, name="ACDCagain", dataset_id=31, again=True, labeled_share=0.5)
# of 32 x 32 pixels (80 mm), of which a third shows a part of the heart: what small objects in large images are to nnU-Net
_SMALL = {"records": "ACDC_2.5mm_32", "patch": (32, 32)}
ACDC_3_SMALL = replace(ACDC_3, name="ACDC3small", dataset_id=33, **_SMALL)
ACDC_ALL_SMALL = replace(ACDC_ALL, name="ACDCallsmall", dataset_id=34, **_SMALL)
ACDC_WSL4MIS = _acdc("ACDCwsl4mis", 126, "--split_patients wsl4mis")
ACDC_SCRIBBLES = _acdc("ACDCscribbles", 127, "--split_patients wsl4mis --scribbles {data}/acdc_scribbles")
ACDC_POINTS = _from(ACDC_ALL, "ACDCpoints", 128, "weaken --kind points")
# As PA-Seg begins. With the default threshold of 0.2, a third to four fifths of what becomes myocardium is something else.
ACDC_EXPANDED = _from(ACDC_POINTS, "ACDCexpanded", 129, "expand --method geodesic --threshold 0.05")
ACDC_PARTIAL = _from(ACDC_ALL, "ACDCpartial", 227, "weaken --kind partial --annotated RV MLV,LVC")

LA_4, LA_8, LA_16 = (_la(f"LA{n}", 100 + n, f"--labeled {n}", n / 80) for n in (4, 8, 16))
LA_ALL = _la("LAall", 180, "")
LA_AGAIN = replace(LA_ALL, name="LAagain", dataset_id=181, again=True, labeled_share=0.5)
LA_2D = replace(
    _la("LA2D", 200, ""),
    **{**_ACDC, "records": "LA_2D_2.5mm", "spacing": (2.5,) * 3},
    base="2d",
    features=Pack.features,
)
# Short-axis cine images of the heart are labeled; 3D images of the left atrium with late enhancement are not
ACDC_FOREIGN = replace(ACDC_3, name="ACDC3foreign", dataset_id=24, foreign=LA_8, labeled_share=6 / 78)
# One class, so that every box is of it; seeds of 3 voxels (of 0.625 mm) around the innermost voxel of each object
LA_BOXES = _from(LA_2D, "LAboxes", 201, "weaken --kind boxes --radius 3")

# nnFilterMatch's published plan of ACDC: nnU-Net's spacing and network, 12 patches of 256 x 256
_GPU_ACDC = {"records": "GPU_ACDC", "spacing": None, "patch": (256, 256), "batch_size": 12}
_GPU_ACDC |= {"features": (32, 64, 128, 256, 512, 512, 512)}
GPU_ACDC_3 = replace(ACDC_3, name="ACDC3gpu", dataset_id=323, **_GPU_ACDC)
GPU_ACDC_7 = replace(ACDC_7, name="ACDC7gpu", dataset_id=327, **_GPU_ACDC)
GPU_ACDC_ALL = replace(ACDC_ALL, name="ACDCallgpu", dataset_id=330, **_GPU_ACDC)
_GPU_LA = {"records": "GPU_LA", "spacing": None, "patch": (), "batch_size": 0}
GPU_LA_8 = replace(LA_8, name="LA8gpu", dataset_id=308, **_GPU_LA)
GPU_LA_ALL = replace(LA_ALL, name="LAallgpu", dataset_id=380, **_GPU_LA)

# ---------------------------------------------------------------------------------------------------------------- rows

PEERS = ("SSL4MIS supervised", "SSL4MIS Mean Teacher")  # on ACDC alone
UNLABELED = ("MeanTeacher", "FilterMatch", "CPS", "BCP", "UAMT", "ACMT", "DTC", "UPC", "MCF", "CML", "DyCON")
UNLABELED += (
    "EntropyMinimization",
    "ICT",
    "RDrop",
    "URPC",
    "CCT",
    "MCNet",
    "DeepCoTraining",
    "CrossTeaching",
    "SDCL",
    "ADMT",
    "UniMatch",
    "FixMatch",
    "DAN",
    "SASSNet",
)
ACDC_EPOCHS, LA_EPOCHS = 16, 12
GPU_ACDC_EPOCHS, GPU_LA_EPOCHS = 40, 8  # for half an hour; docs/gpu.md says how they were chosen
LABEL = "pseudo_label -d {dataset} -c {configuration} -f 0 -tr {after[0]} -device {device} -np 1"


def controls(pack: Pack, full: Pack, epochs: int) -> list[Row]:
    """What every table has: nnU-Net on the labels at hand and on all of them, in the time of a method, and its moving average."""
    longer = epochs * LONGER[0] // LONGER[1]
    return [
        Row("nnU-Net", pack, "nnUNetTrainer", epochs, "head-room"),
        Row("all labels", full, "nnUNetTrainer", epochs, "head-room"),
        Row("nnU-Net, 7/3 steps", pack, "nnUNetTrainer", longer),
        Row("EMA of nnU-Net", pack, "nnUNetTrainerEMA", epochs),
    ]


def pseudo_labels(
    key: str, pack: Pack, epochs: int, teacher: str, options: str = "", settings: tuple[str, ...] = ()
) -> Row:
    """A round of offline self-training: labels by the run of the row `teacher`, then a training from scratch.

    Args:
        options: of `pseudo_label`.
        settings: of the trainer, beside the name of the round.
    """
    variant = _folder_name(key)
    name = f"{variant}_seed{{seed}}"
    return Row(
        key,
        pack,
        "nnUNetTrainerPseudoLabels",
        epochs,
        "new",
        after=(teacher,),
        commands=(f"{LABEL} -o {name} {options}".rstrip(),),
        settings=(f'round_name="{name}"', *settings),
        variant="" if key == "round 1" else variant,
    )


def methods(pack: Pack, epochs: int, names: Sequence[str]) -> list[Row]:
    return [Row(name, pack, f"nnUNetTrainer{name}", epochs, "methods") for name in names]


def continued(row: Row, start: str) -> Row:
    """The same training, begun with the weights of another row."""
    return replace(
        row, key=f"{row.key} from {start}", after=(start,), pretrained=start, variant=_folder_name(f"from {start}")
    )


def _folder_name(key: str) -> str:
    """Without dots: the name of a round has none."""
    return re.sub(r"\W+", "_", key)


def changed(row: Row, name: str, trainer: str = "", group: str = "parts", **settings: object) -> Row:
    """The row with other values of class attributes.

    Args:
        name: follows the row's key, after a comma.
        trainer: appended to the name of the row's trainer, for one of `benchmarks/trainers`.
    """
    others = dict(setting.split("=", 1) for setting in row.settings)
    others |= {attribute: json.dumps(value) for attribute, value in settings.items()}
    key = f"{row.key}, {name}"
    return replace(
        row,
        key=key,
        trainer=row.trainer + trainer,
        group=group,
        settings=tuple(f"{attribute}={value}" for attribute, value in others.items()),
        variant=_folder_name(key.partition(", ")[2]),
    )


def few_labels(
    name: str,
    title: str,
    pack: Pack,
    full: Pack,
    again: Pack,
    epochs: int,
    about: str,
    peers: Sequence[str] = (),
    foreign: Pack | None = None,
) -> Study:
    """Few labeled cases, the others of the train list unlabeled.

    Args:
        peers: rows that `benchmarks/peer.py` can make of this pack.
        foreign: the pack with unlabeled images of something else.
    """
    semi_supervised = Row("SemiSupervised", pack, "nnUNetTrainerSemiSupervised", epochs, "new")
    mean_teacher = Row("MeanTeacher", pack, "nnUNetTrainerMeanTeacher", epochs)
    upc = Row("UPC", pack, "nnUNetTrainerUPC", epochs)
    sees_image = changed(
        Row("DAN", pack, "nnUNetTrainerDAN", epochs), "with images", group="variants", discriminator_sees_image=True
    )
    all_labels = replace(semi_supervised, key="SemiSupervised, all labels", pack=again, baseline="all labels")
    # its first form, with which its parts were measured: one threshold, unlabeled images to the end, rectangles in any case
    first, first_again = (
        changed(row, "first form", by_class=False, labels_last=0.0, blank=0.8) for row in (semi_supervised, all_labels)
    )
    sure_patches = changed(first, "sure patches", "SurePatches")
    best_round = "round 1 above 0.9, rectangles"  # of those with nnU-Net's labels
    half_round = f"{best_round}, half of the cases"  # with the lowest entropy of the foreground
    best_options = ("--min_confidence 0.9", ("blank=0.8",))
    rows = [
        *controls(pack, full, epochs),
        *(Row(peer, pack, "") for peer in peers),
        semi_supervised,
        all_labels,
        *([replace(semi_supervised, key="SemiSupervised, foreign images", pack=foreign)] if foreign else []),
        changed(semi_supervised, "weight 0.3", unlabeled_weight=0.3),
        changed(semi_supervised, "sure cases first", "SureCases"),
        changed(all_labels, "rectangles", blank=0.8),
        first,
        first_again,
        changed(first, "start from 0.05", earliest=0.05),
        *(changed(row, "labels last", labels_last=None) for row in (first, first_again)),
        changed(first, "reliability", "Reliability"),
        changed(first, "thresholds", by_class=True),
        changed(first, "confidence 0", confidence=0.0),
        changed(sure_patches, "labels last", labels_last=None),
        changed(first, "sure background, labels last", "SurePatches", keeps_foreground=True, labels_last=None),
        changed(first, "mirrored", "Mirrored"),
        pseudo_labels("round 1", pack, epochs, "nnU-Net"),
        pseudo_labels("round 1 above 0.9", pack, epochs, "nnU-Net", "--min_confidence 0.9"),
        pseudo_labels(best_round, pack, epochs, "nnU-Net", *best_options),
        pseudo_labels(half_round, pack, epochs, "nnU-Net", f"{best_options[0]} --drop 0.5", best_options[1]),
        pseudo_labels(best_round.replace("1", "2", 1), pack, epochs, best_round, *best_options),
        # the labels of all cases by the network that has learned from the better half of them
        pseudo_labels(
            half_round.replace("1", "2", 1).replace(", half", ", after half"), pack, epochs, half_round, *best_options
        ),
        pseudo_labels("round of SemiSupervised", pack, epochs, "SemiSupervised"),
        pseudo_labels("round of SemiSupervised, half of the cases", pack, epochs, "SemiSupervised", "--drop 0.5"),
        pseudo_labels("round of SemiSupervised, first form", pack, epochs, first.key),
        *(continued(semi_supervised, start) for start in (half_round, "nnU-Net")),
        *methods(pack, epochs, UNLABELED),
        # the published form adds noise to every patch that the student learns from
        changed(upc, "noise on labels", group="variants", noise_on_labeled=True),
        # what labels and what learns see the same intensity transforms, as it was before
        *(
            changed(row, "same view", group="variants", teacher_view="student")
            for row in (mean_teacher, *methods(pack, epochs, ("CPS", "CrossTeaching")))
        ),
        # the official weight beside the default of 5, and ten times the default
        *(changed(mean_teacher, f"weight {w:g}", group="variants", consistency_weight=w) for w in (0.2, 50)),
        sees_image,  # as published; with the official weight as well:
        changed(sees_image, "weight 0.2", group="variants", adversarial_weight=0.2),
    ]
    return Study(name, title, about, tuple(rows))


def small_patches(name: str, title: str, pack: Pack, full: Pack, about: str) -> Study:
    """Where random patches seldom show foreground: are unlabeled patches near it worth anything?"""
    semi_supervised = Row("SemiSupervised", pack, "nnUNetTrainerSemiSupervised", ACDC_EPOCHS, "new")
    full_weight = changed(semi_supervised, "full weight", if_rare=1.0)
    at_random = changed(full_weight, "random patches", near_foreground=0.0)
    rows = [
        *controls(pack, full, ACDC_EPOCHS),
        semi_supervised,
        changed(semi_supervised, "random patches", near_foreground=0.0),
        changed(semi_supervised, "weight 0.3", unlabeled_weight=0.3),
        full_weight,
        changed(full_weight, "start at 0.6", earliest=0.6, latest=0.6),
        at_random,
        changed(at_random, "no rectangles", blank=0.0),
        changed(at_random, "one threshold", by_class=False),
    ]
    return Study(name, title, about, tuple(rows))


def weak_labels(name: str, title: str, pack: Pack, full: Pack, names: Sequence[str], about: str) -> Study:
    rows = [*controls(pack, full, ACDC_EPOCHS), *methods(pack, ACDC_EPOCHS, names)]
    return Study(name, title, about, tuple(rows))


def published_filter_match(pack: Pack, epochs: int, start: int, others: Sequence[str]) -> list[Row]:
    """nnFilterMatch as released, on a shorter run. It begins after as many epochs as published: its 5 or 20 of 300 are enough for
    nnU-Net to be good, the same share of a short run is not.

    Args:
        start: epoch.
        others: settings that the release has for this number of labels.
    """
    settings = ("joint=true", f"start={start / epochs}", *others)
    row = Row("nnFilterMatch without filter", pack, "nnUNetTrainerFilterMatch", epochs, "published")
    return [
        replace(row, settings=(*settings, "filter_rounds=0")),
        replace(row, key="nnFilterMatch", settings=settings, variant="filter"),
    ]


def on_gpu(name: str, title: str, pack: Pack, full: Pack, epochs: int, others: Sequence[Row], about: str) -> Study:
    semi_supervised = Row("SemiSupervised", pack, "nnUNetTrainerSemiSupervised", epochs, "new")
    rows = [*controls(pack, full, epochs), *others, semi_supervised]
    return Study(name, title, about, tuple(rows), seeds=(0,))


_ON_ACDC = "the other patients of the 70 of the train list are unlabeled; 10 validation patients, 20 frames."
_ON_LA = "the other cases of the 80 of the train list are unlabeled; validated on 10 of the 20 test cases."
_POINTS = "One point of each class per case, made from the masks of the 70 patients; 10 validation patients, 20 frames, dense."
STUDIES = {
    study.name: study
    for study in (
        few_labels(
            "ACDC_3",
            "ACDC, 3 labeled patients",
            ACDC_3,
            ACDC_ALL,
            ACDC_AGAIN,
            ACDC_EPOCHS,
            f"6 labeled frames, {_ON_ACDC}",
            PEERS,
            ACDC_FOREIGN,
        ),
        few_labels(
            "ACDC_5",
            "ACDC, 5 labeled patients",
            ACDC_5,
            ACDC_ALL,
            ACDC_AGAIN,
            ACDC_EPOCHS,
            f"10 labeled frames, {_ON_ACDC}",
            PEERS,
        ),
        few_labels(
            "ACDC_7",
            "ACDC, 7 labeled patients",
            ACDC_7,
            ACDC_ALL,
            ACDC_AGAIN,
            ACDC_EPOCHS,
            f"14 labeled frames, {_ON_ACDC}",
            PEERS,
        ),
        *(
            few_labels(
                f"LA_{n}",
                f"Left atrium, {n} labeled cases",
                pack,
                LA_ALL,
                LA_AGAIN,
                LA_EPOCHS,
                f"{n} labeled cases, {_ON_LA}",
            )
            for n, pack in ((4, LA_4), (8, LA_8), (16, LA_16))
        ),
        small_patches(
            "ACDC_3_small",
            "ACDC, 3 labeled patients, small patches",
            ACDC_3_SMALL,
            ACDC_ALL_SMALL,
            f"6 labeled frames, {_ON_ACDC}",
        ),
        weak_labels(
            "ACDC_scribbles",
            "ACDC with hand-drawn scribbles",
            ACDC_SCRIBBLES,
            ACDC_WSL4MIS,
            ("ShapePU", "ScribbleDMPLS", "ScribbleGatedCRF", "ScribbleEntropyMin"),
            "The public scribbles, first fold of WSL4MIS as far as its patients are at hand; dense validation masks.",
        ),
        weak_labels(
            "ACDC_points", "ACDC with points", ACDC_POINTS, ACDC_ALL, ("PointsConsistency", "PointsPASeg"), _POINTS
        ),
        weak_labels(
            "ACDC_points_expanded",
            "ACDC with points grown by geodesic distance",
            ACDC_EXPANDED,
            ACDC_ALL,
            ("PointsPASeg",),
            f"{_POINTS} The points are expanded before training.",
        ),
        weak_labels(
            "ACDC_partial",
            "ACDC with classes of two sources",
            ACDC_PARTIAL,
            ACDC_ALL,
            ("PartialLabel", "PartialLabelMT"),
            "Half of the 70 patients have RV annotated only, the others MLV and LVC only; to nnU-Net, what is missing is "
            "background. Validated on the full labels of 10 patients, 20 frames.",
        ),
        weak_labels(
            "LA_boxes",
            "Left atrium with boxes",
            LA_BOXES,
            LA_2D,
            ("BoxTightness",),
            "A tight box around each object of each slice, and in it a few seeds; 80 cases, validated on dense masks of 10 of "
            "the 20 test cases.",
        ),
        on_gpu(
            "GPU_ACDC_3",
            "ACDC, 3 labeled patients, on a GPU",
            GPU_ACDC_3,
            GPU_ACDC_ALL,
            GPU_ACDC_EPOCHS,
            published_filter_match(GPU_ACDC_3, GPU_ACDC_EPOCHS, 5, ("initial_lr=5e-3", "weight_decay=3e-3")),
            f"6 labeled frames, {_ON_ACDC} Published, on 20 test patients: nnU-Net 82.96, nnFilterMatch without filter 89.51.",
        ),
        on_gpu(
            "GPU_ACDC_7",
            "ACDC, 7 labeled patients, on a GPU",
            GPU_ACDC_7,
            GPU_ACDC_ALL,
            GPU_ACDC_EPOCHS,
            published_filter_match(GPU_ACDC_7, GPU_ACDC_EPOCHS, 20, ()),
            f"14 labeled frames, {_ON_ACDC} Published, on 20 test patients: nnU-Net 86.31, nnFilterMatch without filter 89.58.",
        ),
        on_gpu(
            "GPU_LA_8",
            "Left atrium, 8 labeled cases, on a GPU",
            GPU_LA_8,
            GPU_LA_ALL,
            GPU_LA_EPOCHS,
            (),
            f"8 labeled cases, {_ON_LA}",
        ),
    )
}
