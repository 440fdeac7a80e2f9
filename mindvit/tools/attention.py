"""The old name of mindvit.cli.attention, for one release: use `mindvit attention`."""

from mindvit import errors
from mindvit.cli.attention import *  # noqa: F403
from mindvit.cli.attention import main

if __name__ == "__main__":
    errors.run(main)
