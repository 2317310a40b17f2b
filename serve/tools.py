"""Functions that the model may call: how they are told to it, the grammar that keeps calls whole, their reading.

A call is written as models of the Hermes and Qwen families were taught: `<tool_call>`, a line of JSON with name and
arguments, `</tool_call>`. A grammar lets nothing else through behind the mark, so every call names a tool that was
offered and has arguments of its schema, however small the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mllm.errors import PromptError
from mllm.serve.errors import ApiError
from mllm.serve.requests import NamedTool, Tool

BEGIN, END = "<tool_call>", "}\n</tool_call>"
_NAMED = re.compile(r'\s*\{"name": "([\w-]+)", "arguments": ')
ToolChoice = str | NamedTool | None


def tools_text(tools: Sequence[Tool]) -> str:
    """What the system prompt says of the tools."""
    lines = "\n".join(json.dumps(tool.function.model_dump(exclude={"strict"}, exclude_none=True)) for tool in tools)
    return (
        f"You may call functions. Their signatures:\n<tools>\n{lines}\n</tools>\n"
        f'To call one, answer with {BEGIN}\n{{"name": "…", "arguments": {{…}}}}\n</tool_call>'
    )


def with_tools(messages: list[dict[str, Any]], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The messages with a system message that tells of the tools."""
    if not tools:
        return messages
    said = {"type": "text", "text": tools_text(tools)}
    if messages and messages[0]["role"] == "system":
        first = {"role": "system", "content": [*messages[0]["content"], {"type": "text", "text": "\n\n"}, said]}
        return [first, *messages[1:]]
    return [{"role": "system", "content": [said]}, *messages]


def call_text(name: str, arguments: Any) -> str:
    """A call as the model writes it."""
    return f'{BEGIN}\n{{"name": {json.dumps(name)}, "arguments": {json.dumps(arguments)}{END}'


def result_text(words: str) -> str:
    """What a function gave back, as the model reads it."""
    return f"<tool_response>\n{words}\n</tool_response>"


def tool_grammar(
    tools: Sequence[Tool], choice: ToolChoice, parallel: bool, otherwise: dict[str, Any] | None = None
) -> str | None:
    """EBNF of xgrammar of what may be answered; None where there is nothing to keep to.

    Args:
        tools: those that may be called.
        choice: "none", "auto" (the default with tools), "required", or a tool.
        parallel: whether one answer may call several times.
        otherwise: JSON schema of an answer that is no call; None for any text.

    Raises ApiError where a schema cannot be kept to.
    """
    if not tools or choice == "none":
        return None
    wanted = [t for t in tools if not isinstance(choice, NamedTool) or t.function.name == choice.function.name]
    tags = [_tag(tool) for tool in wanted]
    once = isinstance(choice, NamedTool) or not parallel
    calls = {
        "type": "tags_with_separator", "tags": tags, "separator": "\n", "at_least_one": True, "stop_after_first": once,
    }  # fmt: skip
    free = {"type": "triggered_tags", "triggers": [BEGIN], "tags": tags, "stop_after_first": once}
    if isinstance(choice, NamedTool) or choice == "required":
        form: dict[str, Any] = calls
    elif otherwise is not None:
        form = {"type": "or", "elements": [calls, {"type": "grammar", "grammar": json_grammar(otherwise)}]}
    else:
        form = free
    import xgrammar

    try:
        return str(xgrammar.Grammar.from_structural_tag({"type": "structural_tag", "format": form}))
    except (RuntimeError, ValueError) as error:
        raise PromptError(f"no grammar can be made of the tools ({_last_line(error)})") from error


def json_grammar(schema: dict[str, Any]) -> str:
    """EBNF of a JSON schema, without room for white space, of which a small model finds no end."""
    try:
        import xgrammar
    except ModuleNotFoundError as error:
        raise ApiError("this server cannot keep to schemas: `pip install 'mllm[grammar]'`", 501, "not_installed",
                       kind="server_error") from error  # fmt: skip
    try:
        return str(xgrammar.Grammar.from_json_schema(json.dumps(schema), any_whitespace=False))
    except (RuntimeError, ValueError) as error:
        raise PromptError(f"no grammar can be made of the JSON schema ({_last_line(error)})") from error


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[-1][:200]


def _tag(tool: Tool) -> dict[str, Any]:
    arguments = json_grammar(tool.function.parameters or {"type": "object"})
    begin = f'{BEGIN}\n{{"name": {json.dumps(tool.function.name)}, "arguments": '
    return {"begin": begin, "content": {"type": "grammar", "grammar": arguments}, "end": END}


@dataclass(frozen=True)
class Words:
    """Text that is no call."""

    text: str


@dataclass(frozen=True)
class CallBegins:
    """The next call, by number from 0."""

    index: int
    name: str


@dataclass(frozen=True)
class Arguments:
    """More of the JSON of a call's arguments."""

    index: int
    text: str


Said = Words | CallBegins | Arguments


class ToolCallReader:
    """Takes an answer apart as it comes: words and calls. What may be the beginning of a mark is held back."""

    def __init__(self) -> None:
        self.calls = 0
        self._text = ""
        self._state = "words"

    def feed(self, text: str) -> list[Said]:
        """More of the answer."""
        self._text += text
        found: list[Said] = []
        while (said := self._next()) is not None:
            found += said
        return found

    def end(self) -> list[Said]:
        """What was held back, when nothing more comes; of a call that is cut off its arguments so far."""
        text, self._text = self._text, ""
        if self._state == "words":
            return [Words(text)] if text and not (self.calls and text.isspace()) else []
        return [Arguments(self.calls - 1, text)] if self._state == "arguments" and text else []

    def _next(self) -> list[Said] | None:
        """What can be told from the text so far; None where more has to come."""
        if self._state == "words":
            return self._words()
        if self._state == "name":
            match = _NAMED.match(self._text)
            if match is None:
                return None
            self._text, self._state = self._text[match.end() :], "arguments"
            self.calls += 1
            return [CallBegins(self.calls - 1, match[1])]
        before, mark, after = self._text.partition(END)
        if mark:
            self._text, self._state = after, "words"
            return [Arguments(self.calls - 1, before)] if before else []
        return self._all_but(END, lambda text: Arguments(self.calls - 1, text))

    def _words(self) -> list[Said] | None:
        before, mark, after = self._text.partition(BEGIN)
        if mark:
            self._text, self._state = after, "name"
            return [Words(before)] if before.strip() else []
        if self.calls and self._text.isspace():
            return None  # between two calls
        return self._all_but(BEGIN, Words)

    def _all_but(self, mark: str, kind: Any) -> list[Said] | None:
        """The text but for an end that may be the beginning of a mark."""
        held = next(
            (n for n in range(min(len(mark) - 1, len(self._text)), 0, -1) if mark.startswith(self._text[-n:])), 0
        )
        ready = self._text[: len(self._text) - held]
        if not ready:
            return None
        self._text = self._text[len(ready) :]
        return [kind(ready)]
