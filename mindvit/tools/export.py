"""The old name of mindvit.cli.export, for one release: use `mindvit export`."""

from mindvit import errors
from mindvit.cli.export import *  # noqa: F403
from mindvit.cli.export import main

if __name__ == "__main__":
    errors.run(main)
