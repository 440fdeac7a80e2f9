"""The old name of mindvit.cli.convert, for one release: use `mindvit convert`."""

from mindvit import errors
from mindvit.cli.convert import *  # noqa: F403
from mindvit.cli.convert import main

if __name__ == "__main__":
    errors.run(main)
