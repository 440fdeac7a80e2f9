"""Training and evaluation: the story of a run."""

from __future__ import annotations

import dataclasses
import datetime
import math
import platform
import time
from pathlib import Path
from typing import Any, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindvit import checkpoint, device, log, parallel
from mindvit.commandline import describe, without_effect
from mindvit.data.mixing import draw
from mindvit.data.pipeline import default_workers, eval_batches, steps_per_epoch, train_batches
from mindvit.data.sources import Source, check_same_classes, open_source
from mindvit.device import Device
from mindvit.errors import UserError
from mindvit.layers.basic import set_precision
from mindvit.meter import Meter
from mindvit.models import ModelInfo, create_model, model_info
from mindvit.optim import is_decayed, learning_rate
from mindvit.recipe import Recipe
from mindvit.step import EvalStep, StepOptions, TrainStep, first_inputs
from mindvit.version import __version__
from mindvit.weights import load_weights, read_weights


class TrainingFailed(UserError):
    """The run can't go on: the loss is no number any more."""

    exit_code = 1


@dataclasses.dataclass(frozen=True)
class Score:
    """Evaluation over `count` pictures: how many have their class first and among the first five, and the mean loss."""

    correct1: int
    correct5: int
    count: int
    loss: float

    @property
    def top1(self) -> float:
        """Per cent."""
        return 100 * self.correct1 / self.count

    @property
    def top5(self) -> float:
        """Per cent."""
        return 100 * self.correct5 / self.count

    def __str__(self) -> str:
        return f"top-1 {self.top1:.2f} % ({self.correct1}/{self.count})  top-5 {self.top5:.2f} %  loss {self.loss:.4f}"


@dataclasses.dataclass(frozen=True)
class Setting:
    """A recipe together with what it leaves to the model, the data and the machine."""

    recipe: Recipe
    info: ModelInfo
    device: Device
    num_classes: int
    workers: int

    @property
    def size(self) -> int:
        """Side of the picture, px."""
        return self.recipe.augment.image_resize or self.info.input_size

    @property
    def interpolation(self) -> str:
        """Resampling of crops and resizes."""
        return self.recipe.augment.interpolation or self.info.interpolation

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of pixels in 0..1."""
        mean, std = self.recipe.augment.mean or self.info.mean, self.recipe.augment.std or self.info.std
        unit = 255 if max(mean) > 1 or max(std) > 1 else 1  # MindCV's recipes count pixels from 0 to 255
        return tuple(value / unit for value in mean), tuple(value / unit for value in std)


def prepare(recipe: Recipe, source: Source) -> Setting:
    """Choose the device and fill in what the recipe leaves open; prints what it found."""
    info = model_info(recipe.model.model)
    classes = len(source.class_names)
    wanted = recipe.model.num_classes
    if wanted is not None and wanted < classes:
        raise UserError(f"num_classes is {wanted}, but the data set has {classes} classes (leave num_classes out to take them all)")
    chosen, line = device.set_up(recipe.runtime, recipe.precision)
    ms.set_seed(recipe.runtime.seed + chosen.rank)  # ranks drop different paths; rank 0's weights are sent to all
    if chosen.is_main:
        log.say(line)
        if without_effect(recipe):
            log.say(f"keys without effect: {without_effect(recipe)}")
    workers = recipe.data.num_parallel_workers or default_workers(device.local_ranks())
    return Setting(recipe, info, chosen, wanted or classes, workers)


def build(setting: Setting) -> nn.Cell:
    """The recipe's network, with the weights it starts from."""
    options = setting.recipe.model
    net = create_model(options.model, setting.num_classes, options.in_channels, options.drop_path_rate, options.img_size,
                       drop_rate=options.drop_rate, attn_drop_rate=options.attn_drop_rate)
    if isinstance(options.pretrained, bool) and options.pretrained:
        raise UserError("pretrained is True, but no weights are downloaded: give the file, pretrained: FILE or --ckpt_path FILE")
    start = options.ckpt_path or options.pretrained
    if start:
        report = load_weights(net, str(start))
        if setting.device.is_main:
            log.say(f"weights from {start}: {report}")
    return net


