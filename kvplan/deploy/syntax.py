"""Reads an engine's configuration as people keep it: a command line, a script of exports, JSON, or YAML of mappings."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import msgspec

from kvplan.errors import InputError

_PART = re.compile(r"^# --- .*$", re.MULTILINE)  # between the parts of an emitted configuration
_YAML_LINE = re.compile(r"[A-Za-z_][\w.-]*\s*:(\s|$)")
_VARIABLE = re.compile(r"[A-Za-z_]\w*=")


class Config(msgspec.Struct, kw_only=True):
    """All that a configuration sets: environment, flags, a document, and the words of the command."""

    environment: dict[str, str] = {}
    flags: dict[str, str] = {}  # `--kv-offloading-size`, with hyphens; empty for a switch
    document: dict[str, Any] = {}
    words: list[str] = []


def parse_config(text: str, where: str) -> Config:
    """The configuration in a text of any of the known forms. Raises InputError with the place of a fault."""
    config = Config()
    for part in _PART.split(text):
        first = next((line.strip() for line in part.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
        if not first:
            continue
        if first.startswith("{"):
            config.document.update(_json(part, where))
        elif _YAML_LINE.match(first):
            config.document.update(_yaml(part, where))
        else:
            _shell(part, where, config)
    if not (config.environment or config.flags or config.document):
        hint = "a command line, exports, JSON or YAML of vLLM, LMCache, SGLang, TensorRT-LLM or Dynamo is understood"
        raise InputError(f"{where}: sets nothing", hint=hint)
    return config


def _json(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: a JSON object is expected")
    return value


def _shell(text: str, where: str, config: Config) -> None:
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise InputError(f"{where}: not a command line: {error}", hint="is a quotation mark missing?") from None
    words = [word for word in words if word not in ("export", "exec", "args=(", ")", "${args[@]}", "\\")]
    flag = ""
    for word in words:
        if word.startswith("-") and not re.match(r"-\d", word):
            flag, _, value = word.partition("=")
            flag = flag.replace("_", "-")
            config.flags[flag] = value
            flag = "" if value else flag
        elif flag:
            config.flags[flag], flag = word, ""
        elif _VARIABLE.match(word):
            name, _, value = word.partition("=")
            config.environment[name] = value
        else:
            config.words.append(word)


def _yaml(text: str, where: str) -> dict[str, Any]:
    """Mappings nested by indentation, with scalars in JSON's or plain notation; other YAML is refused with its line."""
    root: dict[str, Any] = {}
    open_maps: list[tuple[int, dict[str, Any]]] = [(-1, root)]
    for number, raw in enumerate(text.splitlines(), 1):
        line = _without_comment(raw)
        if not line.strip() or line.strip() == "---":
            continue
        indent = len(line) - len(line.lstrip(" "))
        match = re.match(r"\s*(\"[^\"]+\"|'[^']+'|[\w./-]+)\s*:(?:\s+(.*))?$", line)
        if not match:
            raise InputError(f"{where}, line {number}: not `key: value`", hint="lists and block text are not understood")
        key, value = match[1].strip("\"'"), (match[2] or "").strip()
        while indent <= open_maps[-1][0]:
            open_maps.pop()
        if value:
            open_maps[-1][1][key] = _scalar(value)
        else:
            inner: dict[str, Any] = {}
            open_maps[-1][1][key] = inner
            open_maps.append((indent, inner))
    return root


def _without_comment(line: str) -> str:
    """A line up to a `#` that stands outside quotation marks and after a blank."""
    return re.sub(r"(\"[^\"]*\"|'[^']*')|(?:^|\s)#.*", lambda match: match[1] or "", line).rstrip()


def _scalar(text: str) -> Any:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "null": None, "~": None}
    if text.lower() in words:
        return words[text.lower()]
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
