"""The page and the endpoint, as a WSGI application.

GET / is the page. POST /predict takes an image, as the request's body or as `image` of a form, and answers in JSON;
?topk=N for more classes, ?pictures=1 for pictures too. Wrong input is 4xx with {"error": one line}.
"""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, request
from PIL import Image
from werkzeug.exceptions import BadRequest, Forbidden, HTTPException, ServiceUnavailable

from mindvit.data import decoding
from mindvit.errors import UserError
from mindvit.inference.predictor import Predictor
from mindvit.serve import answers
from mindvit.serve.guard import Guard
from mindvit.tasks.base import Asked

MEGABYTE = 1_000_000
WAITING = 8  # requests that wait for the network; more are turned away
# the page needs nothing from anywhere else, runs no script but its own and is shown in no other page
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


class Service:
    """A predictor that many ask at once: the network computes for one at a time."""

    def __init__(self, predictor: Predictor):
        self.predictor = predictor
        self.lock, self.places = threading.Lock(), threading.BoundedSemaphore(WAITING)

    def about(self) -> dict[str, Any]:
        """What the page says of the network before any image."""
        predictor = self.predictor
        return {
            "model": predictor.info.name,
            "task": predictor.info.task,
            "file": predictor.file,
            "classes": len(predictor.class_names),
        }

    def predict(self, image: Image.Image, topk: int, with_pictures: bool) -> dict[str, Any]:
        """An image's answer. ServiceUnavailable if too many wait."""
        if not self.places.acquire(blocking=False):
            raise ServiceUnavailable("too many images at once: try again in a moment")
        try:
            with self.lock:
                seen = answers.seen_of(self.predictor, image)
                answer = self.predictor(seen, topk)
                result = answers.as_json(self.predictor, image, seen, answer)
                if with_pictures:
                    drawn = answers.pictures(self.predictor, seen, answer)
                    result["pictures"] = [picture.as_json() for picture in drawn]
                return result
        finally:
            self.places.release()


def uploaded(max_pixels: int) -> Image.Image:
    """The request's image, RGB, upright as its EXIF says. BadRequest for none, or for one that can't be decoded."""
    if request.mimetype == "multipart/form-data":
        file = request.files.get("image")
        data = file.read() if file else b""
    else:
        data = request.get_data()
    if not data:
        raise BadRequest("no image: send one as the body, or as 'image' of a form")
    try:
        with decoding.named("upload"):
            return decoding.decode(io.BytesIO(data), max_pixels, upright=True)
    except decoding.DecodeError as error:
        raise BadRequest(f"the image can't be decoded: {' '.join(error.reason.split())}") from None


def number(name: str, default: int, highest: int) -> int:
    """A number of the address's, 0 to `highest`. BadRequest for anything else."""
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= highest):
        raise BadRequest(f"{name} is {text[:20]!r}, but must be a number from 0 to {highest}")
    return int(text)


def create_app(predictor: Predictor, guard: Guard, max_bytes: int = 20 * MEGABYTE) -> Flask:
    """The application.

    Args:
        predictor: the network; its max_pixels bounds what is decoded.
        guard: the hosts in whose name requests are answered.
        max_bytes: of a request; more are 413.

    Returns:
        A WSGI application; it reads and writes no file.
    """
    app = Flask(__name__, static_folder=None, template_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=max_bytes)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    service = Service(predictor)
    for place, (name, kind) in FILES.items():
        content = Path(__file__).with_name(name).read_bytes()
        app.add_url_rule(place, name, lambda content=content, kind=kind: Response(content, mimetype=kind))

    @app.before_request
    def check() -> None:
        told = request.headers
        if not guard.accepts(request.host, told.get("Origin"), told.get("Sec-Fetch-Site")):
            raise Forbidden("requests of other sites and in unknown names are not answered (mindvit serve --names)")

    @app.after_request
    def protect(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response

    @app.get("/about")
    def about() -> Response:
        return jsonify(service.about())

    @app.post("/predict")
    def predict() -> Response:
        topk, with_pictures = number("topk", Asked.topk, len(predictor.class_names)), number("pictures", 0, 1)
        return jsonify(service.predict(uploaded(predictor.max_pixels), topk, bool(with_pictures)))

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> tuple[Response, int]:
        return jsonify(error=error.description), error.code or 500

    @app.errorhandler(UserError)
    def failed(error: UserError) -> tuple[Response, int]:
        return jsonify(error=str(error)), 500

    return app