def evaluate(net: nn.Cell, step: EvalStep, source: Source, setting: Setting) -> Score:
    """Every picture of `source` once, whatever the batch and the number of ranks."""
    recipe, chosen = setting.recipe, setting.device
    net.set_train(False)
    correct1 = correct5 = count = 0
    loss = 0.0
    batches = eval_batches(source, batch_size=recipe.data.batch_size, size=setting.size, crop_pct=recipe.augment.crop_pct or setting.info.crop_pct,
                           interpolation=setting.interpolation, squeeze=setting.info.squeeze, ranks=chosen.ranks, rank=chosen.rank, workers=setting.workers)
    for images, labels in batches:
        ranks, losses = (output.asnumpy() for output in step(Tensor(images), Tensor(labels)))
        real = ranks >= 0
        count += int(real.sum())
        correct1 += int((real & (ranks < 1)).sum())
        correct5 += int((real & (ranks < 5)).sum())
        loss += float(losses.sum(dtype=np.float64))
    correct1, correct5, count, loss = parallel.total((correct1, correct5, count, loss), chosen.ranks)
    return Score(int(correct1), int(correct5), int(count), float(loss / max(count, 1)))


class Run:
    """One training run: the compiled steps, the data, and what is known so far."""

    def __init__(self, recipe: Recipe, config: Optional[str]):
        self.started = time.time()
        self.train = open_source(recipe.data, "train")
        self.val = open_source(recipe.data, "val", self.train.class_names)
        check_same_classes(self.train, self.val)
        self.setting = prepare(recipe, self.train)
        self.recipe, self.device, self.config = recipe, self.setting.device, config
        self.steps = steps_per_epoch(self.train, recipe.data, self.device.ranks)
        self.net = build(self.setting)
        parallel.same_weights(self.net, self.device.ranks)
        self.folder = Path(recipe.checkpoint.ckpt_save_dir)
        self.keeper = checkpoint.Keeper(self.folder, recipe.model.model, recipe.checkpoint.keep_checkpoint_max)
        self.meter = Meter(recipe.data.batch_size * self.device.ranks)
        self.best = -1
        mean, std = self.setting.statistics
        set_precision(self.net, self.device.amp_level, self.device.half)
        self.net.set_train(True)
        decayed = [is_decayed(item.name, item.ndim, recipe.optim.weight_decay_filter, self.net.no_weight_decay()) for item in self.net.trainable_params()]
        self.step = TrainStep(self.net, decayed, step_options(self.setting))
        self.eval_step = EvalStep(self.net, mean, std)

    def say(self, text: str) -> None:
        """Print on the main rank."""
        if self.device.is_main:
            log.say(text)

    def compile(self) -> None:
        """Build the training graph before the first batch is asked for."""
        if self.recipe.runtime.mode == 0:
            self.say("compiling the training step ...")
            start = time.perf_counter()
            self.step.compile(*first_inputs(self.recipe.data.batch_size, self.setting.size, self.recipe.model.in_channels))
            self.meter.compile_seconds = time.perf_counter() - start
            self.say(f"compiled in {self.meter.compile_seconds:.1f} s")
        set_precision(self.net, self.device.val_amp_level, self.device.half)

    def fit(self) -> dict[str, Any]:
        """Train, validate, save, epoch by epoch; the result row."""
        schedule, recipe = self.recipe.schedule, self.recipe
        self.describe()
        self.compile()
        if self.device.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "recipe.yaml").write_text(describe(recipe) + "\n", encoding="utf-8")
        progress = log.Progress(self.steps * schedule.epoch_size, schedule.epoch_size, recipe.log.log_interval, self.device.is_main)
        score = average = None
        path: Optional[Path] = None
        for epoch in range(schedule.epoch_size):
            loss = self.train_epoch(epoch, progress)
            last = epoch + 1 == schedule.epoch_size
            if last or (recipe.log.val_while_train and (epoch + 1) % recipe.log.val_interval == 0):
                score, average = self.validate()
                self.note(epoch, loss, score, average)
            if self.device.is_main and (last or (epoch + 1) % recipe.checkpoint.ckpt_save_interval == 0):
                path = self.save(epoch + 1, score, average)
        progress.close()
        assert score is not None
        return self.finish(score, average, path)

    def train_epoch(self, epoch: int, progress: log.Progress) -> float:
        """All steps of an epoch; the mean loss."""
        recipe, setting = self.recipe, self.setting
        batches = train_batches(self.train, recipe.data, recipe.augment, size=setting.size, interpolation=setting.interpolation,
                                mean=setting.statistics[0], epoch=epoch, seed=recipe.runtime.seed, ranks=self.device.ranks, rank=self.device.rank,
                                workers=setting.workers)
        self.net.set_train(True)
        losses = []
        began = time.perf_counter()
        for index, (images, labels) in enumerate(self.meter.waiting(batches)):
            number = epoch * self.steps + index
            lr = learning_rate(number, schedule=recipe.schedule, steps_per_epoch=self.steps, global_batch=self.meter.pictures)
            chance = draw(recipe.augment, batch=len(labels), size=setting.size, channels=images.shape[-1], seed=recipe.runtime.seed, step=number,
                          rank=self.device.rank)
            loss, norm, scale = (float(output.asnumpy()) for output in self.step(
                Tensor(images), Tensor(labels), *(Tensor(item) for item in chance), Tensor(lr, ms.float32)))
            self.check(number, loss, norm)
            losses.append(loss)
            now = time.perf_counter()
            self.meter.step(now - began)
            began = now
            progress.update(epoch, self.line(losses, lr, scale))
        return float(np.mean(losses))

    def line(self, losses: list[float], lr: float, scale: float) -> dict[str, str]:
        """What a progress line shows."""
        values = {"loss": f"{np.mean(losses[-20:]):.4f}", "lr": f"{lr:.2e}", "img/s": f"{self.meter.pictures_per_second:.0f}",
                  "data wait": f"{100 * self.meter.wait_share:.0f} %"}
        return {**values, "scale": f"{scale:.0f}"} if self.step.scaled else values

    def check(self, number: int, loss: float, norm: float) -> None:
        """Stop at the first loss that is no number; without a loss scale, at the first such gradient too."""
        if not math.isfinite(loss) or not (self.step.scaled or math.isfinite(norm)):
            raise TrainingFailed(f"step {number + 1}: loss {loss}, gradient norm {norm}: the run has diverged and stops; the last checkpoint in "
                                 f"{self.folder} is untouched (a lower lr, a longer warm-up or clip_grad: True may help)")

    def validate(self) -> tuple[Score, Optional[Score]]:
        """Scores of the weights and, with ema, of their average."""
        score = evaluate(self.net, self.eval_step, self.val, self.setting)
        if not self.recipe.optim.ema:
            return score, None
        self.step.swap_average()
        average = evaluate(self.net, self.eval_step, self.val, self.setting)
        self.step.swap_average()
        return score, average

    def note(self, epoch: int, loss: float, score: Score, average: Optional[Score]) -> None:
        """One line on the screen and one in the run's CSV."""
        self.say(f"epoch {epoch + 1}/{self.recipe.schedule.epoch_size}  train loss {loss:.4f}  {score}" + (f"  ema {average}" if average else ""))
        if self.device.is_main:
            log.append_csv(self.folder / "log.csv", {
                "epoch": epoch + 1, "train_loss": f"{loss:.6f}", "val_loss": f"{score.loss:.6f}", "top1": f"{score.top1:.4f}", "top5": f"{score.top5:.4f}",
                "ema_top1": f"{average.top1:.4f}" if average else "", "img_s": f"{self.meter.pictures_per_second:.1f}"})

    def save(self, epoch: int, score: Optional[Score], average: Optional[Score]) -> Path:
        """Checkpoint after `epoch` epochs."""
        leader = max((item for item in (score, average) if item), key=lambda item: item.correct1, default=None)
        better = leader is not None and leader.correct1 > self.best
        if leader is not None and better:
            self.best = leader.correct1
        meta = {"model": self.setting.info.name, "num_classes": self.setting.num_classes, "class_names": list(self.train.class_names), "epoch": epoch,
                "score": dataclasses.asdict(score) if score else None, "recipe": self.recipe.flat(), "mindvit": __version__, "mindspore": ms.__version__}
        return self.keeper.save(epoch, [*self.net.get_parameters(), *self.step.state()], meta, better)

    def describe(self) -> None:
        """The run in a few lines, before it starts."""
        data, params = self.recipe.data, sum(item.size for item in self.net.trainable_params())
        self.say(f"model: {self.setting.info.name}, {params / 1e6:.2f} M parameters, {self.setting.size} px, {self.setting.num_classes} classes")
        self.say(f"data: {data.dataset}{' in ' + data.data_dir if data.data_dir else ''}, {len(self.train)} training and {len(self.val)} validation pictures; "
                 f"{self.steps} steps of {data.batch_size} x {self.device.ranks} an epoch, {self.recipe.schedule.epoch_size} epochs")

    def finish(self, score: Score, average: Optional[Score], path: Optional[Path]) -> dict[str, Any]:
        """The performance row: shown, as JSON beside the checkpoints, and appended to the results."""
        recipe, meter = self.recipe, self.meter
        row = {
            "model": self.setting.info.name, "params (M)": round(sum(item.size for item in self.net.trainable_params()) / 1e6, 2),
            "cards": f"{self.device.ranks} x {self.device.target}", "batch size": recipe.data.batch_size, "resolution": f"{self.setting.size}x{self.setting.size}",
            "jit level": self.device.jit_level, "graph compile": f"{meter.compile_seconds:.1f} s", "ms/step": round(meter.ms_per_step, 2),
            "img/s": round(meter.pictures_per_second, 2), "acc@top1": round(score.top1, 2), "acc@top5": round(score.top5, 2),
            "recipe": self.config or "command line", "checkpoint": str(path)}
        if average:
            row["ema acc@top1"] = round(average.top1, 2)
        if self.device.is_main:
            log.say("\n" + log.table(row) + "\n")
            more = {"precision": f"{self.device.amp_level} {recipe.precision.amp_type if self.device.half else 'float32'}", "epochs": recipe.schedule.epoch_size,
                    "data wait": round(meter.wait_share, 4), "seconds": round(time.time() - self.started, 1), "mindspore": ms.__version__,
                    "mindvit": __version__, "machine": f"{platform.machine()}, {platform.system()}", "date": datetime.date.today().isoformat()}
            log.write_json(self.folder / "result.json", {**row, **more})
            log.append_csv(Path(recipe.log.results_csv), {**{key: value for key, value in row.items() if key != "ema acc@top1"}, **more})
        return row


