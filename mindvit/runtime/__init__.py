"""The machine: devices and what they are good at, ranks, the console, files, signals."""
