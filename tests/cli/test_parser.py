"""The parser: what a command line means, what is wrong with it, and what completes it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from kvplan.cli import parser
from kvplan.cli.main import COMMANDS, complete, find, main
from kvplan.cli.options import one_of
from kvplan.errors import InputError


def command(
    names: Annotated[list[str] | None, typer.Argument(help="Names.")] = None,
    tp: Annotated[int, typer.Option(help="Ranks.")] = 1,
    share: Annotated[float, typer.Option("--share", "-s", help="A share.")] = 0.5,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Settings.")] = None,
    pair: Annotated[tuple[Path, Path] | None, typer.Option(help="Two files.", metavar="A B")] = None,
    engine: Annotated[str, typer.Option(help="An engine.", autocompletion=one_of("vllm", "sglang"))] = "",
    as_json: Annotated[bool, typer.Option("--json", help="JSON.")] = False,
) -> int:
    """Does it.

    Some more.
    """
    return 0


def one(name: Annotated[str, typer.Argument(help="The file to read.", metavar="FILE")]) -> int:
    return 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["a", "b"], {"names": ["a", "b"]}),
        (["a", "--tp", "4", "--json"], {"names": ["a"], "tp": 4, "as_json": True}),
        (["--tp=4", "-s", ".25"], {"tp": 4, "share": 0.25}),
        (["--set", "a=1", "--set=b=2"], {"sets": ["a=1", "b=2"]}),
        (["--pair", "x", "y", "-"], {"pair": (Path("x"), Path("y")), "names": ["-"]}),
        (["--tp", "-1"], {"tp": -1}),
        (["--", "--tp"], {"names": ["--tp"]}),
    ],
)
def test_a_command_line_is_read(words: list[str], expected: dict[str, Any]) -> None:
    defaults = {name: one.default for name, one in inspect.signature(command).parameters.items()}
    assert parser.parse(command, words, "it") == defaults | expected


@pytest.mark.parametrize(
    ("words", "said", "hint"),
    [
        (["--tp", "1.5"], "--tp 1.5: not a whole number", ""),
        (["--tp"], "--tp needs TP", "ranks"),
        (["--tp", "--json"], "--tp needs TP", "ranks"),
        (["--jsn"], "kvplan it has no option --jsn", "--json"),
        (["--json=yes"], "--json takes no value", "write --json alone"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(words: list[str], said: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        parser.parse(command, words, "it")
    assert said in caught.value.message
    assert hint in caught.value.hint


def test_a_missing_word_and_one_too_many() -> None:
    with pytest.raises(InputError, match="FILE is missing"):
        parser.parse(one, [], "it")
    with pytest.raises(InputError, match="one word too many: 'b'"):
        parser.parse(one, ["a", "b"], "it")


def test_help_of_every_command_fits_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in COMMANDS:
        _, found, _ = find([name])
        for words in [[name], *([name, inner] for inner in found)] if isinstance(found, dict) else [[name]]:
            assert main(["help", *words]) == 0
            shown = capsys.readouterr().out
            assert shown.startswith(f"Usage: kvplan {' '.join(words)}")
            assert "Exit codes: 0 done" in shown
            examples = [line for line in shown.splitlines() if line.startswith("  kvplan ")]
            assert max(len(line) for line in shown.splitlines() if line not in examples) <= 80


def test_help_says_defaults_and_no_argument_for_a_switch() -> None:
    shown = parser.help_text(command, "it")
    assert "-s, --share SHARE" in shown
    assert "Ranks. Default: 1." in shown
    assert "  --json" in shown and "--json JSON" not in shown


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pl"], ["plan"]),
        (["trace", "cu"], ["curve"]),
        (["size", "llama-3.1-8"], ["llama-3.1-8b"]),
        (["simulate", "cha"], ["chat"]),
        (["simulate", "chat", "--engine", "vllm,sg"], ["vllm,sglang"]),
        (["simulate", "--router="], ["--router=least_loaded", "--router=prefix_aware", "--router=round_robin", "--router=session_sticky"]),
        (["plan", "--emit", "tr"], ["trtllm"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["nonsense", ""], []),
    ],
)
def test_completion(words: list[str], expected: list[str]) -> None:
    assert complete(words) == expected


def test_every_command_line_in_help_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        _, found, _ = find([name])
        for words in [[name], *([name, inner] for inner in found)] if isinstance(found, dict) else [[name]]:
            main([*words, "--help"])
            for line in capsys.readouterr().out.splitlines():
                if line.startswith("  kvplan "):
                    import shlex

                    title, run, rest = find(shlex.split(line.split(" > ")[0])[1:])
                    assert not isinstance(run, dict)
                    parser.parse(run, rest, title)


CONTRACT = {
    "size": "--ctx --batch --kv-dtype --dtype --tp --pp --machine --engine --engine-version --gpu-fraction --json",
    "simulate": "--model --machine --engine --gpu-kv --cpu --disk --remote --policy --speedup --limit --max-input --set --requests-out "
    "--json --tp --kv-dtype --engine-version --html --perfetto",
    "plan": "--target --emit --output --json --tp --kv-dtype --engine-version --html",
    "trace inspect": "--json",
    "trace curve": "--policy --capacity --warmup --json --html",
    "trace record": "-o --format",
    "calibrate": "-o --only --disk-path --quick --full --device",
    "validate": "--model --machine --engine --fit --json",
    "sweep": "--vary -o --backend --jobs --pareto --json",
}
"""Options that scripts rely on: other names may come beside them, these stay."""


@pytest.mark.parametrize("title", CONTRACT)
def test_options_of_the_contract_stay(title: str) -> None:
    taken = find(title.split())[1]
    assert callable(taken)
    names = {name for one in parser.parameters(taken)[1] for name in (*one.opts, *one.secondary_opts)}
    assert set(CONTRACT[title].split()) <= names
