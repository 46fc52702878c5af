"""The `kvplan` command: its commands, and the one place that turns failures into exit codes."""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from kvplan import __version__
from kvplan.cli import parser, streams
from kvplan.cli.console import EXIT_CODES, Exit, err, fail
from kvplan.errors import InputError, KvplanError, MissingError, did_you_mean, from_os

ABOUT = "When to move KV cache out of GPU memory, where to, and how much."


class Command(NamedTuple):
    """Where a command lives, and what it does in one line."""

    target: str  # module:function, or module:COMMANDS for a group
    about: str


COMMANDS: dict[str, Command] = {
    "plan": Command("kvplan.cli.plan:plan", "When, where and how much to offload; writes the engine's configuration."),
    "simulate": Command("kvplan.cli.simulate:simulate", "Replay traffic: time to first token, hits, bytes moved."),
    "sweep": Command("kvplan.cli.sweep:sweep", "A grid of simulations, one row a run; resumes, exports."),
    "size": Command("kvplan.cli.size:size", "Bytes of KV, weights and pool; what fits; what offload frees."),
    "trace": Command("kvplan.cli.trace:COMMANDS", "Inspect, convert, generate traces; hit rate against capacity."),
    "calibrate": Command("kvplan.cli.calibrate:calibrate", "Measure this server for --machine."),
    "validate": Command("kvplan.cli.validate:validate", "Hold a prediction against a running server."),
    "list": Command("kvplan.cli.listing:listing", "What there is: models, machines, engines, policies, scenarios."),
    "explain": Command("kvplan.cli.explain:explain", "What a word of a report means."),
    "completion": Command("kvplan.cli.completion:completion", "A script that completes kvplan in bash, zsh or fish."),
}
"""Command name -> where it lives. Only the module of the command that runs is imported."""


def run() -> None:
    """Entry point."""
    streams.prepare()
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(guarded(main, sys.argv[1:]))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def guarded(command: Callable[..., int], *arguments: Any) -> int:
    """Run a command: its return value is the exit code, and a failure becomes a sentence on stderr and its code."""
    try:
        code = command(*arguments)
        sys.stdout.flush()
    except KvplanError as error:
        if os.environ.get("KVPLAN_DEBUG"):
            raise
        code = fail(error)
    except KeyboardInterrupt:
        err().print("interrupted")
        code = Exit.INTERRUPTED
    except OSError as error:
        if os.environ.get("KVPLAN_DEBUG"):
            raise
        code = fail(from_os(error))
    except MemoryError:
        code = fail(MissingError("there is not enough memory here for this", hint="less traffic (--limit), or a larger machine"))
    except RecursionError:
        code = fail(InputError("the input is nested too deeply to be read"))
    except Exception as error:
        if os.environ.get("KVPLAN_DEBUG"):
            raise
        code = fail(KvplanError(f"a bug in kvplan: {type(error).__name__}: {error}", hint="KVPLAN_DEBUG=1 shows where"))
    return int(code)


def main(words: list[str]) -> int:
    """Run the command that the words name, or show help, version or completions."""
    if words[:1] == ["__complete"]:
        sys.stdout.write("".join(f"{one}\n" for one in complete(words[1:])))
        return Exit.DONE
    if words[:1] in (["-V"], ["--version"]):
        sys.stdout.write(f"kvplan {__version__}\n")
        return Exit.DONE
    helped = bool({"-h", "--help"} & set(words[: words.index("--") if "--" in words else None])) or words[:1] == ["help"]
    words = [word for word in words if word not in ("-h", "--help")][words[:1] == ["help"] :] if helped else words
    if not words:
        sys.stdout.write(_overview())
        return Exit.DONE
    title, found, rest = find(words)
    if isinstance(found, dict):
        if rest and not rest[0].startswith("-") and not helped:
            raise InputError(f"kvplan {title} has no command {rest[0]!r}", hint=did_you_mean(rest[0], found))
        rows = [(name, inspect.getdoc(one).split("\n")[0]) for name, one in found.items()]  # type: ignore[union-attr]
        sys.stdout.write(parser.commands_text(rows, title, COMMANDS[title].about, EXIT_CODES))
        return Exit.DONE
    if helped:
        sys.stdout.write(parser.help_text(found, title, _examples(found), EXIT_CODES))
        return Exit.DONE
    return found(**parser.parse(found, rest, title))


def find(words: list[str]) -> tuple[str, Callable[..., int] | dict[str, Callable[..., int]], list[str]]:
    """The command that the first words name, or the group of commands; and the words after it. Raises InputError."""
    name, *rest = words
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) if not name.startswith("-") else "kvplan --help shows the commands"
        raise InputError(f"kvplan has no {'option' if name.startswith('-') else 'command'} {name!r}", hint=hint)
    module, attribute = COMMANDS[name].target.split(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, dict) and rest and rest[0] in found:
        return f"{name} {rest[0]}", found[rest[0]], rest[1:]
    return name, found, rest


def _examples(command: Callable[..., int]) -> str:
    """Command lines to try: those of the module, or of a group those of the command."""
    examples = getattr(sys.modules[command.__module__], "EXAMPLES", "")
    return examples.get(command.__name__, "") if isinstance(examples, dict) else examples


def complete(words: list[str]) -> list[str]:
    """What the last word of an unfinished command line may become."""
    if len(words) <= 1:
        return [name for name in (*COMMANDS, "help") if name.startswith("".join(words))]
    if words[0] == "help":
        words = words[1:]
        if len(words) == 1:
            return [name for name in COMMANDS if name.startswith(words[0])]
    if words[0] not in COMMANDS:
        return []
    _, found, rest = find(words)
    if isinstance(found, dict):
        return [name for name in found if name.startswith(rest[-1])] if len(rest) == 1 else []
    return parser.candidates(found, rest)


def _overview() -> str:
    rows = [(name, one.about) for name, one in COMMANDS.items()]
    closing = f"kvplan COMMAND --help shows its options and examples; -V the version.\n\n{EXIT_CODES}"
    return parser.commands_text(rows, "", ABOUT, closing)