def step_options(setting: Setting) -> StepOptions:
    """What a recipe means for the compiled step."""
    recipe, half = setting.recipe, setting.device.half
    optim, augment, precision = recipe.optim, recipe.augment, recipe.precision
    mean, std = setting.statistics
    scaled = precision.loss_scale_type != "auto" or (half == ms.float16 and setting.device.amp_level != "O0")
    return StepOptions(
        mean=mean, std=std, erase=augment.re_prob > 0, mix=augment.mixup > 0 or augment.cutmix > 0, smoothing=optim.label_smoothing, betas=optim.betas,
        eps=optim.eps, weight_decay=optim.weight_decay, clip_norm=optim.clip_value if optim.clip_grad else 0.0,
        ema_decay=optim.ema_decay if optim.ema else 0.0, loss_scale=precision.loss_scale if scaled else 0.0,
        dynamic_scale=scaled and precision.loss_scale_type != "fixed", ranks=setting.device.ranks)


def fit(recipe: Recipe, config: Optional[str] = None) -> dict[str, Any]:
    """Train as `recipe` says; the result row. `config` is the recipe's file, for the row."""
    return Run(recipe, config).fit()


def validate(recipe: Recipe) -> Score:
    """Accuracy of recipe.model.ckpt_path on the validation pictures, printed and returned."""
    path = recipe.model.ckpt_path
    if not path:
        raise UserError("validate.py needs the weights to measure: --ckpt_path FILE")
    _, meta = read_weights(path)
    if meta and model_info(recipe.model.model).name != meta["model"]:
        raise UserError(f"{path} is a checkpoint of {meta['model']}, but the recipe's model is {recipe.model.model}")
    source = open_source(recipe.data, "val", tuple(meta["class_names"]) if meta else None)
    setting = prepare(recipe, source)
    net = build(setting)
    set_precision(net, setting.device.val_amp_level, setting.device.half)
    start = time.perf_counter()
    score = evaluate(net, EvalStep(net, *setting.statistics), source, setting)
    if setting.device.is_main:
        log.say(f"{setting.info.name}  {score}  {score.count / (time.perf_counter() - start):.1f} img/s, compiling included")
    return score
