"""Fetch published weights, for this machine or, with --to, for one without a network.

mindvit download NAME|'PATTERN'|hf:OWNER/NAME ... [--to DIR] [--pretrained WHOSE]
"""

from __future__ import annotations

import fnmatch
import sys
from argparse import Namespace
from pathlib import Path
from typing import Optional, Sequence

from mindvit import errors
from mindvit.errors import UserError, nearest

WILD = "*?["


def chosen(names: Sequence[str], origin: Optional[str]) -> list[str]:
    """The networks that names and shell patterns mean, in the order of the table; of a pattern those that can be
    fetched.

    UserError for what means none.
    """
    from mindvit.hub.sources import SOURCES

    found: dict[str, None] = {}
    for name in names:
        if not any(letter in name for letter in WILD):
            if name not in SOURCES:
                raise UserError(f"no network is called {name!r}{nearest(name, SOURCES)}")
            found[name] = None
            continue
        matching = fnmatch.filter(SOURCES, name)
        if not matching:
            raise UserError(f"no network's name matches {name!r} (mindvit download '*' --list shows all)")
        here = [item for item in matching if any(origin in (None, source.origin) for source in SOURCES[item])]
        if not here:
            raise UserError(f"nothing that matches {name!r} can be fetched{' from ' + origin if origin else ''}")
        found.update(dict.fromkeys(here))
    return list(found)


def main(arguments: Sequence[str]) -> None:
    """Fetch, and print where each file is; UserError for anything that the user can mend."""
    from mindvit.hub.sources import ORIGINS
    from mindvit.recipe.commandline import Parser

    parser = Parser(
        prog="mindvit download",
        description="Fetch published weights into the cache ($MINDVIT_CACHE, or ~/.cache/mindvit/weights) or, with "
        "--to, into a folder that another machine takes as its cache.",
    )
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="a network, a shell pattern such as 'xcit_small_*', or hf:OWNER/NAME"
    )
    parser.add_argument("--to", type=Path, metavar="DIR", help="folder; a machine without a network: MINDVIT_CACHE=DIR")
    parser.add_argument(
        "--pretrained",
        choices=tuple(ORIGINS),
        metavar="WHOSE",
        help=f"the source, one of {', '.join(ORIGINS)} (default: the one whose accuracy is quoted)",
    )
    parser.add_argument("--list", action="store_true", help="print what would be fetched, and fetch nothing")
    given = parser.parse_args(arguments)
    with errors.hints_for(parser.options()):
        fetch(given)
    if given.to and not given.list:
        print(f"on a machine without a network: MINDVIT_CACHE={given.to} MINDVIT_OFFLINE=1", file=sys.stderr)


def fetch(given: Namespace) -> None:
    """Fetch what the command line names, or list it."""
    from mindvit.hub import cache, resolve
    from mindvit.hub.sources import source_of

    repositories = [name for name in given.names if resolve.is_repository(name)]
    named = [name for name in given.names if name not in repositories]
    sources = {name: source_of(name, given.pretrained) for name in chosen(named, given.pretrained)}
    for name in repositories if not given.list else ():
        found = resolve.bring(name, given.to) if given.to else resolve.from_repository(name)
        print(f"{name}: {found}", flush=True)
    for name, source in sources.items():
        if given.list:
            print(f"{name}: {source.link} ({source.file})")
        else:
            print(f"{name}: {cache.locate(source, given.to)}", flush=True)


if __name__ == "__main__":
    errors.run(main)
