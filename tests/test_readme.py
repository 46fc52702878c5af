"""What the README shows is what the program does: transcripts are run and compared, the gate is its second command."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kvplan.cli.main import guarded, main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
TRANSCRIPTS = re.findall(r"^```console\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SETUP = re.findall(r"^```sh\n(.*?)\n```", README, re.MULTILINE | re.DOTALL)
PROGRESS = re.compile(r"(planning|simulating): [\d,]+ of ")
UNSTABLE = re.compile(r"(?<=simulated in )[\d.,]+ ?(ms|s|min)\b")


def commands() -> list[tuple[str, str]]:
    """Each `$ kvplan ...` of the README with the output shown below it."""
    return [(command, shown) for block in TRANSCRIPTS for command, shown in in_block(block)]


def in_block(block: str) -> list[tuple[str, str]]:
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [(command, shown) for command, _, shown in (part.partition("\n") for part in parts)]


def output(command: str) -> str:
    """What a command prints, both streams, in a pipe at 100 columns without colour."""
    program, *arguments = shlex.split(command)
    assert program == "kvplan"
    env = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-m", "kvplan", *arguments]
    done = subprocess.run(run, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = [line.rstrip() for line in done.stdout.strip("\n").splitlines() if not PROGRESS.match(line)]
    return "\n".join(lines).strip("\n") + "\n"


def stable(text: str) -> str:
    """Text without what differs from run to run: wall time."""
    return UNSTABLE.sub("TIME", text.strip("\n"))


@pytest.mark.parametrize(("command", "shown"), commands(), ids=lambda value: value[:60])
def test_a_transcript_is_what_the_command_prints(command: str, shown: str) -> None:
    assert stable(output(command)) == stable(shown)


def test_the_readme_has_transcripts_and_two_setup_commands_and_the_gate_runs_the_second() -> None:
    assert commands()
    assert len(SETUP) == 2
    assert SETUP[1] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_file_the_readme_names_exists() -> None:
    named = re.findall(r"(?:tests|scenarios|kvplan|models)/[\w./-]*\w\.(?:py|toml|jsonl?)\b", README)
    missing = [name for name in named if not (ROOT / name).exists() and "NAME" not in name]
    assert named
    assert missing == []


UNSAID = ("", "tier", "mean", "cpu", "disk", "remote", "blocks", "tokens")
"""Headings that need no explanation, and names of tiers."""


def test_kvplan_explains_the_words_of_the_transcripts(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {command: text for command, text in commands() if command.startswith(("kvplan plan", "kvplan simulate", "kvplan sweep"))}
    labels = {word for text in shown.values() for word in re.findall(r"^  ([a-z]+) {2,}\S", text, re.MULTILINE)}
    heads = {
        head.strip()
        for text in shown.values()
        for line in text.splitlines()
        if re.search(r"wins from|ITL|link busy|p99$", line) and "(" not in line
        for head in re.split(r" {2,}", line.strip())
    }
    words = (labels | heads) - set(UNSAID)
    assert {"takes", "wins from", "losing loads", "USD/month", "link busy"} <= words
    unknown = [word for word in sorted(words) if guarded(main, ["explain", word]) != 0]
    assert unknown == [], capsys.readouterr().err


def rewritten(readme: str) -> str:
    """The README with what its commands print now: `python tests/test_readme.py` writes it."""

    def block(match: re.Match[str]) -> str:
        return "```console\n" + "".join(f"$ {command}\n{output(command)}" for command, _ in in_block(match[1])) + "```"

    return re.sub(r"^```console\n(.*?)^```", block, readme, flags=re.MULTILINE | re.DOTALL)


if __name__ == "__main__":
    (ROOT / "README.md").write_text(rewritten(README))
