"""The page and the endpoint: answers, limits, who may ask, and what wrong input is told."""

from __future__ import annotations

import functools
import io
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from PIL import Image
from small import small

import mindvit
from mindvit.cli import serve
from mindvit.engine import checkpoint
from mindvit.errors import UserError
from mindvit.serve import app as application
from mindvit.serve.app import FILES, HEADERS, Service, create_app
from mindvit.serve.guard import Guard

NAMES = ["apple", "<b>bear</b>", "cherry", "Hund", "猫"]
HOST = "127.0.0.1:8000"
MOST = 200_000  # bytes of an upload


@pytest.fixture(scope="module")
def weights(small_networks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = {"model": "small_xcit", "crop_pct": 1.0}
    meta = {"model": "small_xcit", "num_classes": 5, "class_names": NAMES, "recipe": recipe}
    place = tmp_path_factory.mktemp("weights") / "a.ckpt"
    return checkpoint.save(place, list(small("xcit").get_parameters()), meta)


@pytest.fixture(scope="module")
def predictor(weights: Path) -> mindvit.Predictor:
    return mindvit.Predictor(weights, device_target="CPU", max_pixels=10_000)


@pytest.fixture
def client(predictor: mindvit.Predictor) -> FlaskClient:
    found = create_app(predictor, Guard("127.0.0.1"), MOST).test_client()
    found.environ_base["HTTP_HOST"] = HOST
    return found


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def photograph(seed: int = 0, size: tuple[int, int] = (50, 40)) -> Image.Image:
    shape = (size[1], size[0], 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, shape, np.uint8))


def answer_of(reply: Any) -> dict[str, Any]:
    """What a request is answered with that is not refused."""
    assert reply.status_code == 200, reply.text
    return dict(reply.json)


def error_of(reply: Any) -> str:
    """The one line of a refusal."""
    assert reply.content_type == "application/json" and set(reply.json) == {"error"}
    assert "\n" not in reply.json["error"] and "Traceback" not in reply.json["error"]
    return str(reply.json["error"])


def test_answers_are_those_of_predict(client: FlaskClient, predictor: mindvit.Predictor) -> None:
    image = photograph()
    wanted = [{"name": name, "probability": round(share, 6)} for name, share in predictor(image, topk=2)]
    body, form = encoded(image), {"image": (io.BytesIO(encoded(image)), "a.png")}
    for reply in (client.post("/predict?topk=2", data=body), client.post("/predict?topk=2", data=form)):
        assert reply.status_code == 200
        assert reply.json == {"model": "small_xcit", "task": "classification", "size": [50, 40], "classes": wanted}


def test_pictures_are_pngs(client: FlaskClient) -> None:
    pictures = answer_of(client.post("/predict?pictures=1", data=encoded(photograph())))["pictures"]
    assert len(pictures) == 2
    for picture in pictures:
        assert picture["src"].startswith("data:image/png;base64,") and picture["title"] and picture["remark"]


def test_an_image_is_turned_as_its_exif_says(client: FlaskClient) -> None:
    for orientation in range(1, 9):
        upright, exif = photograph(), Image.Exif()
        exif[274] = orientation
        turned = client.post("/predict", data=encoded(upright, exif=exif))
        assert answer_of(turned)["size"] == ([40, 50] if orientation > 4 else [50, 40])
    sideways = photograph().transpose(Image.Transpose.ROTATE_90)
    exif[274] = 6  # a quarter turn clockwise sets it upright
    turned = client.post("/predict", data=encoded(sideways, exif=exif))
    assert answer_of(turned) == answer_of(client.post("/predict", data=encoded(photograph())))


def test_the_page_needs_nothing_from_elsewhere(client: FlaskClient) -> None:
    for place in FILES:
        reply = client.get(place)
        assert reply.status_code == 200 and dict(reply.headers).items() >= HEADERS.items()
        assert "//" not in re.sub(r"^// .*| // .*$", "", reply.text, flags=re.MULTILINE), place  # an address
        assert "innerHTML" not in reply.text and "style=" not in reply.text and "onclick" not in reply.text
    for place in re.findall(r'(?:src|href)="([^"]+)"', client.get("/").text):
        assert f"/{place}" in FILES or place == "data:,"
    about = client.get("/about").json
    assert about == {"model": "small_xcit", "task": "classification", "file": "a.ckpt", "classes": 5}


