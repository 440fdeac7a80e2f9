"""Strict loading from mappings and files."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from safetensors.numpy import save_file

from mindvit.errors import UserError
from mindvit.models import create_model
from mindvit.weights import WeightsError, load_weights, read_weights
from mindvit.weights.load import resize_position


def network(num_classes: int = 3, img_size: tuple[int, int] = (24, 16)) -> nn.Cell:
    return create_model("crossvit_tiny", num_classes=num_classes, img_size=img_size)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {item.name: random.standard_normal(item.shape).astype(np.float32) for item in network().get_parameters()}


def holds(net: nn.Cell, weights: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(item.asnumpy(), weights[item.name]) for item in net.get_parameters())


def test_a_mapping(weights: dict[str, np.ndarray]) -> None:
    net = network()
    report = load_weights(net, weights)
    assert holds(net, weights) and len(report.loaded) == len(weights) and str(report) == f"{len(weights)} loaded"
    assert not (report.resized or report.missing or report.unexpected or report.differing)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors", ".npz"])
def test_files_of_every_format(weights: dict[str, np.ndarray], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".ckpt":
        ms.save_checkpoint([{"name": name, "data": ms.Tensor(value)} for name, value in weights.items()], str(path))
    elif suffix == ".safetensors":
        save_file(weights, path)
    else:
        np.savez(path, **weights)
    net = network()
    load_weights(net, path)
    assert holds(net, weights)
    renamed = path.rename(tmp_path / "weights.bin")  # the content tells the format, but MindSpore's own reader insists on its name
    if suffix == ".ckpt":
        with pytest.raises(UserError, match="name in .ckpt"):
            read_weights(renamed)
    else:
        assert set(read_weights(renamed)[0]) == set(weights)


def test_anything_that_differs_is_refused_and_changes_nothing(weights: dict[str, np.ndarray]) -> None:
    net = network()
    before = {item.name: item.asnumpy().copy() for item in net.get_parameters()}
    lacking = {name: value for name, value in weights.items() if name != "norm.0.bias"}
    with pytest.raises(WeightsError, match="1 missing: norm.0.bias") as caught:
        load_weights(net, lacking)
    assert caught.value.report.missing == ["norm.0.bias"]
    with pytest.raises(WeightsError, match="1 unexpected: extra.weight"):
        load_weights(net, {**weights, "extra.weight": np.zeros(3, np.float32)})
    with pytest.raises(WeightsError, match=r"head.0.weight \(3, 96\) instead of \(7, 96\)"):
        load_weights(network(num_classes=7), weights)
    assert holds(net, before)


def test_what_may_differ_is_named_by_the_caller(weights: dict[str, np.ndarray]) -> None:
    net = network(num_classes=7)
    head = net.head[0].weight.asnumpy().copy()
    report = load_weights(net, {**weights, "extra.weight": np.zeros(3, np.float32)}, may_differ=["head.*", "extra.*"])
    assert np.array_equal(net.head[0].weight.asnumpy(), head) and len(report.differing) == 4 and report.unexpected == ["extra.weight"]
    assert np.array_equal(net.norm[0].weight.asnumpy(), weights["norm.0.weight"])


def test_position_embeddings_are_resized_only_when_asked(weights: dict[str, np.ndarray]) -> None:
    with pytest.raises(WeightsError, match="resize=True"):
        load_weights(network(img_size=(48, 32)), weights)
    net = network(img_size=(48, 32))
    report = load_weights(net, weights, resize=True)
    assert sorted(report.resized) == ["pos_embed.0", "pos_embed.1"]
    table = {item.name: item.asnumpy() for item in net.get_parameters()}["pos_embed.0"]
    assert np.array_equal(table[:, 0], weights["pos_embed.0"][:, 0])  # the class token's stays


def test_resizing_keeps_a_plane_and_the_orientation() -> None:
    rows = np.concatenate([np.zeros(1), np.repeat(np.arange(4.0), 4)]).reshape(1, 17, 1).astype(np.float32)
    larger = resize_position(rows, (1, 65, 1))[0, 1:, 0].reshape(8, 8)
    assert np.abs(larger - larger[:, :1]).max() < 1e-6 and (np.diff(larger[:, 0]) > 0).all()
    with pytest.raises(UserError, match="square"):
        resize_position(rows, (1, 60, 1))


def test_pickles_are_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "old.pth").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(UserError, match="pickle"):
        read_weights(tmp_path / "old.pth")
    np.savez(tmp_path / "new.npz", **{"archive/data.pkl": np.zeros(1)})
    with pytest.raises(UserError, match="PyTorch file"):
        read_weights(tmp_path / "new.npz")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_truncated_files(weights: dict[str, np.ndarray], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(path, **weights)
    else:
        save_file(weights, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="damaged") as caught:
        read_weights(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
