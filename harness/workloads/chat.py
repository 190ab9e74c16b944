"""Conversations as one text, by the chat template of a model's folder, and which of its characters are the assistant's.

A template is rendered by transformers' own function, in the sandbox of its own, so that it is the same text and nothing
of the template's is run outside it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.workloads import hf_model
from harness.workloads.rows import text_of

ASSISTANT = "assistant"
"""Role whose turns are learned."""
_TODAY = "{%- macro strftime_now(format) -%}01 Jan 2025{%- endmacro -%}"
"""Before a template that writes the date: data that are prepared tomorrow must be the same."""
_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

Spans = list[tuple[int, int]]
Message = dict[str, Any]


@dataclass(frozen=True)
class Template:
    """How a model's conversations are written."""

    text: str
    """In Jinja."""
    words: tuple[tuple[str, str], ...]
    """(name, special token), such as ("eos_token", "</s>")."""
    file: Path
    """Where it is, for sentences."""

    @property
    def digest(self) -> str:
        """A hash of all that it renders by."""
        return hashlib.sha256(json.dumps([self.text, self.words]).encode()).hexdigest()[:16]

    def rendered(self, messages: list[Message], where: str) -> tuple[str, Spans]:
        """A conversation's text, and where in it (begin, end) lies what the assistant says.

        The template's own marks tell ({% generation %}); without them, a turn is what the conversation has more with it
        than before it, ready for an answer.

        Args:
            messages: as `checked` returns them.
            where: for sentences.

        Raises:
            InputError: the template refuses them, or does not tell the turns.
        """
        if _MARKED.search(self.text):
            whole, spans = self._render(messages, where, marks=True)
            return whole, spans
        whole, spans = self._render(messages, where)[0], []
        for at, message in enumerate(messages):
            if message["role"] == ASSISTANT:
                before = self._render(messages[:at], where, add_generation_prompt=True)[0] if at else ""
                after = self._render(messages[: at + 1], where)[0]
                if not (whole.startswith(after) and after.startswith(before)):
                    raise InputError(
                        f"the chat template {self.file} writes the beginning of a conversation otherwise when it goes "
                        f"on ({where}), so that it does not tell what the assistant says; mark that in it with "
                        "{% generation %} and {% endgeneration %}"
                    )
                spans.append((len(before), len(after)))
        return whole, spans

    def _render(self, messages: list[Message], where: str, *, marks: bool = False, **options: Any) -> tuple[str, Spans]:
        hf_model.library()
        from transformers.utils.chat_template_utils import render_jinja_template

        text = f"{_TODAY}{self.text}" if "strftime_now" in self.text else self.text
        given: dict[str, Any] = {**dict(self.words), **options}
        try:
            rendered: Any = render_jinja_template(
                [messages], chat_template=text, return_assistant_tokens_mask=marks, **given
            )
            found, spans = rendered
        except ImportError as error:
            raise InputError(
                f"a chat template needs the package jinja2: pip install 'jinja2>=3.1.6' ({error})"
            ) from None
        except Exception as error:  # a template raises what it likes
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"the chat template {self.file} refuses {where}: {reason}") from None
        return found[0], [(int(begin), int(end)) for begin, end in spans[0]] if marks else []


def load(folder: Path) -> Template:
    """The chat template of a model's folder.

    Raises:
        InputError: it has none, or it cannot be read.
    """
    config, file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    written = _read(config)
    template: Any = written.get("chat_template")
    if isinstance(template, list):  # several by name
        named = {str(one.get("name")): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default", next(iter(named.values()), None))
    found = config
    if file.is_file():
        found, template = file, _text(file)
    if not isinstance(template, str) or not template.strip():
        raise InputError(
            f"{folder} has no chat template for messages: put one into chat_template.jinja there, or give two fields "
            "of text, such as --field prompt,completion"
        )
    special = {name: written.get(name) for name in _SPECIAL}
    plain = {n: value.get("content") if isinstance(value, dict) else value for n, value in special.items()}
    return Template(template, tuple((name, value) for name, value in plain.items() if isinstance(value, str)), found)


def checked(value: Any, field: str, where: str) -> list[Message]:
    """A conversation as a list of {"role", "content"}, what else a message has kept.

    Args:
        value: of the field.
        field: its name.
        where: its row.

    Raises:
        InputError: it is none, or the assistant says nothing in it.
    """
    said = f"field {field!r} in {where}"
    if not isinstance(value, list) or not value:
        kind = "an empty list" if value == [] else "nothing (null)" if value is None else type(value).__name__
        raise InputError(
            f'{said} must be a list of messages such as {{"role": "user", "content": "..."}}, but is {kind}'
        )
    messages = []
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict):
            raise InputError(f"message {number} of {said} must be an object, but is of type {type(message).__name__}")
        for name in ("role", "content"):
            if name not in message:
                names = ", ".join(map(str, message)) or "none"
                raise InputError(f"message {number} of {said} has no {name!r}; it has {names}")
            text_of(message[name], f"{name!r} of message {number} of {said}")
        messages.append({name: part for name, part in message.items() if part is not None})
    if not any(message["role"] == ASSISTANT for message in messages):
        roles = ", ".join(dict.fromkeys(str(message["role"]) for message in messages))
        raise InputError(f"{said} has nothing to learn: no message has the role {ASSISTANT!r}, only {roles}")
    return messages


def labels_of(offsets: Sequence[tuple[int, int]], spans: Spans) -> list[bool]:
    """Of each token whether it begins within one of the spans.

    Args:
        offsets: (begin, end) of the characters of each token; an empty one of a token that stands for none.
        spans: in order.
    """
    out, at = [], 0
    for begin, end in offsets:
        while at < len(spans) and spans[at][1] <= begin:
            at += 1
        out.append(at < len(spans) and end > begin >= spans[at][0])
    return out


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error})") from None
    return found if isinstance(found, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
