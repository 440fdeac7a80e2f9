"""Parts of a network that are not trained: which they are, how they compute, and what a step leaves alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor, nn
from small import SIDE, SMALL, small
from steps import neutral_inputs, objective

from mindvit.benchmark.census import Graph
from mindvit.engine.step import TrainStep
from mindvit.engine.trainer import Trainer
from mindvit.engine.update import StepOptions
from mindvit.errors import UserError
from mindvit.layers.drop_path import Residual
from mindvit.layers.norm import BatchNorm
from mindvit.models import create_model
from mindvit.optim.freeze import freeze, frozen_weights, set_train
from mindvit.recipe.commandline import parse
from mindvit.weights.readers import read
from mindvit.weights.write import save

# of each family's small network: the first weight that is trained when the first block is frozen too
AFTER_ONE = {
    "crossvit": "blocks.1.blocks.0.0.norm1.weight",
    "cvt": "stage1.patch_embed.proj.weight",
    "crossformer": "layers.0.downsample.reductions.0.weight",
    "xcit": "blocks.1.gamma1",
}


def trained(net: nn.Cell) -> list[str]:
    return [item.name for item in net.trainable_params()]


@pytest.mark.parametrize("family", SMALL)
def test_the_first_parts_of_every_family(family: str) -> None:
    names = trained(small(family))
    assert {name for name in names if name not in frozen_weights(names, "all")} == {
        name for name in names if name.startswith("head.")
    }
    stem, one = frozen_weights(names, "stem"), frozen_weights(names, 1)
    assert stem < one and not any("blocks." in name for name in stem)
    assert min(set(names) - one, key=names.index) == AFTER_ONE[family]
    with pytest.raises(UserError, match=r"freeze is 99, but the network has \d blocks \(all:"):
        frozen_weights(names, 99)


def test_frozen_cells_compute_as_in_evaluation() -> None:
    net = small("xcit", drop_path_rate=0.2, drop_rate=0.1)
    frozen = freeze(net, 1)
    set_train(net, frozen)
    first, second = (
        {cell.training for _, cell in block.cells_and_names() if isinstance(cell, (BatchNorm, Residual, nn.Dropout))}
        for block in net.blocks
    )
    assert (first, second) == ({False}, {True})
    assert not net.pos_drop.drop.training and net.norm.training
    assert {"patch_embed.proj.0.1.running_mean", "blocks.0.local_mp.bn.running_var"} < frozen
    assert not any(name.startswith("blocks.1.") for name in frozen)
    set_train(net, ())
    assert all(cell.training for _, cell in net.cells_and_names())


def test_of_a_segmentor_the_backbone_is_frozen_and_not_what_was_added_to_it() -> None:
    net = create_model("upernet", backbone="xcit_nano_12_p16_224", num_classes=3, channels=8)
    frozen = freeze(net, "all")
    left = trained(net)
    assert not any("blocks." in name for name in left)
    assert {name.split(".")[0] for name in left} == {"backbone", "decode_head", "auxiliary_head"}
    assert {name.split(".")[1] for name in left if name.startswith("backbone.")} == {"fpn1", "fpn2"}
    set_train(net, frozen)
    assert not net.backbone.net.blocks[0].training and net.backbone.resizers[0].training
    assert net.decode_head.training


@pytest.mark.usefixtures("small_networks")
def test_a_run_says_what_is_frozen_and_keeps_the_rates_of_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["--model", "small_xcit", "--dataset", "digits", "--image_resize", "32", "--device_target", "CPU"]
    words += ["--layer_decay", "0.5", "--ckpt_save_dir", str(tmp_path)]
    trainer = Trainer(parse([*words, "--freeze", "1"], "")[0])
    trainer.announce()
    told = capsys.readouterr().out
    assert re.search(r"\nfreeze: 1: 0.0\d+ of 0.0\d+ M parameters are trained\n", told)
    assert "WARNING: what is frozen has initial values: no weights to start from are given (pretrained)" in told
    whole = Trainer(parse(words, "")[0])
    rates = dict(zip(trained(whole.net), whole.runner.step.update.optimizer.lr_scales))
    left = dict(zip(trained(trainer.net), trainer.runner.step.update.optimizer.lr_scales))
    assert 0 < len(left) < len(rates) and left == {name: rates[name] for name in left}
    with pytest.raises(UserError, match="command line: freeze is 9, but the network has 4 blocks"):
        Trainer(parse([*words, "--freeze", "9"], "")[0])


@pytest.mark.slow
def test_a_step_of_a_linear_probe_touches_the_classifier_alone(tmp_path: Path) -> None:
    net = small("xcit", drop_path_rate=0.2)
    frozen = freeze(net, "all")
    set_train(net, frozen)
    step = TrainStep(objective(net), net, [True] * 2, StepOptions(ema_decay=0.5), None, frozen)
    inputs = list(neutral_inputs(2, SIDE["xcit"], 3, step.drop_paths))
    gradients = [node for node in Graph(step, *inputs).nodes.values() if "Gradients/" in node.full_name]
    assert 0 < len(gradients) < 30, "the loss's and the classifier's; the whole network's are some thousand"
    assert len(step.state()) == 2 * 2 + 1 + 2 + 2  # moments and their count, averages, loss scale
    before = {item.name: item.asnumpy().copy() for item in net.get_parameters()}
    inputs[0] = Tensor(np.random.default_rng(0).integers(0, 256, inputs[0].shape).astype(np.uint8))
    inputs[1], inputs[-1] = Tensor(np.array([0, 3], np.int32)), Tensor(np.float32(0.1))
    step(*inputs)
    moved = {item.name for item in net.get_parameters() if not np.array_equal(before[item.name], item.asnumpy())}
    assert moved == {"head.weight", "head.bias"}
    path = tmp_path / "a.ckpt"
    save(path, [*net.get_parameters(), *step.state()], {"best_weights": "ema"})
    average = read(path)
    assert average.taken == "ema" and set(average.arrays) == set(before)
    halfway = (before["head.bias"] + net.head.bias.asnumpy()) / 2
    np.testing.assert_allclose(average.arrays["head.bias"], halfway, atol=1e-6)
    assert np.array_equal(average.arrays["norm.weight"], before["norm.weight"])
