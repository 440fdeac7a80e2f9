"""The learning rate before a run: its steps and rates, and the command that draws them."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_files import make_data_dir
from PIL import Image

from mindvit.cli import config
from mindvit.errors import UserError
from mindvit.recipe.commandline import parse
from mindvit.visualization.lr_curve import MOST_POINTS, lr_curve

SCHEDULE = "--epoch_size 4 --warmup_epochs 1 --lr 0.01 --min_lr 0.001 --warmup_lr 0 --batch_size 10".split()  # noqa: SIM905


def test_every_step_of_a_short_run() -> None:
    curve = lr_curve(parse(SCHEDULE, "")[0], images=105, ranks=2)
    assert list(curve.columns["step"]) == [*range(20), 19]
    rates = curve.columns["lr"]
    assert rates[:6] == pytest.approx([0, 0.002, 0.004, 0.006, 0.008, 0.01])
    assert rates[-1] == pytest.approx(0.001, abs=2e-4) and rates[-1] > 0.001


def test_a_long_run_is_thinned_out_and_ends_at_its_end() -> None:
    steps = lr_curve(parse(["--batch_size", "1", "--epoch_size", "300"], "")[0], images=1_281_167).columns["step"]
    assert len(steps) <= MOST_POINTS + 1
    assert steps[-1] == 300 * 1_281_167 - 1


def test_the_command_counts_the_images(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = make_data_dir(tmp_path / "data", classes=2, train=10, val=1)
    config.main([*SCHEDULE, "--data_dir", str(data), "--changed", "--lr_plot", str(tmp_path / "lr.png")])
    text = capsys.readouterr().out
    assert "# 4 epochs of 2 steps, 8 in all: 20 images, batch 10 over 1 device" in text
    assert "lr: 0.01" in text and "momentum:" not in text
    assert min(Image.open(tmp_path / "lr.png").size) > 300


@pytest.mark.parametrize(
    "words, told",
    [
        (["--images", "5"], "--images and --ranks are for --lr_plot"),
        (["--lr_plot", "lr.pdf"], "give the name of a PNG file"),
        (["--lr_plot", "lr.png", "--images", "5"], "5 training images don't fill a step of 10"),
        (["--lr_plot", "lr.png", "--dataset", "scenes"], "say how many: --images N"),
    ],
)
def test_what_cannot_be_drawn(words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        config.main([*SCHEDULE, *words])
