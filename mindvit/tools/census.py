"""The old name of mindvit.cli.census, for one release: use `mindvit census`."""

from mindvit import errors
from mindvit.cli.census import *  # noqa: F403
from mindvit.cli.census import main

if __name__ == "__main__":
    errors.run(main)
