"""What a recipe may say (options), how it is checked (schema), read (files, names) and overridden (commandline).

Nothing here imports MindSpore, so that `--help` answers at once.
"""
