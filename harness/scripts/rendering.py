"""A plan of a script -> its command, its environment, and copies of the files that it reads."""

from __future__ import annotations

import shlex
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.scripts import key_paths
from harness.scripts.expressions import Value
from harness.scripts.knobs_file import KnobsFile
from harness.scripts.placeholders import fill, is_placeholder
from strategies.knob import Settings


@dataclass(frozen=True)
class Rendered:
    """What is started for a plan."""

    command: tuple[str, ...]
    environment: dict[str, str]


def render(script: KnobsFile, plan: Settings, folder: Path) -> Rendered:
    """Fill a plan into a script's command, and write copies of its files into a folder; its own are never touched.

    A word that is one placeholder of a knob vanishes where nothing is written for it, and may be several words.

    Args:
        script: what `knobs_file.read` gave.
        plan: of `script.plan`.
        folder: of the trial; exists.
    """
    texts = {"trial_dir": str(folder), "port": str(_free_port()), "python": sys.executable}
    for name, source in script.files.items():
        copy = folder / f"{name}{source.suffix}"
        key_paths.save(_changed(script, name, plan), copy)
        texts[name] = str(copy)
    knobs = {
        name: text_of(plan[name], each.written) if name in plan else each.absent for name, each in script.knobs.items()
    }
    known = texts | knobs  # what a knob writes may have placeholders of others
    texts |= {name: fill(text, known) if script.knobs[name].written else text for name, text in knobs.items()}
    command: list[str] = []
    for word in script.command:
        filled = fill(word, texts)
        alone = is_placeholder(word) and word[1:-1] in knobs
        command += (
            shlex.split(filled) if alone and script.knobs[word[1:-1]].written else [filled] * bool(filled or not alone)
        )
    return Rendered(tuple(command), {name: fill(value, texts) for name, value in script.env.items()})


def _changed(script: KnobsFile, name: str, plan: Settings) -> object:
    """A file's content with the plan's values."""
    content = key_paths.load(script.files[name])
    for knob in script.knobs.values():
        for target in knob.into:
            if target.file != name:
                continue
            if knob.name in plan:
                key_paths.put(content, target.path, plan[knob.name], str(script.files[name]), new=target.new)
            elif knob.remove_if_absent:
                key_paths.drop(content, target.path)
    return content


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def text_of(value: Value, written: Mapping[str, str]) -> str:
    """How a value stands in a command: as its knob writes it, or else true, 4, 0.001."""
    text = (
        str(value).lower() if isinstance(value, bool) else f"{value:.12g}" if isinstance(value, float) else str(value)
    )
    return written.get(text, text)
