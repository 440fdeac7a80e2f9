"""Commands over the package: python -m mindvit.tools.NAME --help."""
