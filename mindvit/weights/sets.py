"""Which of a file's tensors are a network's weights, which their moving average, and which an optimizer's own values.

MindSpore's and MindCV's training saves the whole training cell. Its optimizers keep a copy of every weight under
PREFIX.NAME (adam_m.head.weight) or PREFIX_NAME (exp_avg_sq_row_head.weight), and a few numbers beside them
(global_step, learning_rate).
"""

from __future__ import annotations

import re
from typing import Iterable, Mapping, Optional

import numpy as np

MODEL, EMA = "model", "ema"  # the values of `take` that every file understands
# what PyTorch's training scripts call the average, the preferred name first
AVERAGES = (EMA, "model_ema", "state_dict_ema", "ema_state_dict")
# what the optimizers and training cells of MindSpore (nn, experimental, boost) and MindCV put before a weight's name
PREFIXES = re.compile(
    r"accu_grads|accum|accum_update|(adam|lamb|lion|nadam)_[mv]|ax|delta_weight|eta|exp_avg|exp_avg_sq(_col|_row)?|"
    r"exp_inf|grad_accumulation|grad_clone|linear|max_exp_avg_sq|mean_grad|mean_square|moments?\d?|mu|prev|"
    r"prev_gradient|stat|step_size|swap|vhat|weights_clone"
)
# their own numbers, one or a list (a learning rate for every step); the last part of a name counts
NUMBERS = re.compile(
    r"accumulation_step|afactor_step|beta[12]_power|counter|cov_step|cur(rent)?_iter(ator)?(_step)?|"
    r"cur_(epoch|step)(_num)?|dynamic_loss_scale|epoch_num|fake_lr|fake_param|global_step|graceful_exit|graceful_init|"
    r"last_overflow_iter(ator_step)?|learning_rate(_group_\d+)?|loss_scale|momentum|mu_schedule|scale_sense|"
    r"scale_value|state_step|step|step_num|step_t|updates"
)
MATRICES = re.compile(r"matrix_(a_inv_|g_inv_|max)\d+")  # THOR's


def average_of(names: Iterable[str], prefix: str = f"{EMA}.") -> dict[str, str]:
    """Name of a weight -> name of its moving average: those of the names `prefix`NAME whose NAME is there too."""
    names = set(names)
    return {name[len(prefix) :]: name for name in names if name.startswith(prefix) and name[len(prefix) :] in names}


def optimizer_values(arrays: Mapping[str, np.ndarray]) -> set[str]:
    """The names of what training keeps beside the weights.

    A copy of a weight is known by its prefix. An unknown prefix counts if all that has it is such a copy, of the same
    shape, and there are copies of at least half of the tensors without one.
    """
    found = {
        name for name, value in arrays.items() if _is_number(name, value) or MATRICES.fullmatch(name.rpartition(".")[2])
    }
    found |= {name for name in arrays if _weight_behind_known_prefix(name, arrays) is not None}
    rest = [name for name in arrays if name not in found]
    groups: dict[str, list[str]] = {}
    for name in rest:
        groups.setdefault(name.partition(".")[0], []).append(name)
    copies = {prefix: names for prefix, names in groups.items() if all(_is_copy(name, arrays) for name in names)}
    without = len(rest) - sum(map(len, copies.values()))
    return found.union(*(names for names in copies.values() if 2 * len(names) >= without))


def _is_copy(name: str, arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether a tensor stands in the file under NAME too, if this is PREFIX.NAME."""
    original = arrays.get(name.partition(".")[2])
    return original is not None and original.shape == arrays[name].shape


def _is_number(name: str, value: np.ndarray) -> bool:
    """Whether this is one of the optimizer's numbers, or a list of them."""
    return value.ndim <= 1 and NUMBERS.fullmatch(name.rpartition(".")[2]) is not None


def _weight_behind_known_prefix(name: str, arrays: Mapping[str, np.ndarray]) -> Optional[str]:
    """The weight that `name` is an optimizer's copy of, which may be a part of a larger cell: optimizer.adam_m.NAME."""
    for separator in re.finditer(r"[._]", name):
        prefix = name[: separator.start()].rpartition(".")[2].rstrip("_")
        if PREFIXES.fullmatch(prefix) and name[separator.end() :].lstrip("_") in arrays:
            return name[separator.end() :]
    return None
