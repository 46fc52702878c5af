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
    objects: list[dict[str, Any]] = []  # of Kubernetes, or values of a chart


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
            for document in _yaml(part, where):
                (config.objects.append if _is_object(document) else config.document.update)(document)
        else:
            read_shell(part, where, config)
    if not (config.objects or config.environment or config.flags or config.document):
        hint = "a command line, exports, JSON or YAML of vLLM, LMCache, SGLang, TensorRT-LLM or Dynamo is understood"
        raise InputError(f"{where}: sets nothing", hint=hint)
    return config


def _is_object(document: dict[str, Any]) -> bool:
    return "kind" in document or "servingEngineSpec" in document or "router" in document


def _json(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: a JSON object is expected")
    return value


def read_shell(text: str, where: str, config: Config) -> None:
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise InputError(f"{where}: not a command line: {error}", hint="is a quotation mark missing?") from None
    read_words([word for word in words if word not in ("export", "exec", "args=(", ")", "${args[@]}", "\\")], config)


def read_words(words: list[str], config: Config) -> None:
    """Flags, variables and plain words of a command."""
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


class _Yaml:
    """Mappings and lists nested by indentation, scalars in JSON's or plain notation, `|` text; other YAML is refused with its line."""

    def __init__(self, text: str, where: str, first: int) -> None:
        self.where = where
        self.raw = text.splitlines()
        found = ((first + at, _without_comment(line)) for at, line in enumerate(self.raw))
        self.lines = [(number, len(line) - len(line.lstrip(" ")), line.strip()) for number, line in found if line.strip()]
        self.first, self.at = first, 0

    def document(self) -> dict[str, Any]:
        value = self.mapping(self.lines[0][1]) if self.lines else {}
        if self.at < len(self.lines):
            raise self.refused(self.lines[self.at][0])
        return value

    def refused(self, number: int) -> InputError:
        return InputError(f"{self.where}, line {number}: not `key: value`", hint="mappings, lists and `|` text are understood")

    def block(self, indent: int) -> Any:
        return self.items(indent) if self._here(indent, item=True) else self.mapping(indent)

    def _here(self, indent: int, *, item: bool) -> bool:
        """Does the next line belong to a block of this indentation."""
        if self.at >= len(self.lines) or self.lines[self.at][1] != indent:
            return False
        return self.lines[self.at][2].startswith("- ") is item

    def mapping(self, indent: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self._here(indent, item=False):
            number, _, line = self.lines[self.at]
            match = _KEY.match(line)
            if not match:
                raise self.refused(number)
            self.at += 1
            key, value = match[1].strip("\"'"), (match[2] or "").strip()
            found[key] = self.text(number, indent) if value in ("|", "|-") else _scalar(value) if value else self.inner(indent)
        if self.at < len(self.lines) and self.lines[self.at][1] > indent:
            raise self.refused(self.lines[self.at][0])
        return found

    def inner(self, indent: int) -> Any:
        """What stands below a key that has no value on its line."""
        if self._here(indent, item=True):
            return self.items(indent)
        if self.at < len(self.lines) and self.lines[self.at][1] > indent:
            return self.block(self.lines[self.at][1])
        return {}

    def items(self, indent: int) -> list[Any]:
        found = []
        while self._here(indent, item=True):
            number, _, line = self.lines[self.at]
            rest = line[2:].lstrip()
            if _KEY.match(rest) and not rest.startswith(("{", "[")):
                inside = indent + len(line) - len(rest)
                self.lines[self.at] = (number, inside, rest)
                found.append(self.mapping(inside))
            else:
                self.at += 1
                found.append(_scalar(rest))
        return found

    def text(self, number: int, indent: int) -> str:
        """The lines below a `|`, without their indentation."""
        taken = []
        for raw in self.raw[number - self.first + 1 :]:
            if raw.strip() and len(raw) - len(raw.lstrip(" ")) <= indent:
                break
            taken.append(raw)
        while self.at < len(self.lines) and self.lines[self.at][0] <= number + len(taken):
            self.at += 1
        margin = min((len(raw) - len(raw.lstrip(" ")) for raw in taken if raw.strip()), default=0)
        return "\n".join(raw[margin:] for raw in taken).strip("\n") + "\n"


_KEY = re.compile(r"(\"[^\"]+\"|'[^']+'|[\w./-]+)\s*:(?:\s+(.*))?$")


def _yaml(text: str, where: str) -> list[dict[str, Any]]:
    """The documents of a YAML text."""
    found, first = [], 1
    for part in re.split(r"^---\s*$", text, flags=re.MULTILINE):
        found.append(_Yaml(part, where, first).document())
        first += part.count("\n")
    return [one for one in found if one]


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
