"""Weights told apart from averages of them and from what MindSpore's and MindCV's training puts beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import mindspore as ms
import numpy as np
import pytest
from image_files import make_data_dir
from mindspore import Tensor, nn
from mindspore.experimental import optim as experimental
from oracle import lists
from small import small

import validate
from mindvit import create_model
from mindvit.errors import UserError
from mindvit.models import mindcv
from mindvit.weights import WeightsError, load_weights
from mindvit.weights.readers import read
from mindvit.weights.sets import average_of, optimizer_values

pytestmark = pytest.mark.usefixtures("small_networks")


def values(net: nn.Cell) -> dict[str, np.ndarray]:
    return {item.name: item.asnumpy() for item in net.get_parameters()}


def holds(net: nn.Cell, expected: dict[str, np.ndarray]) -> bool:
    found = values(net)
    return set(found) == set(expected) and all(np.array_equal(found[name], value) for name, value in expected.items())


@pytest.fixture(scope="module")
def net() -> nn.Cell:
    return small("xcit")  # whose names hold another's: cls_attn_blocks.0.norm1.weight, blocks.0.norm1.weight


def adan(weights: list[Any]) -> nn.Cell:
    from mindcv.optim import create_optimizer

    return create_optimizer(weights, "adan", lr=0.1)


def lion(weights: list[Any]) -> nn.Cell:
    from mindcv.optim import create_optimizer

    return create_optimizer(weights, "lion", lr=0.1)


def grouped(weights: list[Any]) -> nn.Cell:
    return nn.AdamWeightDecay([{"params": weights[:4], "lr": 0.1}, {"params": weights[4:], "lr": 0.2}])


OPTIMIZERS: dict[str, Callable[[list[Any]], nn.Cell]] = {
    "momentum": lambda weights: nn.Momentum(weights, 0.1, 0.9),
    "sgd": lambda weights: nn.SGD(weights, 0.1, 0.9),
    "adam": nn.Adam,
    "adam of steps": lambda weights: nn.Adam(weights, Tensor(np.full(7, 0.1, np.float32)), use_amsgrad=True),
    "adamw": nn.AdamWeightDecay,
    "adamax": nn.AdaMax,
    "lamb": lambda weights: nn.Lamb(weights, 0.1),
    "rmsprop": lambda weights: nn.RMSProp(weights, centered=True),
    "adagrad": nn.Adagrad,
    "ftrl": nn.FTRL,
    "adadelta": nn.Adadelta,
    "asgd": nn.ASGD,
    "rprop": nn.Rprop,
    "adafactor": lambda weights: nn.AdaFactor(weights, beta1=0.9),
    "groups": grouped,
    "mindcv adan": adan,
    "mindcv lion": lion,
    "experimental adamw": lambda weights: experimental.AdamW(weights, lr=0.1, amsgrad=True),
}


@pytest.mark.parametrize("which", OPTIMIZERS)
def test_the_values_of_every_optimizer_are_told_apart(net: nn.Cell, which: str, tmp_path: Path) -> None:
    made = OPTIMIZERS[which](net.trainable_params())
    own = values(net)
    beside = {name: value for name, value in values(made).items() if name not in own}
    assert beside
    path = tmp_path / "theirs.ckpt"
    ms.save_checkpoint([{"name": name, "data": Tensor(value)} for name, value in {**own, **beside}.items()], str(path))
    other = small("xcit")
    other.head.bias.set_data(Tensor(np.ones(5, np.float32)))
    report = load_weights(other, path)
    assert holds(other, own) and sorted(report.optimizer) == sorted(beside) and len(report.loaded) == len(own)
    assert f"{len(own)} loaded; {len(beside)} values of an optimizer ignored: " in str(report)


def test_an_unknown_optimizer_of_a_larger_cell_and_one_that_trained_the_head_alone(net: nn.Cell) -> None:
    own = values(net)
    unknown = {f"{prefix}.{name}": value for prefix in ("third", "fourth", "fifth") for name, value in own.items()}
    head = {f"optimizer.adam_m.{name}": own[name] for name in ("head.weight", "head.bias")}
    assert optimizer_values({**own, **unknown, **head, "optimizer.global_step": np.zeros(1)}) == {
        *unknown,
        *head,
        "optimizer.global_step",
    }
    few = {f"third.{name}": own[name] for name in ("head.weight", "head.bias")}
    assert optimizer_values({**own, **few}) == set()
    with pytest.raises(WeightsError, match=r"2 unexpected: third.head.bias, third.head.weight"):
        load_weights(small("xcit"), {**own, **few})


def test_no_weight_of_any_project_is_taken_for_an_optimizer_s() -> None:
    for file, shapes in lists().items():
        arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
        assert not optimizer_values(arrays) and not average_of(arrays), file


@pytest.fixture(scope="module")
def trained_by_mindcv(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Cell]:
    """What mindcv's training cell with a moving average saves after two steps of our network, and the network."""
    import mindcv as theirs
    from mindcv.utils.trainer_factory import create_trainer

    net = mindcv._entry_point("mindvit_nano", "nano")(num_classes=3)
    optimizer = theirs.optim.create_optimizer(net.trainable_params(), "adamw", lr=0.1)
    loss = nn.CrossEntropyLoss()
    trainer = create_trainer(
        net, loss, optimizer, {"accuracy"}, "O0", None, "fixed", 1.0, False, ema=True, ema_decay=0.5
    )
    random = np.random.default_rng(0)
    for _ in range(2):
        trainer.train_network(
            Tensor(random.standard_normal((4, 3, 16, 16)).astype(np.float32)), Tensor(np.array([0, 1, 2, 0], np.int32))
        )
    path = tmp_path_factory.mktemp("mindcv") / "nano-1_2.ckpt"
    ms.save_checkpoint(trainer.train_network, str(path))
    return path, net


def test_what_mindcv_s_training_saves_of_our_network(trained_by_mindcv: tuple[Path, nn.Cell]) -> None:
    path, trained = trained_by_mindcv
    own = values(trained)
    there = ms.load_checkpoint(str(path))
    assert len(there) > 3 * len(own) and {
        "global_step",
        "learning_rate",
        "adam_m.head.weight",
        "ema.head.weight",
    } <= set(there)
    net = create_model("nano", num_classes=3)
    report = load_weights(net, path)
    assert holds(net, own) and len(report.loaded) == len(own)
    assert len(report.optimizer) == len(there) - 2 * len(own) and "taken: model (also there: ema)" in str(report)
    assert "values of an optimizer ignored" in str(report)
    load_weights(net, path, take="ema")
    average = {name: there[f"ema.{name}"].asnumpy() for name in own}
    assert holds(net, average) and not np.array_equal(average["head.weight"], own["head.weight"])
    with pytest.raises(UserError, match="has no 'swa' to take, but model, ema"):
        read(path, "swa")


def test_validate_takes_it(
    trained_by_mindcv: tuple[Path, nn.Cell], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, _ = trained_by_mindcv
    data = make_data_dir(tmp_path, classes=3, train=1, val=2, modes=("jpeg_rgb",))
    validate.main(["--model", "nano", "--data_dir", str(data), "--ckpt_path", str(path), "--device_target", "CPU"])
    out = capsys.readouterr().out
    assert "values of an optimizer ignored" in out and "nano  top-1 " in out and "/6)" in out
