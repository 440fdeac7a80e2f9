"""The old name of mindvit.cli.predict, for one release: use `mindvit predict`."""

from mindvit import errors
from mindvit.cli.predict import *  # noqa: F403
from mindvit.cli.predict import main

if __name__ == "__main__":
    errors.run(main)
