"""The old name of mindvit.cli.prepare, for one release: use `mindvit prepare`."""

from mindvit import errors
from mindvit.cli.prepare import *  # noqa: F403
from mindvit.cli.prepare import main

if __name__ == "__main__":
    errors.run(main)
