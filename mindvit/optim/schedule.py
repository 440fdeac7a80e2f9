"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from mindvit.recipe.optim_options import ScheduleOptions


def peak_lr(schedule: ScheduleOptions, global_batch: int) -> float:
    """The highest learning rate for a batch of `global_batch` images over all devices (linear scaling, Goyal et al.
    2017).
    """
    return schedule.lr * (global_batch / schedule.lr_reference_batch if schedule.lr_reference_batch else 1.0)


def floors(schedule: ScheduleOptions, global_batch: int) -> tuple[float, float]:
    """The rates in force at the start of the warm-up and at the end of the decay, neither above the peak.

    Both are absolute, as in DeiT's code and its descendants. Where a batch smaller than lr_reference_batch brings the
    peak below one of them, that one is scaled by the batch too, so that the curve keeps its shape; where it lies above
    lr itself, it becomes the peak.
    """
    peak = peak_lr(schedule, global_batch)
    start = schedule.warmup_lr if schedule.warmup_factor is None else schedule.warmup_factor * peak
    return _at_most(start, peak, schedule, global_batch), _at_most(schedule.min_lr, peak, schedule, global_batch)


def _at_most(rate: float, peak: float, schedule: ScheduleOptions, global_batch: int) -> float:
    if rate <= peak:
        return rate
    return min(rate * global_batch / schedule.lr_reference_batch, peak) if schedule.lr_reference_batch else peak


def warmup_epochs(schedule: ScheduleOptions, steps_per_epoch: int) -> float:
    """Length of the warm-up, in epochs."""
    steps = schedule.warmup_steps
    return schedule.warmup_epochs if steps is None else steps / steps_per_epoch


def schedule_lines(schedule: ScheduleOptions, global_batch: int) -> list[str]:
    """What a run says of its learning rate before it starts: peak, start and end in force; a warning if one of them
    was given above the peak.
    """
    peak, (start, end) = peak_lr(schedule, global_batch), floors(schedule, global_batch)
    reference = schedule.lr_reference_batch
    scaled = f" (lr {schedule.lr:.3g} x batch {global_batch}/{reference})" if reference else ""
    warms_up = warmup_epochs(schedule, 1) > 0
    warm_up = f", warm-up from {start:.3g}" if warms_up else ""
    lines = [
        f"learning rate: peak {peak:.3g}{scaled}{warm_up}"
        + ("" if schedule.scheduler == "constant" else f", end {end:.3g}")
    ]
    given = {
        "warmup_lr": (schedule.warmup_lr, start, warms_up and schedule.warmup_factor is None),
        "min_lr": (schedule.min_lr, end, schedule.scheduler != "constant"),
    }
    high = [
        f"{key} {rate:.3g} lies above it: {used:.3g} is taken"
        for key, (rate, used, counts) in given.items()
        if counts and rate > peak
    ]
    if high:
        lines.append(
            f"WARNING: the learning rate's peak is {peak:.3g}, and {' and '.join(high)} (the curve keeps its shape; "
            "give smaller values, a larger lr, "
            f"or a larger batch: gradient_accumulation_steps)"
        )
    return lines


def learning_rate(step: int, *, schedule: ScheduleOptions, steps_per_epoch: int, global_batch: int) -> float:
    """The rate that optimizer step `step`, from 0 on, takes. It never rises in a decay and, but for poly_decay's, never
    falls in the warm-up.
    """
    peak, (start, end) = peak_lr(schedule, global_batch), floors(schedule, global_batch)
    step = max(0, step - schedule.lr_lag * (steps_per_epoch if schedule.lr_epoch_stair else 1))
    at = step // steps_per_epoch if schedule.lr_epoch_stair else step / steps_per_epoch  # epochs since the start
    warmup = warmup_epochs(schedule, steps_per_epoch)
    if schedule.scheduler == "poly_decay":
        left = max(0.0, 1 - at / (schedule.decay_epochs or schedule.epoch_size))
        rate = end + (peak - end) * left**schedule.poly_power
        # OpenMMLab's warm-up: a factor of the rate that has begun to fall
        return rate * (1 - (1 - at / warmup) * (1 - start / peak)) if at < warmup and peak else rate
    if at < warmup:
        return start + (peak - start) * at / warmup
    if schedule.scheduler == "constant":
        return peak
    if schedule.scheduler == "exponential_decay":
        return max(end, peak * schedule.decay_rate ** (at - warmup))
    if schedule.scheduler == "polynomial_decay":
        left = max(0.0, 1 - (at - warmup) / (schedule.epoch_size - warmup))
        return end + (peak - end) * left**schedule.decay_rate
    if schedule.scheduler == "multi_step_decay":
        falls = sum(at - warmup >= epoch for epoch in schedule.multi_step_decay_milestones or ())
        return max(end, peak * schedule.decay_rate**falls)
    if schedule.scheduler == "step_decay":
        falls = int((at - warmup) // (schedule.decay_epochs or 30))
        if schedule.decay_at is not None:
            falls = sum(at >= epoch for epoch in schedule.decay_at)
        return max(end, peak * schedule.decay_rate**falls)
    offset = 0.0 if schedule.cosine_from_start else warmup
    length = schedule.decay_epochs or schedule.epoch_size - offset
    cycle = min(int((at - offset) // length), schedule.num_cycles)
    if cycle == schedule.num_cycles:
        return end
    top = max(peak * schedule.cycle_decay**cycle, end)
    phase = (at - offset - cycle * length) / length
    if schedule.scheduler == "linear_decay":
        return top + (end - top) * phase
    return end + 0.5 * (top - end) * (1 + math.cos(math.pi * phase))
