"""Which of the tensors in a file are a network's weights, and what training tools wrote before, within and beside
their names.

A file of a training tool may hold the weights several times (raw, averaged, a student's and a teacher's), each under
prefixes: of wrappers (`module.`, `_orig_mod.`), of the class that the network was an attribute of (`model.`,
`backbone.`, ...), or of both, in any order and number. Prefixes aren't guessed one by one: every project's form of a
network has a name that all of its files have (names.Origin.mark), and what stands before that name is the prefix.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
from typing import Callable, Iterable, Mapping, Optional, Sequence

from mindvit.errors import Hint, UserError
from mindvit.weights import names as tables
from mindvit.weights.sets import EMA, MODEL

LEAVE_OUT = Hint("--take", "leave --take out", "leave take out")
PARALLEL = "module."  # DataParallel, AveragedModel and timm's ModelEma, before every name
# parts of names that wrappers put before, or into the middle of, a module's: torch.compile, FSDP, activation
# checkpointing, Fabric
INNER = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_fpw_module"))
COUNTERS = ("n_averaged",)  # of torch.optim.swa_utils
# transformers' CvtModel, whose names lack the first part of those of CvtForImageClassification
BARE, BARE_PREFIX = "encoder.stages.0.embedding.convolution_embeddings.projection.weight", "cvt."
MARKS = (*(origin.mark for origin in tables.ORIGINS if origin.name != "mm"), BARE)
DETECTOR = "backbone."
DETECTED = tuple(tables.origin(tables.OFFICIAL, item.family).mark for item in tables.ORIGINS if item.name == "mm")
CLASSIFIES = ("norm.weight", "cls_token")  # what no detector's backbone has
# how a classifier may be called beside a backbone (mmpretrain: head.fc), or within a network
CLASSIFIERS = ("head.fc.", "head.layers.head.", "cls_head.fc.", "cls_head.", "head.", "classifier.", "fc.")
# heads of self-supervised training, by their first names within the network or beside it; they classify nothing
PROJECTIONS = (
    "head.mlp.*",
    "head.last_layer.*",
    "projector.*",
    "projection_head.*",
    "predictor.*",
    "prototypes.*",
    "head.projection.*",
)
# what stands beside a network and is no part of what it computes: losses, measures, the other parts of a detector
BESIDE = (
    *PROJECTIONS,
    "criterion.*",
    "loss*",
    "*_loss.*",
    "*metric*",
    "train_acc*",
    "val_acc*",
    "test_acc*",
    "valid_acc*",
    "neck.*",
    "rpn_head.*",
    "roi_head.*",
    "bbox_head.*",
    "mask_head.*",
    "decode_head.*",
    "auxiliary_head.*",
)
# sets whose prefix says that they are beside weights without a prefix; other such prefixes are an optimiser's moments
SECOND = ("ema", "model_ema", "ema_model", "averaged_model", "swa_model", "teacher", "momentum_encoder")
# where training scripts put the weights, the preferred ones first
WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "network", "module", "model_ema", "state_dict_ema", "ema")
# parts of prefixes that are rather taken than others, and such within parts that are taken last
PREFERRED, AVERAGES = (
    ("model", "net", "network", "backbone"),
    frozenset(("ema", "average", "averaged", "swa", "momentum")),
)
STUDENT, TEACHER = "student", "teacher"


@dataclass
class WeightSet:
    """One set of weights, under the dictionary `wrapper` of a file and a `prefix` (where there is more than one set in
    it).

    names: the file's names, and the same without what tools added. unused: the file's names of what is no weight of a
    network. is_known: whether the names are those of a family.
    """

    wrapper: str
    names: dict[str, str]
    unused: list[str] = field(default_factory=list)
    is_known: bool = False
    prefix: str = ""

    @property
    def label(self) -> str:
        """What --take calls it."""
        return ".".join(part for part in (self.wrapper, self.prefix) if part)


def split(names: Iterable[str], wrapper: str = "") -> list[WeightSet]:
    """The sets of weights among a dictionary's names; one, of all names, if they are nobody's that is known."""
    plain = {name: ".".join(part for part in name.split(".") if part not in INNER) for name in names}
    counters = [name for name, value in plain.items() if value.split(".")[-1] in COUNTERS]
    plain = {name: value for name, value in plain.items() if name not in counters}
    while plain and all(value.startswith(PARALLEL) for value in plain.values()):
        plain = {name: value[len(PARALLEL) :] for name, value in plain.items()}
    found = _prefixes(set(plain.values()))
    for copy, original in _copies(
        found
    ).items():  # what an optimizer keeps of each weight, told apart by its own prefix alone
        found.remove(copy)
        ends = {name: value[len(copy) :] for name, value in plain.items() if value.startswith(copy)}
        plain.update({name: copy[: -len(original)] + end for name, end in ends.items()})
    if not found:
        return [WeightSet(wrapper, plain, counters)]
    return [_under(prefix, found, plain, counters, wrapper) for prefix in found]


def _prefixes(names: set[str]) -> list[str]:
    """What stands before the names of the networks in a dictionary, for each network."""
    found: dict[str, None] = {}
    for name in sorted(name for name in names if name.endswith(MARKS)):
        mark = next(mark for mark in MARKS if name.endswith(mark))
        prefix = name[: -len(mark)]
        if (prefix and not prefix.endswith(".")) or (mark == BARE and prefix.endswith(BARE_PREFIX)):
            continue
        if (
            prefix.endswith(DETECTOR)
            and mark in DETECTED
            and not names.intersection(prefix + item for item in CLASSIFIES)
        ):
            prefix = prefix[: -len(DETECTOR)]  # a detector's backbone, whose names have a table of their own
        found[prefix] = None
    if "" in found:
        return [prefix for prefix in found if not prefix or prefix.split(".")[0] in SECOND]
    return list(found)


def _copies(prefixes: Sequence[str]) -> dict[str, str]:
    """Prefixes that are another one with something before it that is no second set of weights, and those others."""
    found: dict[str, str] = {}
    for prefix in prefixes:
        original = next((other for other in prefixes if other and other != prefix and prefix.endswith(f".{other}")), "")
        before = prefix[: len(prefix) - len(original)]
        if original and not is_average(before) and before.split(".")[0] not in (STUDENT, *SECOND):
            found[prefix] = original
    return found


def _under(
    prefix: str, prefixes: Sequence[str], plain: Mapping[str, str], counters: Sequence[str], wrapper: str
) -> WeightSet:
    """The set of weights whose names begin with `prefix`, with its classifier, wherever that stands."""
    theirs = tuple(other for other in prefixes if other and other != prefix and not prefix.startswith(other))
    mine = {name: value for name, value in plain.items() if not (theirs and value.startswith(theirs))}
    inside = {name: value[len(prefix) :] for name, value in mine.items() if value.startswith(prefix)}
    outside = {name: value for name, value in mine.items() if name not in inside}
    if BARE in inside.values():
        inside = {
            name: BARE_PREFIX + value if value.startswith("encoder.") else value for name, value in inside.items()
        }
    places = [prefix[:end] for end in range(len(prefix), -1, -1) if end == 0 or prefix[end - 1] == "."][
        1:
    ]  # around the network, the nearest first
    unused = [name for name, value in inside.items() if _fits(value, PROJECTIONS)]
    unused += [
        name
        for name, value in outside.items()
        if any(_fits(value[len(place) :], BESIDE) for place in places if value.startswith(place))
    ]
    result = {name: value for name, value in {**inside, **outside}.items() if name not in set(unused)}
    result.update(_classifier(inside, outside, places))
    return WeightSet(wrapper, result, [*counters, *unused], True, prefix.rstrip(".") if len(prefixes) > 1 else "")


def _classifier(inside: Mapping[str, str], outside: Mapping[str, str], places: Sequence[str]) -> dict[str, str]:
    """New names for a classifier that isn't called as the network's project calls it; nothing if it is, or if there
    is none."""
    there = set(inside.values())
    wanted = "classifier." if any(value.startswith(f"{BARE_PREFIX}encoder.") for value in there) else "head."
    if f"{wanted}weight" in there or f"{wanted}0.weight" in there:
        return {}
    for values, place in ((inside, ""), *((outside, place) for place in places)):
        for called in (place + item for item in CLASSIFIERS):
            ends = {name: value[len(called) :] for name, value in values.items() if value.startswith(called)}
            if "weight" in ends.values() and set(ends.values()) <= {"weight", "bias"}:
                return {name: wanted + end for name, end in ends.items()}
    return {}


def is_projection(name: str) -> bool:
    """Whether a file's name is that of a head of self-supervised training."""
    return any(
        _fits(name[start:], PROJECTIONS)
        for start in [0, *(place + 1 for place, letter in enumerate(name) if letter == ".")]
    )


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def choose(
    found: Sequence[WeightSet],
    shapes: Callable[[WeightSet], dict[str, tuple[int, ...]]],
    where: object,
    take: Optional[str],
) -> WeightSet:
    """The set of weights to read: the one that `take` names, the only one of a known family, or the preferred one.

    shapes: a set's shapes by name. UserError if there is none that `take` names, or no reason to prefer one.
    """
    pool = list(found)
    if take is not None:
        pool = [item for item in found if item.label == take]
        pool = pool or [item for item in found if take in (item.prefix, item.wrapper, *item.label.split("."))]
        if not pool and take in (MODEL, EMA):  # whatever the file calls them
            pool = [item for item in found if is_average(item.label) == (take == EMA)]
    pool = [item for item in pool if item.is_known] or pool
    if not pool:
        there = [item.label for item in found if item.label]
        raise UserError(
            f"{where}: has no {take!r} to take"
            + (f", but {', '.join(there)}" if there else ": its weights aren't wrapped"),
            [] if there else [LEAVE_OUT],
        )
    ranked = sorted(pool, key=_rank)
    if len(pool) == 1 or _rank(ranked[0]) < _rank(ranked[1]):
        return ranked[0]
    teacher = _teacher(pool, shapes)
    if teacher is None:
        labels = [item.label for item in pool]
        command, library = (
            f"say which, --take {' or '.join(labels)}",
            f"say which, take={' or '.join(map(repr, labels))}",
        )
        raise UserError(
            f"{where}: holds several sets of weights, {', '.join(labels)}", [Hint("--take", command, library)]
        )
    return teacher


