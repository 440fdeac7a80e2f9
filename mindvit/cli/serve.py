"""A page in the browser where one drops an image and sees what a network says of it, and the same as JSON.

mindvit serve --ckpt_path FILE|--model NAME [--host 127.0.0.1] [--port 8000]
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Sequence

from mindvit import errors
from mindvit.cli.predict import trained
from mindvit.errors import UserError

if TYPE_CHECKING:
    from mindvit.inference.predictor import Predictor
    from mindvit.recipe.commandline import Parser

NEEDED = "pip install -r requirements-serve.txt"
LOOPBACK, PORT, HIGHEST_PORT = "127.0.0.1", 8000, 65535
MEGABYTES, MAX_PIXELS = 20, 50_000_000
SILENCE = 30  # seconds after which a connection that says nothing is closed


def options() -> Parser:
    """What the command takes."""
    from mindvit.recipe.commandline import Parser, positive, weights_arguments

    parser = Parser(prog="mindvit serve", description="A network behind a page in the browser and a JSON endpoint.")
    weights_arguments(parser)
    parser.add_argument(
        "--host", default=LOOPBACK, metavar="ADDRESS", help=f"to listen on (default: {LOOPBACK}, this machine alone)"
    )
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help=f"default: {PORT}; 0: a free one")
    parser.add_argument(
        "--names", nargs="+", default=[], metavar="NAME", help="by which browsers call this machine (default: numbers)"
    )
    parser.add_argument(
        "--max_megabytes",
        type=positive,
        default=MEGABYTES,
        metavar="N",
        help=f"largest upload (default: {MEGABYTES})",
    )
    parser.add_argument(
        "--max_pixels",
        type=positive,
        default=MAX_PIXELS,
        metavar="N",
        help=f"largest image that is decoded, width x height (default: {MAX_PIXELS})",
    )
    return parser


def check_packages() -> None:
    """UserError if the server's packages are not installed."""
    for name in ("flask", "waitress"):
        try:
            __import__(name)
        except ImportError:
            raise UserError(f"mindvit serve needs the package {name}, which is not installed: {NEEDED}") from None


def listen(app: Any, host: str, port: int, max_bytes: int) -> Any:
    """A server that is bound, but doesn't answer yet. UserError if it can't be."""
    from waitress import create_server

    try:
        return create_server(
            app,
            host=host,
            port=port,
            ident="mindvit",
            max_request_body_size=2 * max_bytes,  # the application's own limit has an answer in JSON
            channel_timeout=SILENCE,
            clear_untrusted_proxy_headers=True,
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: can't be listened on: {why}") from None


def serve(server: Any) -> None:
    """Answer until Ctrl-C or SIGTERM."""
    from mindvit.runtime import interrupts

    stop = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        with interrupts.taken_by(stop.set):
            threading.Thread(target=server.run, name="server", daemon=True).start()
            stop.wait()
    except KeyboardInterrupt:  # where nobody waits for it in a thread
        stop.set()
    finally:
        signal.signal(signal.SIGTERM, previous)
        server.close()
    print("stopped", flush=True)


def warm_up(predictor: Predictor) -> None:
    """Compile a classifier's graph before the first image comes; others have one for each size of image."""
    import numpy as np

    if predictor.info.task == "classification":
        predictor(np.zeros((64, 64, 3), np.uint8))


def main(arguments: Sequence[str]) -> None:
    """Serve; UserError for anything that the user can mend."""
    parser = options()
    given = parser.parse_args(arguments)
    if not 0 <= given.port <= HIGHEST_PORT:
        raise UserError(f"--port is {given.port}, but must be from 0, a free one, to {HIGHEST_PORT}")
    check_packages()
    from mindvit.serve.app import MEGABYTE, create_app
    from mindvit.serve.guard import LOCALHOST, Guard, is_loopback

    predictor = trained(given, parser)
    print(predictor, file=sys.stderr)
    host, max_bytes = LOOPBACK if given.host == LOCALHOST else given.host, given.max_megabytes * MEGABYTE
    server = listen(create_app(predictor, Guard(host, tuple(given.names)), max_bytes), host, given.port, max_bytes)
    warm_up(predictor)
    if not is_loopback(host):
        print(f"warning: --host {host}: whoever reaches this machine can send images, unasked", file=sys.stderr)
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{server.effective_port}/  (Ctrl-C ends it)", flush=True)
    serve(server)


if __name__ == "__main__":
    errors.run(main)
