"""python -m mindvit COMMAND: the same as mindvit COMMAND, for launchers and where nothing is installed."""

from mindvit.cli.main import run

if __name__ == "__main__":
    run()
