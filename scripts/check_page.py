"""mindvit serve in a real browser: an image is dropped, the answer is read from the page, and a picture of it is kept.

python scripts/check_page.py --ckpt_path FILE --image FILE --out FILE.png [--chromium /usr/bin/chromium] [--dark]

Needs Chromium and the package playwright, which CI has not: tests/serve tries all but the browser.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

PATIENCE = 180_000  # ms, for attention on a busy machine
DROP = """([name, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name));
  document.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


def started(ckpt_path: str) -> tuple[subprocess.Popen[str], str]:
    """The server and its address."""
    command = ["-m", "mindvit", "serve", "--ckpt_path", ckpt_path, "--port", "0"]
    server = subprocess.Popen(
        [os.environ.get("MINDVIT_PYTHON", sys.executable), *command], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout
    for line in server.stdout:
        if line.startswith("http://"):
            return server, line.split()[0]
    raise SystemExit(f"error: the server ended with {server.wait()}")


def looked_at(page: Any, address: str, image: Path, out: Path) -> None:
    """Drop the image, wait for the answer and the pictures, keep what is seen."""
    asked: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#about:not(:empty)")
    page.evaluate(DROP, [image.name, list(image.read_bytes())])
    page.wait_for_selector("#answer li", timeout=PATIENCE)
    page.wait_for_selector("#pictures img", timeout=PATIENCE)
    print(page.inner_text("#about"), page.inner_text("#status"), page.inner_text("#answer"), sep="\n")
    page.screenshot(path=str(out), full_page=True)
    elsewhere = [url for url in asked if not url.startswith((address, "data:", f"blob:{address}"))]
    if faults or elsewhere:
        raise SystemExit(f"error: faults {faults}, requests elsewhere {elsewhere}")
    page.evaluate(DROP, ["broken.jpg", [1, 2, 3]])
    page.wait_for_selector("#status.wrong", timeout=PATIENCE)
    print(page.inner_text("#status"))


def main() -> None:
    """Start, look, stop with Ctrl-C; SystemExit for what is wrong."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("ckpt_path", "image", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--dark", action="store_true")
    given = parser.parse_args()
    server, address = started(given.ckpt_path)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=given.chromium, args=["--no-sandbox"])
            page = browser.new_page(
                viewport={"width": 1100, "height": 760}, color_scheme="dark" if given.dark else "light"
            )
            looked_at(page, address, Path(given.image), Path(given.out))
            browser.close()
    finally:
        server.send_signal(signal.SIGINT)
    told = server.communicate(timeout=30)[0]
    if server.returncode or "stopped" not in told:
        raise SystemExit(f"error: Ctrl-C ended the server with {server.returncode}: {told}")
    print(f"{given.out}: Ctrl-C ended the server cleanly")


if __name__ == "__main__":
    main()
