"""Print a script that completes mindvit's commands, options and recipe names.

source <(mindvit completion bash)
source <(mindvit completion zsh)
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
from typing import Sequence

from mindvit import errors
from mindvit.recipe.names import shipped_recipes

SHELLS = ("bash", "zsh")
OPTION = re.compile(r"^  (?:-\w[^-\n]*, )?(--[\w-]+)", re.MULTILINE)  # where argparse's help lists an option

SCRIPT = """\
_mindvit() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands} --help --version"
    elif [ "$before" = "--config" ] || [ "$before" = "-c" ]; then
        words="{recipes}"
    elif [ "${{word:0:1}}" = "-" ]; then
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _mindvit mindvit
"""


def main(arguments: Sequence[str]) -> None:
    """Print the script of the shell that is named."""
    from argparse import RawDescriptionHelpFormatter

    from mindvit.recipe.commandline import Parser

    parser = Parser(
        prog="mindvit completion",
        formatter_class=RawDescriptionHelpFormatter,
        description=(
            "Print a script that completes mindvit's commands, options and recipe names.\n\nIn ~/.bashrc or ~/.zshrc:\n"
            "  source <(mindvit completion bash)\n  source <(mindvit completion zsh)"
        ),
    )
    parser.add_argument("shell", choices=SHELLS)
    given = parser.parse_args(arguments)
    print(script(given.shell), end="")


def script(shell: str) -> str:
    """The script; zsh takes bash's, by its own bashcompinit."""
    from mindvit.cli.main import COMMANDS

    cases = "\n".join(
        f'            {name}) words="{" ".join(options(command.module))}" ;;' for name, command in COMMANDS.items()
    )
    recipes = " ".join(name.rpartition("/")[2] for name in shipped_recipes())
    body = SCRIPT.format(commands=" ".join(COMMANDS), recipes=recipes, cases=cases)
    return (
        body
        if shell == "bash"
        else "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" + body
    )


def options(module: str) -> list[str]:
    """A command's options, as its --help lists them."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        importlib.import_module(module).main(["--help"])
    return list(dict.fromkeys(OPTION.findall(printed.getvalue())))


if __name__ == "__main__":
    errors.run(main)
