"""The old names of the modules of mindvit.cli, for one release."""
