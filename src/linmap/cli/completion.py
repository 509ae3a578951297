"""Completion for shells: `linmap completion SHELL` prints what a shell runs at its start.

The shell asks this program at each press of the key, so that verbs, systems, flags and their choices are always those
of the version that is installed; nothing heavy is imported for it. Where nothing fits, shells complete names of files.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from linmap import recipes
from linmap.cli.flags import LISTED, FlagsListed, parse

Shell = Literal["bash", "zsh", "fish"]
ASKED = ["completion", "--"]
"""What a shell's question begins with; the words of the command line so far follow."""
SCRIPTS: dict[Shell, str] = {
    "bash": """\
_linmap() {
    local IFS=$'\\n'
    COMPREPLY=($("$1" completion -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _linmap linmap
""",
    "zsh": """\
#compdef linmap
_linmap() {
    local -a found
    found=(${(f)"$("${words[1]}" completion -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( ${#found} )); then compadd -- "${found[@]}"; else _files; fi
}
compdef _linmap linmap
""",
    "fish": """\
function __linmap_found
    set -l words (commandline -opc) (commandline -ct)
    set -l found ($words[1] completion -- $words[2..-1] 2>/dev/null)
    if test -n "$found"
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c linmap -f -a '(__linmap_found)'
""",
}
START: dict[Shell, str] = {
    "bash": 'add `eval "$(linmap completion bash)"` to ~/.bashrc',
    "zsh": 'add `eval "$(linmap completion zsh)"` to ~/.zshrc, below compinit',
    "fish": "run `linmap completion fish > ~/.config/fish/completions/linmap.fish`",
}


@dataclass(frozen=True)
class NoFlags:
    """The script for a shell has no flags of its own."""


def script(words: list[str]) -> tuple[Shell, str] | None:
    """The shell that `linmap completion SHELL` names and its script; None where it names none."""
    if words[:1] and words[0] in SCRIPTS:
        shell = next(shell for shell in get_args(Shell) if shell == words[0])
        parse(words[1:], f"linmap completion {shell}", f"Print the completions: {START[shell]}.", flags=NoFlags())
        return shell, SCRIPTS[shell]
    return None


def candidates(words: list[str], verbs: Mapping[str, tuple[Callable[[list[str]], Any], str]]) -> list[str]:
    """What may stand in the place of the last of `words`, which is perhaps half written.

    Parameters
    ----------
    words
        The command line up to the cursor, without the program.
    verbs
        The verbs, as `linmap.cli.VERBS` has them.
    """
    *before, current = words or [""]
    return [word for word in _fitting(before, current, verbs) if word.startswith(current)]


def _fitting(before: list[str], current: str, verbs: Mapping[str, tuple[Callable, str]]) -> Iterable[str]:
    if not before:
        return [*verbs, "--help", "--version"]
    verb, *rest = before
    if verb == "completion":
        return get_args(Shell) if not rest else ()
    if not rest and not current.startswith("-") and verb in ("fit", "apply", "compare"):
        return [slug for slug, system in recipes.SYSTEMS.items() if system.ready and system.takes(verb)]
    if verb not in verbs or verb == "bench":
        return ()
    flags = _flags(verbs[verb][0], rest)
    if current.startswith("-"):
        return flags
    last = next((word for word in reversed(rest) if word.startswith("--")), "")
    return list(recipes.SYSTEMS) if last == "--systems" else flags.get(last, ())


def _flags(verb: Callable[[list[str]], Any], rest: list[str]) -> Mapping[str, tuple[str, ...]]:
    """The flags of a verb with the words that follow it, and the choices of each; none where these cannot be meant."""
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
        try:
            verb([*rest, LISTED])
        except FlagsListed as found:
            return found.choices
    return {}
