"""`kvplan completion`: a script that completes commands, options and names in a shell."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from kvplan.cli.console import Exit
from kvplan.cli.options import one_of
from kvplan.errors import InputError, did_you_mean

EXAMPLES = """
eval "$(kvplan completion bash)"
kvplan completion fish > ~/.config/fish/completions/kvplan.fish
"""

SCRIPTS = {
    "bash": """_kvplan() {
  local cur=${COMP_LINE:0:$COMP_POINT} IFS=$'\\n'
  local words; IFS=' ' read -r -a words <<< "$cur"; [[ $cur == *' ' ]] && words+=('')
  IFS=$'\\n' COMPREPLY=($(kvplan __complete "${words[@]:1}" 2>/dev/null))
}
complete -o default -F _kvplan kvplan
""",
    "zsh": """#compdef kvplan
_kvplan() {
  local found; found=("${(@f)$(kvplan __complete "${(@)words[2,$CURRENT]}" 2>/dev/null)}")
  [[ -n $found ]] && compadd -- $found || _files
}
compdef _kvplan kvplan
""",
    "fish": """function __kvplan
  kvplan __complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null
end
complete -c kvplan -a '(__kvplan)'
""",
}
"""Shell -> what it reads."""


def completion(shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.", autocompletion=one_of(*SCRIPTS))]) -> int:
    """Print a script that completes kvplan in a shell."""
    if shell not in SCRIPTS:
        raise InputError(f"no completion for {shell!r}", hint=did_you_mean(shell, SCRIPTS))
    sys.stdout.write(SCRIPTS[shell])
    return Exit.DONE
