"""The packages of mindvit; all else is in pyproject.toml, which can't put configs/ inside another package."""

from setuptools import find_namespace_packages, find_packages, setup

# one copy of the recipes: configs/ in the repository, mindvit/configs in what is installed
RECIPES = ["mindvit.configs", *(f"mindvit.configs.{folder}" for folder in find_namespace_packages("configs"))]

setup(packages=[*find_packages(include=["mindvit", "mindvit.*"]), *RECIPES], package_dir={"mindvit.configs": "configs"})