def is_average(label: str) -> bool:
    """Whether a set of weights is an average of others, as its label says."""
    return bool(AVERAGES.intersection(re.split(r"[._]", label.lower())))


def _rank(item: WeightSet) -> tuple[int, int]:
    """The smaller, the rather a set is taken: by the dictionary it is in, in the order of WRAPPERS, then by its
    prefix, averages last."""
    wrapper = (
        next((WRAPPERS.index(part) for part in reversed(item.wrapper.split(".")) if part in WRAPPERS), len(WRAPPERS))
        if item.wrapper
        else -1
    )
    parts = item.prefix.split(".")
    if not item.prefix:
        return wrapper, 0
    if is_average(item.prefix):
        return wrapper, 3
    return wrapper, 1 if any(part in PREFERRED for part in parts) else 2


def _teacher(
    pool: Sequence[WeightSet], shapes: Callable[[WeightSet], dict[str, tuple[int, ...]]]
) -> Optional[WeightSet]:
    """Of a student and a teacher with the same tensors the teacher: then it is an average of the student (DINO),
    and what is evaluated."""
    pair = {part: item for item in pool for part in (STUDENT, TEACHER) if part in item.label.split(".")}
    if len(pool) != 2 or set(pair) != {STUDENT, TEACHER} or shapes(pair[STUDENT]) != shapes(pair[TEACHER]):
        return None
    return pair[TEACHER]
