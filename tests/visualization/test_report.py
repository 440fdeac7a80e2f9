"""Reports: the curves, differences and tables of runs, whatever columns their logs have, and no text that becomes
HTML.
"""

from __future__ import annotations

import base64
import io
import json
import re
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mindvit.cli import report
from mindvit.errors import UserError
from mindvit.recipe.commandline import describe, parse
from mindvit.visualization.charts import CHARTS, axis, draw, points
from mindvit.visualization.report_tables import markdown_tables
from mindvit.visualization.run_files import read_run
from mindvit.visualization.run_report import write_report

LOG = """epoch,step,lr,train_loss,val_loss,top1,top5,ema_loss,ema_top1,ema_top5,norm,loss_scale,skipped,img_s,data_wait
1,44,0.0003,2.1,1.9,40,80,2.2,20,60,4.5,65536,0,150.1,0.01
2,88,0.0006,1.5,,,,,,,3.5,32768,1,155.1,0.02
3,132,0.0001,1.1,0.9,80,99,1.0,85,99.5,2.5,65536,1,152.1,0.01
"""
OLD = "epoch,train_loss,val_loss,top1,top5,ema_top1,img_s\n4,1.2,0.5,86,98,,57.6\n8,0.8,0.25,93,100,,58.9\n"


class Reader(HTMLParser):
    """Tags, images and the cells of tables of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.images: dict[str, bytes] = {}
        self.rows: list[list[str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag == "img":
            kind, data = dict(attrs)["src"].split(",")
            assert kind == "data:image/png;base64"
            self.images[dict(attrs)["alt"]] = base64.b64decode(data)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and self.tags[-1] in ("td", "th"):
            self.rows[-1][-1] += data.strip("\n")


def make(folder: Path, log: str = LOG, *options: str, **result: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "log.csv").write_text(log, "utf-8")
    (folder / "recipe.yaml").write_text(describe(parse(["--model", "crossvit_9", *options], "")[0]), "utf-8")
    if result:
        (folder / "result.json").write_text(json.dumps(result), "utf-8")
    return folder


def read(out: Path) -> Reader:
    return Reader((out / "report.html").read_text("utf-8"))


def curves(chart: str, *folders: Path) -> dict[str, tuple[list[float], list[float]]]:
    """The curves that a chart draws, by run and column."""
    runs = [read_run(folder, folder.name) for folder in folders]
    columns = next(item.columns for item in CHARTS if item.name == chart)
    found = {f"{run.name}/{column}": points(run, column, axis(runs)) for run in runs for column in columns}
    return {name: curve for name, curve in found.items() if curve[1]}


def test_a_page_holds_the_curves_the_differences_and_the_results_of_all_runs(tmp_path: Path) -> None:
    first = make(tmp_path / "a" / "run", LOG, "--lr", "0.001", "--mixup", "0.8", model="crossvit_9", top1=80.0)
    second = make(
        tmp_path / "b" / "run", OLD, "--lr", "0.002", "--mixup", "0.8", model="crossvit_9", top1=93.0, machine=None
    )
    written = write_report([first, str(second), first], tmp_path / "out")
    page = read(tmp_path / "out")
    assert list(page.images) == [
        "Loss",
        "Top-1 accuracy",
        "Top-5 accuracy",
        "Learning rate",
        "Throughput",
        "Loss scale",
        "Gradient norm",
        "Skipped steps",
        "Wait for data",
    ]
    assert {path.name for path in written} == {path.name for path in (tmp_path / "out").iterdir()} and len(
        written
    ) == 10
    assert all(Image.open(io.BytesIO(image)).size[0] > 900 for image in page.images.values())
    assert page.images["Loss"] == (tmp_path / "out" / "loss.png").read_bytes()
    assert (
        ["key", "a/run", "b/run"] in page.rows
        and ["lr", "0.001", "0.002"] in page.rows
        and not [row for row in page.rows if row[0] == "mixup"]
    )
    assert ["top1", "80.0", "93.0"] in page.rows
    assert not [row for row in page.rows if row[0] == "machine"]  # no run says it
    assert [cell for row in page.rows if row[0] == "b/run" and len(row) > 9 for cell in row if cell][:6] == [
        "b/run",
        "8",
        "0.8",
        "0.25",
        "93",
        "100",
    ]


def test_curves_have_the_log_s_numbers_and_leave_empty_cells_out(tmp_path: Path) -> None:
    new, old = make(tmp_path / "new"), make(tmp_path / "old", OLD)
    assert curves("loss", new, old) == {
        "new/train_loss": ([1, 2, 3], [2.1, 1.5, 1.1]),
        "new/val_loss": ([1, 3], [1.9, 0.9]),
        "new/ema_loss": ([1, 3], [2.2, 1.0]),
        "old/train_loss": ([4, 8], [1.2, 0.8]),
        "old/val_loss": ([4, 8], [0.5, 0.25]),
    }
    assert curves("top1", new, old) == {
        "new/top1": ([1, 3], [40, 80]),
        "new/ema_top1": ([1, 3], [20, 85]),
        "old/top1": ([4, 8], [86, 93]),
    }
    assert curves("lr", new, old) == {"new/lr": ([1, 2, 3], [0.0003, 0.0006, 0.0001])} and curves("scale", old) == {}


def test_logs_with_other_columns_or_odd_cells_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    odd = make(tmp_path / "odd", "epoch,train_loss,surprise,top1\n1,nan,x,inf\n2,0.5\n3,junk,,12,13,14\n")
    assert curves("loss", odd) == {"odd/train_loss": ([2], [0.5])} and curves("top1", odd) == {"odd/top1": ([3], [12])}
    within = make(tmp_path / "within", "epoch,step,train_loss\n1,10,3\n1,20,2\n2,30,1\n")
    assert curves("loss", within) == {"within/train_loss": ([10, 20, 30], [3, 2, 1])}
    bare = make(tmp_path / "bare", "train_loss\n3\n2\n")
    assert curves("loss", bare, within)["bare/train_loss"] == ([1, 2], [3, 2])
    write_report([odd, within, bare], tmp_path / "out")
    assert list(read(tmp_path / "out").images) == ["Loss", "Top-1 accuracy"]


def test_a_curve_that_falls_to_zero_is_drawn_without_logarithms(tmp_path: Path) -> None:
    run = read_run(make(tmp_path / "$x_", "epoch,loss_scale\n1,0\n2,4\n"), "$x_")
    assert draw(next(item for item in CHARTS if item.name == "scale"), [run, run], "epoch") is not None


def test_a_single_run_without_ema_and_amp_gives_what_there_is_and_no_warning(tmp_path: Path) -> None:
    log = (
        "epoch,step,lr,train_loss,val_loss,top1,ema_loss,ema_top1,norm,loss_scale,skipped,img_s,data_wait\n"
        "1,44,0.0003,2.1,1.9,40,,,4.5,1,0,150.1,0.01\n2,88,0.0001,1.5,1.2,60,,,3.5,1,0,155.1,0.02\n"
    )
    run = make(tmp_path / "run", log, **{"acc@top1": 60.0, "ema": None})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report([run], tmp_path / "out")
    page = read(tmp_path / "out")
    assert list(page.images) == [
        "Loss",
        "Top-1 accuracy",
        "Learning rate",
        "Throughput",
        "Gradient norm",
        "Wait for data",
    ]
    assert [
        "run",
        "epoch",
        "step",
        "lr",
        "train_loss",
        "val_loss",
        "top1",
        "norm",
        "loss_scale",
        "skipped",
        "img_s",
        "data_wait",
    ] in page.rows
    assert ["acc@top1", "60.0"] in page.rows and not [row for row in page.rows if row[0] == "ema"]


@pytest.mark.parametrize(
    "rows, drawn", [("1,1,1", ["skipped"]), ("1,65536,0", ["scale"]), ("1,1,0\n2,2,0", ["scale"]), ("1,1,0\n2,1,0", [])]
)
def test_a_loss_scale_or_a_skipped_step_that_is_news_is_drawn(tmp_path: Path, rows: str, drawn: list[str]) -> None:
    runs = [
        read_run(make(tmp_path / name, f"epoch,loss_scale,skipped\n{text}\n"), name)
        for name, text in (("usual", "1,1,0"), ("other", rows))
    ]
    assert [chart.name for chart in CHARTS if draw(chart, runs, "epoch")] == drawn


def test_a_single_run_shows_what_its_recipe_says(tmp_path: Path) -> None:
    write_report([make(tmp_path / "run", LOG, "--scale", "0.2,1.0")], tmp_path / "out")
    rows = read(tmp_path / "out").rows
    assert ["scale", "[0.2, 1.0]", "[0.08, 1.0]"] in rows and not [row for row in rows if row[0] == "ratio"]


def test_a_run_without_recipe_or_of_another_version_is_shown(tmp_path: Path) -> None:
    first, second, third = make(tmp_path / "first"), make(tmp_path / "second"), make(tmp_path / "third")
    (first / "recipe.yaml").unlink()
    with (second / "recipe.yaml").open("a", encoding="utf-8") as stream:
        stream.write("\nkey_of_tomorrow: 3\n")
    write_report([first, second, third], tmp_path / "out")
    page = read(tmp_path / "out")
    assert ["key", "second", "third"] in page.rows and ["key_of_tomorrow", "3", ""] in page.rows
    assert "No recipe.yaml in: first." in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_text_stays_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&<b"
    run = make(tmp_path / "<img src=x onerror=y>", LOG, "--data_dir", evil, "--model", "crossvit_9", model=evil)
    (tmp_path / "table.csv").write_text(f'name,"<i>{evil.replace(chr(34), "")}"\n1,<u>\n', "utf-8")
    write_report([run, tmp_path / "table.csv"], tmp_path / "out")
    page = read(tmp_path / "out")
    assert not {"script", "i", "u", "b"} & set(page.tags) and page.tags.count("img") == 9
    assert ["model", evil] in page.rows and ["data_dir", evil, ""] in page.rows and ["1", "<u>"] in page.rows
    assert not re.search(r"https?://|<link|url\(", (tmp_path / "out" / "report.html").read_text("utf-8"))


def test_tables_of_results_in_any_form(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("model,img/s\nx,3\n", "utf-8")
    (tmp_path / "b.json").write_text('[{"model": "y", "n": null}, {"model": "z", "more": [1]}]', "utf-8")
    (tmp_path / "c.md").write_text(
        "# Head\n\n| net | what |\n|---|:-:|\n| `v` | a - b |\n\ntext\n\n| second |\n|---|\n| - |\n", "utf-8"
    )
    (tmp_path / "d.json").write_text('{"model": "w"}', "utf-8")
    write_report([tmp_path / name for name in ("a.csv", "b.json", "c.md", "d.json")], tmp_path / "out")
    assert read(tmp_path / "out").rows == [
        ["model", "img/s"],
        ["x", "3"],
        ["model", "n", "more"],
        ["y", "", ""],
        ["z", "", "[1]"],
        ["net", "what"],
        ["`v`", "a - b"],
        ["second"],
        ["-"],
        ["", ""],
        ["model", "w"],
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


def test_a_row_of_dashes_in_a_table_is_kept() -> None:
    assert [table.rows for table in markdown_tables("| a | b |\n|---|---|\n| - | -- |\n", "")] == [
        [["a", "b"], ["-", "--"]]
    ]


def test_wrong_input_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*places: Path) -> str:
        with pytest.raises(UserError) as caught:
            report.main([*map(str, places), "--out", str(tmp_path / "out")])
        assert "\n" not in str(caught.value) and caught.value.exit_code == 2
        return str(caught.value)

    run = make(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "nowhere") == f"no folder or file {tmp_path / 'nowhere'}"
    assert "has no log.csv: give the folder of a run" in refused(run, tmp_path / "empty")
    (tmp_path / "empty" / "log.csv").write_text("epoch,top1\n", "utf-8")
    assert "has no row yet" in refused(tmp_path / "empty")
    for name, content, says in (
        ("a.txt", "", "neither a run's folder nor a table (.csv .json .md)"),
        ("a.csv", "", "holds no table"),
        ("a.md", "text", "holds no table"),
        ("a.json", "{", "not valid JSON"),
        ("b.json", "[1]", "must hold an object"),
    ):
        (tmp_path / name).write_text(content, "utf-8")
        assert says in refused(tmp_path / name)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refused(tmp_path / "b.csv")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "matplotlib, which is not installed: pip install -r requirements-report.txt" in refused(run)
    (tmp_path / "out").write_text("", "utf-8")
    (tmp_path / "c.csv").write_text("a\n1\n", "utf-8")
    assert "can't be written" in refused(tmp_path / "c.csv")


def test_the_worst_classes_of_a_segmentor(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", "epoch,step,train_loss,mIoU,mAcc,aAcc\n1,10,0.5,40,50,60\n")
    rows = [f"c{number},{number},{number + 1},2.5" for number in range(20, 0, -1)]
    (folder / "classes.csv").write_text("\n".join(["class,IoU,accuracy,share", *rows, "gone,,,0.0"]), "utf-8")
    page = Reader((write_report([folder], tmp_path / "out")[0]).read_text("utf-8"))
    shown = page.rows[page.rows.index(["class", "IoU", "accuracy", "share"]) + 1 :]
    assert [row[0] for row in shown[:15]] == [f"c{number}" for number in range(1, 16)]
    assert not any("gone" in row for row in shown)
    assert "Mean intersection over union" in page.images


def test_pictures_of_a_validation_are_on_the_page(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    Image.new("RGB", (9, 7)).save(run / "wrong.png")
    write_report([run], tmp_path / "out")
    page = Reader((tmp_path / "out" / "report.html").read_text("utf-8"))
    assert Image.open(io.BytesIO(page.images["Wrong, and sure of it: run"])).size == (9, 7)
