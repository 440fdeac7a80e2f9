"""What is installed for Ascend, found without MindSpore: driver and CANN."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

ROOT = "/usr/local/Ascend"
DRIVER = f"{ROOT}/driver/version.info"
TOOLKITS = (f"{ROOT}/ascend-toolkit/latest", f"{ROOT}/cann", f"{ROOT}/latest")  # where its installer puts it
FILES = ("*/ascend_toolkit_install.info", "ascend_toolkit_install.info", "version.cfg", "*/version.info")
VERSION = re.compile(r"(?:^version\s*=\s*|CANN-)(\d+)\.(\d+)([.\w]*)", re.IGNORECASE | re.MULTILINE)
OLDEST, NEWEST = (8, 2), (9, 1)  # CANN that MindSpore 2.10 takes


def version_in(path: str) -> str:
    """The version that a file of Huawei's names; empty where there is none."""
    try:
        found = VERSION.search(Path(path).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return "{}.{}{}".format(*found.groups()) if found else ""


def driver_version() -> str:
    """Of the NPU's driver; empty without one."""
    return version_in(DRIVER)


def cann_version() -> str:
    """Of the CANN toolkit that the environment names, or of an installed one; empty without one."""
    named = [os.environ.get(name, "") for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")]
    places = [place for place in (*named, *TOOLKITS) if place]
    files = (path for place in places for name in FILES for path in sorted(glob.glob(f"{glob.escape(place)}/{name}")))
    return next(filter(None, map(version_in, files)), "")


def is_supported(cann: str) -> bool:
    """Whether MindSpore 2.10 takes this version of CANN."""
    major, minor = cann.split(".")[:2]
    return OLDEST <= (int(major), int(re.sub(r"\D.*", "", minor))) <= NEWEST


def describe() -> str:
    """Driver, CANN and what is supported, in a line."""
    driver, cann = driver_version(), cann_version()
    fits = f"CANN {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
    verdict = "" if not cann else " (supported)" if is_supported(cann) else f" (NOT supported: {fits} is)"
    chips = "Atlas A2 and A3; the first generation as far as it goes"
    return (
        f"{f'driver {driver}' if driver else 'no driver'}, {f'CANN {cann}{verdict}' if cann else 'no CANN'}\n"
        f"supported: {chips}; {fits}"
    )