@pytest.mark.parametrize(
    "body, told",
    [
        (b"", "no image"),
        (b"nothing", "can't be decoded: not one of JPEG, PNG"),
        (encoded(photograph())[:200], "can't be decoded"),
        (encoded(photograph(), "JPEG")[:700], "can't be decoded"),
        (encoded(Image.new("1", (9000, 9000))), "81000000 pixels, and max_pixels is 10000"),
        (encoded(Image.new("1", (5, 20000))), "100000 pixels, and max_pixels is 10000"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "can't be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "can't be decoded"),
    ],
)
def test_what_is_no_image_is_told(client: FlaskClient, body: bytes, told: str) -> None:
    reply = client.post("/predict", data=body)
    assert reply.status_code == 400 and told in error_of(reply)


def test_other_wrong_requests(client: FlaskClient) -> None:
    assert client.post("/predict", data=bytes(MOST + 1)).status_code == 413
    form = {"image": (io.BytesIO(bytes(MOST + 1)), "a.png")}
    assert client.post("/predict", data=form).status_code == 413
    form = {"picture": (io.BytesIO(encoded(photograph())), "a.png")}
    assert "as 'image' of a form" in error_of(client.post("/predict", data=form))
    assert "topk is '-1', but must be a number from 0 to 5" in error_of(client.post("/predict?topk=-1", data=b"a"))
    assert "pictures is 'yes'" in error_of(client.post("/predict?pictures=yes", data=b"a"))
    for reply, code in (
        (client.get("/predict"), 405),
        (client.get("/../../etc/passwd"), 404),
        (client.get("/static/page.html"), 404),
        (client.get("/app.py"), 404),
    ):
        assert reply.status_code == code and error_of(reply)


@pytest.mark.parametrize(
    "headers, code",
    [
        ({"Host": HOST}, 200),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example:8000"}, 403),
        ({"Host": "192.168.1.5:8000"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": HOST, "Origin": f"http://{HOST}"}, 200),
        ({"Host": HOST, "Origin": "http://evil.example"}, 403),
        ({"Host": HOST, "Origin": "null"}, 403),
        ({"Host": HOST, "Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_other_sites_are_not_answered(client: FlaskClient, headers: dict[str, str], code: int) -> None:
    reply = client.get("/about", headers=headers)
    assert reply.status_code == code
    assert code == 200 or "are not answered" in error_of(reply)
    assert HEADERS.items() <= dict(reply.headers).items()


def test_a_server_for_others_answers_in_its_numbers_and_names() -> None:
    guard = Guard("0.0.0.0", ("gpu.lab",))
    assert guard.knows("192.168.1.5:8000") and guard.knows("gpu.lab:8000") and guard.knows("localhost:8000")
    assert not guard.knows("evil.example") and not guard.knows("") and not guard.knows("[::1")


class Slow:
    """A predictor that notes how many compute at once."""

    class_names: tuple[str, ...] = ()
    info = SimpleNamespace(task="classification")
    at_once = most = 0

    def __call__(self, image: Image.Image, topk: int) -> list[Any]:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        time.sleep(0.01)  # time for another one to come in
        self.at_once -= 1
        return []


def test_the_network_computes_for_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application.answers, "as_json", lambda *_: {})
    slow = Slow()
    service = Service(slow)  # type: ignore[arg-type]
    ask = functools.partial(service.predict, photograph(), 1, False)
    with ThreadPoolExecutor(application.WAITING) as pool:
        found = [pool.submit(ask) for _ in range(application.WAITING)]
    assert [item.result() for item in found] == [{}] * application.WAITING and slow.most == 1
    for _ in range(application.WAITING):
        service.places.acquire()
    with pytest.raises(application.ServiceUnavailable, match="too many images at once"):
        ask()


def test_what_the_command_refuses(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: str) -> str:
        with pytest.raises(UserError) as caught:
            serve.main([*arguments, "--ckpt_path", str(weights), "--device_target", "CPU"])
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "--port is 70000, but must be from 0" in refused("--port", "70000")
    taken = serve.listen(lambda *_: [], "127.0.0.1", 0, 1)
    try:
        assert "can't be listened on" in refused("--port", str(taken.effective_port))
    finally:
        taken.close()
    assert "can't be listened on" in refused("--host", "no.such.host.invalid")
    real = __import__
    monkeypatch.setattr(
        "builtins.__import__",
        lambda name, *others, **more: real("no_such_module" if name == "waitress" else name, *others, **more),
    )
    assert "needs the package waitress, which is not installed: pip install -r requirements-serve.txt" in refused()


def test_it_answers_over_a_socket_until_it_is_stopped(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The command itself, with what its main thread waits for replaced by a request."""
    from urllib.request import urlopen

    answered: list[Any] = []

    def instead(server: Any) -> None:
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        place = f"http://127.0.0.1:{server.effective_port}"
        with urlopen(f"{place}/predict", data=encoded(photograph()), timeout=60) as reply:
            answered.append(json.load(reply))
        server.close()

    monkeypatch.setattr(serve, "serve", instead)
    serve.main(["--ckpt_path", str(weights), "--device_target", "CPU", "--port", "0"])
    assert {item["name"] for item in answered[0]["classes"]} == set(NAMES)
    told = capsys.readouterr()
    assert re.search(r"^http://127.0.0.1:\d+/  \(Ctrl-C ends it\)$", told.out, re.MULTILINE)
    assert "warning" not in told.err
