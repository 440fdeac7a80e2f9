"""Attention maps: they are the weights of the network that runs, and lie where in the image the keys are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Union

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image
from small import SMALL, inputs_of, small

from mindvit.cli import attention
from mindvit.errors import UserError
from mindvit.layers.activation import Softmax
from mindvit.models.crossformer import GroupAttention
from mindvit.visualization import attention_sheet
from mindvit.visualization.attention import (
    FIRST,
    AttentionMap,
    ChannelMatrix,
    Row,
    attention_maps,
    of_cvt,
    of_groups,
    record_attention,
    rollout_crossvit,
    rollout_cvt,
    windows,
)
from mindvit.visualization.grids import centres

FAMILIES = list(SMALL)
SIDE = {"crossvit": 60, "cvt": 128, "crossformer": 64, "xcit": 64}  # px: grids of some tokens
BIGGER: dict[str, dict[str, Any]] = {
    "crossvit": {"img_size": (60, 64), "depth": (1, 2)},
    "cvt": {},
    "crossformer": {"depths": (2, 1, 2, 1)},
    "xcit": {},
}


def network(family: str) -> Any:
    return small(family, **BIGGER[family]).set_train(False)


def noise(family: str) -> Tensor:
    return Tensor(np.random.default_rng(3).standard_normal((1, 3, SIDE[family], SIDE[family])).astype(np.float32))


def tiles(rows: list[Row]) -> list[Any]:
    return [tile for row in rows for tile in row.tiles]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_maps_are_those_of_the_network_that_runs(family: str) -> None:
    net, x = network(family), noise(family)
    net.set_train(True)
    before = net.set_train(False)(x).asnumpy()
    logits, rows = attention_maps(net, x)
    np.testing.assert_allclose(logits, before[0], atol=1e-6)
    assert ms.get_context("mode") == ms.GRAPH_MODE and not net.training
    np.testing.assert_array_equal(net(x).asnumpy(), before)  # nothing of the recording is left
    with record_attention(net) as weights:
        net(Tensor(np.repeat(x.asnumpy(), 2, 0)))
    assert len(weights) == sum(isinstance(cell, Softmax) for _, cell in net.cells_and_names()) > 2
    for values in weights.values():
        np.testing.assert_allclose(values.sum(-1), 1, atol=1e-5)
        assert values.min() >= 0 and values.dtype == np.float32
    for tile in tiles(rows):
        if isinstance(tile, ChannelMatrix):
            np.testing.assert_allclose(tile.values.sum(-1), 1, atol=1e-5)
        elif tile.unit == "x average":
            np.testing.assert_allclose(tile.values.mean((1, 2)), 1, atol=1e-5)
        elif tile.title != "rollout":
            np.testing.assert_allclose(
                np.nansum(tile.values, (1, 2)) + (0 if tile.rest is None else tile.rest), 1, atol=1e-5
            )


def test_recording_a_part_leaves_the_rest_alone_and_an_error_no_hook() -> None:
    net, x = network("cvt"), noise("cvt")
    with pytest.raises(ZeroDivisionError), record_attention(net, "stage2.") as weights:
        net(x)
        assert set(weights) == {"stage2.blocks.0.attn", "stage2.blocks.1.attn"}
        raise ZeroDivisionError
    assert ms.get_context("mode") == ms.GRAPH_MODE
    kept = dict(weights)
    with record_attention(net):
        net(2 * x)
    assert all(weights[name] is kept[name] for name in kept)


@pytest.mark.parametrize(
    "family, shapes",
    [
        ("crossvit", [(1, 5, 5)] * 5 + [(1, 4, 4)] * 4 + [(1, 4, 4)] * 6 + [(1, 5, 5)] * 6),
        ("cvt", [(1, 8, 8), (1, 4, 4)] + [(1, 4, 4)] * 2 + [(1, 4, 4)] * 3),
        ("crossformer", [(1, 2, 2)] + [(1, 16, 16)] * 4 + [(1, 8, 8)] * 2 + [(1, 4, 4)] * 2 + [(1, 2, 2)] * 2),
        ("xcit", [(1, 4, 4)] * 7 + [(16, 16)] * 4),
    ],
)
def test_every_family_shows_its_grids(family: str, shapes: list[tuple[int, ...]]) -> None:
    rows = attention_maps(network(family), noise(family))[1]
    assert [tile.values.shape for tile in tiles(rows)] == shapes
    assert all(tile.title for tile in tiles(rows)) and all(row.title for row in rows)
    assert rows[0].title.startswith(FIRST) and len(rows[0].tiles) == 1


def put(weights: dict[str, Any], name: str, place: tuple[Union[int, slice], ...], value: float) -> None:
    array = weights[name].asnumpy().copy()
    array[place] = value
    weights[name].set_data(Tensor(array))


def planted(family: str) -> Any:
    """A network of identities in which tokens carry the brightness of their place, and every query asks for it."""
    net = network(family)
    weights = {item.name: item for item in net.get_parameters()}
    for name, item in weights.items():
        is_norm = item.ndim == 1 and name.endswith("weight")
        if not name.endswith(("running_var", "temperature")):
            item.set_data(Tensor(np.full(item.shape, float(is_norm), np.float32)))
    for name, item in weights.items():
        channels = item.shape[0]
        if (
            item.ndim == 4
            and ("patch_embed" in name or "reductions.0" in name)
            and not (family == "crossformer" and "projs" in name and "projs.0" not in name)
        ):
            put(
                weights, name, (0, 0), 1 / item.shape[2] ** 2
            )  # the brightness stays in channel 0, and channel 1 has something to compare it with
            bias = name.replace("weight", "bias")
            if bias in weights:
                put(weights, bias, (1,), 1.0)
        elif name.endswith("conv_proj_k.conv.weight"):
            put(weights, name, (slice(None), 0, 1, 1), 1.0)
        elif name.endswith("qkv.weight"):
            put(weights, name, (channels // 3, 0), 1.0)
        elif name.endswith(("wk.weight", "proj_k.weight")):
            put(weights, name, (0, 0), 1.0)
        elif name.endswith(("qkv.bias", "wq.bias", "proj_q.bias")):
            put(weights, name, (0,), 20.0)
    if family == "xcit":
        last = max(name for name in weights if name.startswith("patch_embed.proj.") and name.endswith("1.bias"))
        put(weights, last, (1,), 1.0)
    return net


@pytest.mark.parametrize(
    "family, spot",
    [
        ("crossvit", (36, 48, 12, 24)),
        ("cvt", (60, 72, 28, 40)),
        ("crossformer", (36, 40, 44, 48)),
        ("xcit", (28, 36, 44, 52)),
    ],
)
def test_attention_that_is_planted_in_one_place_is_shown_there(family: str, spot: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = spot
    side = SIDE[family]
    image = np.zeros((1, 3, side, side), np.float32)
    image[:, 0, top:bottom, left:right] = 3
    at = (top + bottom) / 2 / side, (left + right) / 2 / side
    maps = [
        tile for tile in tiles(attention_maps(planted(family), Tensor(image), at)[1]) if isinstance(tile, AttentionMap)
    ]
    shown = [
        tile for tile in maps if not tile.title.startswith("head") or tile.title == "head 1"
    ]  # the planted query is in the first head's channels
    assert len(shown) >= 3
    for tile in shown:
        mean = tile.values.mean(0)
        most = np.unravel_index(np.nanargmax(mean), mean.shape)
        y, x = (first + step * index for first, step, index in zip(tile.first, tile.step, most))
        reach = max(tile.step) / 2  # px: a token may be centred that far off
        assert (
            np.nansum(mean >= np.nanmax(mean) - 1e-6) == 1
            and abs(y - (top + bottom) / 2) <= reach
            and abs(x - (left + right) / 2) <= reach
        ), tile.title
        if tile.query is not None:
            assert abs(tile.query[0] - (top + bottom) / 2) <= reach and abs(tile.query[1] - (left + right) / 2) <= reach


def test_where_convolutions_are_centred() -> None:
    found = {
        name: centres(small(family).patch_embed[index] if family == "crossvit" else small(family).patch_embed)
        for name, family, index in (("crossvit", "crossvit", 0), ("xcit", "xcit", 0))
    }
    assert found == {
        "crossvit": (6.0, 12.0),
        "xcit": (0.5, 16.0),
    }  # 3x3, stride 2, padding 1: the first output looks at the first pixel
    rows = attention_maps(network("cvt"), noise("cvt"))[1]
    places = [[(tile.first, tile.step) for tile in row.tiles if isinstance(tile, AttentionMap)] for row in rows]
    assert set(places[1]) == {((1.5, 1.5), (32.0, 32.0))} and places[0][0][1] == (16.0, 16.0)


@pytest.mark.parametrize(
    "grid, rule, place, members",
    [
        ((16, 16), (7, 8, False, "head"), (8, 2), ([*range(7, 14)], [*range(7)])),
        ((16, 16), (7, 8, False, "head"), (15, 15), ([14, 15], [14, 15])),
        ((28, 28), (7, 4, True, "head"), (5, 2), ([*range(1, 28, 4)], [*range(2, 28, 4)])),
        ((16, 16), (7, 8, True, "head"), (11, 13), ([3, 11], [5, 13])),
        ((4, 6), (7, 1, True, "head"), (1, 1), ([*range(4)], [*range(6)])),
    ],
)
def test_groups_are_mapped_back_to_their_tokens(
    grid: tuple[int, int], rule: Any, place: tuple[int, int], members: tuple[list[int], list[int]]
) -> None:
    """All queries ask for the same; by the cell's own grouping, what is seen of each token is the softmax over its
    group's members.
    """
    cell = GroupAttention(32, 2, rule, 0.0, 0.0).set_train(False)
    for item in cell.get_parameters():
        item.set_data(Tensor(np.zeros(item.shape, np.float32)))
    weights = {item.name: item for item in cell.get_parameters()}
    put(weights, "qkv.weight", (32, 0), 1.0)
    put(weights, "qkv.bias", (0,), 4.0)
    rows = np.zeros((grid[0] * grid[1], 32), np.float32)
    rows[:, 0] = np.random.default_rng(0).standard_normal(len(rows))
    with record_attention(cell) as found:
        cell(Tensor(rows), 1, grid)
    query, received = of_groups(cell, found["softmax"], grid, place)
    ys, xs = members
    inside = np.zeros(grid, bool)
    inside[np.ix_(ys, xs)] = True
    assert (np.isfinite(query[0]) == inside).all() and query.shape == received.shape == (2, *grid)
    scores = rows[:, 0].reshape(grid)  # 4 of the query, times d ** -0.5 = 1 / 4
    expected = np.exp(scores[inside]) / np.exp(scores[inside]).sum()
    np.testing.assert_allclose(query[0][inside], expected, rtol=1e-4)
    np.testing.assert_allclose(query[1][inside], 1 / inside.sum(), rtol=1e-5)
    np.testing.assert_allclose(
        received[0][inside], expected * inside.sum(), rtol=1e-4
    )  # every query of the group asks the same
    np.testing.assert_allclose(received.mean((1, 2)), 1, rtol=1e-5)


def test_rollout_of_both_branches_of_crossvit() -> None:
    """By hand: two blocks a branch, grids of 1 and 2 a side, one multi-scale block; identities in the branches, one
    key in each fusion.
    """
    net: Any = SimpleNamespace(grids=[2, 1], blocks=[SimpleNamespace(blocks=[[0], [0]])])
    weights = {
        "blocks.0.blocks.0.0.attn": np.eye(5)[None, None],
        "blocks.0.blocks.1.0.attn": np.eye(2)[None, None],
        "blocks.0.fusion.0.attn": np.array([[[0.0, 1.0]]]),
        "blocks.0.fusion.1.attn": np.array([[[0.5, 0, 0, 0.5, 0]]]),
    }
    small_tokens, large_tokens = rollout_crossvit(net, weights)
    np.testing.assert_allclose(
        small_tokens, np.array([0.5, 0, 0, 0.25, 0]) / 2
    )  # half its own; the large token's quarter went to the third patch
    np.testing.assert_allclose(large_tokens, np.array([0.75, 0.5]) / 2)


def test_rollouts_are_shares_of_the_whole() -> None:
    rng = np.random.default_rng(0)

    def attention_of(*shape: int) -> np.ndarray:
        raw = rng.random(shape)
        return raw / raw.sum(-1, keepdims=True)

    net: Any = SimpleNamespace(grids=[3, 2], blocks=[SimpleNamespace(blocks=[[0], [0, 0]])] * 2)
    weights = {
        f"blocks.{block}.fusion.{branch}.attn": attention_of(1, 2, tokens)
        for block in (0, 1)
        for branch, tokens in ((0, 5), (1, 10))
    }
    weights.update(
        {
            f"blocks.{block}.blocks.{branch}.{layer}.attn": attention_of(1, 2, tokens, tokens)
            for block in (0, 1)
            for branch, layer, tokens in ((0, 0, 10), (1, 0, 5), (1, 1, 5))
        }
    )
    assert sum(part.sum() for part in rollout_crossvit(net, weights)) == pytest.approx(1)
    assert rollout_cvt([attention_of(26, 10), attention_of(1, 10)], (5, 5)).sum() == pytest.approx(1)


def test_rollout_of_cvt_puts_strided_keys_on_their_tokens() -> None:
    layer = np.zeros((26, 10))
    layer[:, 1 + 4] = 1  # everybody looks at the key in the middle of 3 x 3
    rolled = rollout_cvt([layer, layer[:1]], (5, 5))
    grid = rolled[1:].reshape(5, 5)
    assert np.unravel_index(grid.argmax(), grid.shape) == (2, 2) and rolled[0] == pytest.approx(0.25)
    np.testing.assert_allclose(grid, grid.T)
    assert (grid[[0, 4]] == 0).all() and (grid[1:4, 1:4] > 0).all()
    np.testing.assert_allclose(windows(4), [[2 / 3, 1 / 3, 0, 0], [0, 0.25, 0.5, 0.25]])


def test_rollout_of_cvt_shows_no_border_where_attention_is_even() -> None:
    net = network("cvt")
    with record_attention(net, "stage2.") as weights:
        net(noise("cvt"))
    even = {name: np.full_like(values, 1 / values.shape[-1]) for name, values in weights.items()}
    rolled = of_cvt(net, even, (SIDE["cvt"],) * 2, (0.5, 0.5))[0].tiles[0]
    assert isinstance(rolled, AttentionMap) and rolled.values.shape == (1, 8, 8)
    np.testing.assert_allclose(rolled.values, 1, rtol=1e-5)


def test_one_image_of_a_network_that_is_known() -> None:
    with pytest.raises(UserError, match="one image at a time"):
        attention_maps(network("xcit"), inputs_of("xcit"))
    with pytest.raises(UserError, match="this is Dense"):
        attention_maps(ms.nn.Dense(2, 2), noise("xcit"))


def test_a_sheet_has_all_tiles_and_clips_no_text() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    font = attention_sheet.fonts()
    rows = (
        attention_maps(network("crossformer"), noise("crossformer"))[1]
        + attention_maps(network("xcit"), noise("xcit"))[1]
    )
    made = attention_sheet.sheet(
        image, "a very long name " * 9, [("class " * 30, 0.7), ("other", 0.3)], rows, "foot " * 99, font
    )
    ink = np.asarray(made.convert("L")) < 250
    margin = attention_sheet.MARGIN // 2
    assert not (ink[:margin].any() or ink[-margin:].any() or ink[:, :margin].any() or ink[:, -margin:].any())
    assert (
        attention_sheet.fitted("class " * 30, font.label, 100).endswith("...")
        and font.label.getlength(attention_sheet.fitted("class " * 30, font.label, 100)) <= 100
    )
    with pytest.raises(UserError, match="--font nowhere.ttf can't be read"):
        attention_sheet.fonts(Path("nowhere.ttf"))


def test_the_command_draws_a_png_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    np.savez(tmp_path / "weights.npz", **{item.name: item.asnumpy() for item in small("xcit").get_parameters()})
    monkeypatch.setattr(
        "mindvit.tasks.classification.task.create_model", lambda name, count, *_, **__: small("xcit", num_classes=count)
    )
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("L", (40, 30), 99).save(tmp_path / folder / "it.png")
    (tmp_path / "b" / "broken.jpg").write_bytes(b"nothing")
    options = [
        "--ckpt_path",
        str(tmp_path / "weights.npz"),
        "--model",
        "xcit_nano_12_p16_224",
        "--device_target",
        "CPU",
        "--out",
        str(tmp_path / "out"),
    ]
    with pytest.raises(UserError, match="1 of 3 images") as caught:
        attention.main([str(tmp_path / "a" / "it.png"), str(tmp_path / "b"), *options])
    assert caught.value.exit_code == 1 and "broken.jpg can't be decoded" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["it-attention-2.png", "it-attention.png"]
    one = [str(tmp_path / "a" / "it.png"), *options, "--classes", str(tmp_path / "names.txt")]
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\nfour\nfive\n", "utf-8")
    attention.main([*one, "--method", "gradcam", "--of", "two"])
    attention.main([*one, "--method", "gradcam", "--slide"])
    assert Image.open(tmp_path / "out" / "it-slide.png").size == (1600, 900)
    assert (tmp_path / "out" / "it-gradcam.png").exists()
    with pytest.raises(UserError, match="--of twoo: no class is called so; did you mean two"):
        attention.main([*one, "--method", "gradcam", "--of", "twoo"])
    with pytest.raises(UserError, match="--of two: attention is no class's"):
        attention.main([*one, "--slide", "--of", "two"])
    for text in ("1", "0.5,2", "a,b", "-1,0"):
        with pytest.raises(UserError, match="is not x,y, two shares"):
            attention.main([str(tmp_path / "a"), *options, f"--at={text}"])
    assert attention.point("0.25,0.75") == (0.75, 0.25)
    with pytest.raises(UserError, match="no image or folder"):
        attention.main(["nowhere.png", *options])
