"""The commands: `mindvit COMMAND --help`. Each module parses, calls the package and prints."""
