"""The workloads by name. Another package adds one through the entry-point group `harness.workloads`.

Names can be listed without importing torch: a family is imported when one of its workloads is created.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import InputError, UnknownNameError
from harness.workloads.request import Request

if TYPE_CHECKING:
    from harness.workloads.workload import Workload

ENTRY_POINTS = "harness.workloads"
"""Entry-point group: the name that `--workload` takes -> a `Factory`."""


_OWN = re.compile(r"(.+\.py)(?::(\w+))?((?:,\w+=[^,]*)*)")
_HF = re.compile(r"hf:(.+?)((?:,\w+=[^,]*)*)")

Factory = Callable[[Request], "Workload"]
"""Makes a workload and checks all of its input, without writing anything."""


def create(
    text: str,
    *,
    cache: Path,
    data: Path | str | None = None,
    field: str = "text",
    tokenizer: Path | str | None = None,
    global_batch_size: int | None = None,
    seq_len: int | None = None,
    seed: int = 0,
    keep_dropout: bool = False,
    trust_remote_code: bool = False,
) -> Workload:
    """The workload written as `text`: a name, a name with fields such as "gpt:blocks=6,width=384,heads=6,tied=true", or
    a file of the user's with a function in it, "my_model.py:workload" (see `harness.workloads.own`).

    All input is checked and nothing is written. `keep_dropout` is the field of this name. The other arguments are those
    of `Request`.

    Raises:
        UnknownNameError: no such workload or field; the valid ones are listed.
        InputError: a field, an option or the data cannot be used.
    """
    name, colon, rest = text.partition(":")
    own, hf = _OWN.fullmatch(text), _HF.fullmatch(text)
    factory: Factory
    if own:
        factory = partial(_own, file=own[1], function=own[2] or "workload")
        rest, colon = own[3].removeprefix(","), own[3]
    elif hf:
        factory, rest, colon = partial(_hf, path=hf[1]), hf[2].removeprefix(","), hf[2]
    else:
        factory = _factory(name)
    fields = _fields(rest) if colon else {}
    if keep_dropout:
        fields["keep_dropout"] = "true"
    for option, value in (("global batch", global_batch_size), ("sequence length", seq_len)):
        if value is not None and value < 1:
            raise InputError(f"the {option} must be at least 1, but got {value}")
    return factory(
        Request(
            name=name,
            fields=fields,
            data=None if data is None else Path(data),
            field=field,
            tokenizer=None if tokenizer is None else Path(tokenizer),
            cache=Path(cache),
            global_batch_size=global_batch_size,
            seq_len=seq_len,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
    )


def names() -> list[str]:
    """Every name that `create` takes, sorted."""
    return sorted({*FAMILIES, *_added()})


def with_path(text: str, change: Callable[[str, bool], str]) -> str:
    """The workload written as `text` with another path in it, if it has one.

    Args:
        text: as `create` takes it.
        change: (path, whether it may be the name of a model in the local cache instead) -> what to write in its place.
    """
    if own := _OWN.fullmatch(text):
        return change(own[1], False) + text[own.end(1) :]
    if hf := _HF.fullmatch(text):
        return f"hf:{change(hf[1], True)}{hf[2]}"
    return text


def _gpt(request: Request) -> Workload:
    from harness.workloads.data import load
    from harness.workloads.gpt import SIZES, Gpt

    size = request.name.partition("-")[2] or "nano"
    given = request.parsed(blocks=int, width=int, heads=int, seq=int, tied=bool)
    values = {**SIZES[size], **given}
    if request.seq_len is not None:
        values["seq"] = request.seq_len
    if request.global_batch_size is not None:
        values["global_batch_size"] = request.global_batch_size
    data = load(
        request.data,
        cache=request.cache,
        seq_len=values["seq"],
        tokenizer=request.tokenizer,
        field=request.field,
    )
    return Gpt(name=_full_name(f"gpt-{size}", given), seed=request.seed, data=data, **values)


def _cnn(request: Request) -> Workload:
    from harness.workloads.cnn import Cnn, load_digits
    from strategies.optimizer import OptimizerConfig

    request.refuse("data", "tokenizer", "seq_len")
    given = request.parsed(channels=int)
    return Cnn(
        name=_full_name("cnn", given),
        seed=request.seed,
        optimizer=OptimizerConfig(lr=3e-3),  # three times the default: 98 % instead of 95 % right after 40 steps
        global_batch_size=request.global_batch_size or 64,
        digits=load_digits(),
        **given,
    )


def _own(request: Request, *, file: str, function: str) -> Workload:
    from harness.workloads import own
    from harness.workloads.rows import existing

    request.refuse("data", "tokenizer", "seq_len")
    return own.create(
        existing(file, "workload's file").resolve(),
        function,
        cache=request.cache,
        global_batch_size=request.global_batch_size,
        seed=request.seed,
        changes=request.parsed(blocks=str, keep_dropout=bool),
    )


def _hf(request: Request, *, path: str) -> Workload:
    from harness.workloads import hf_asked

    return hf_asked.create(path, request)


def _mini(request: Request) -> Workload:
    from harness.workloads import hf_asked

    return hf_asked.named(request)


FAMILIES: dict[str, Factory] = {
    "gpt": _gpt,  # short for gpt-nano, to be given fields
    "gpt-nano": _gpt,
    "gpt-mini": _gpt,
    "gpt-124m": _gpt,
    "gpt-350m": _gpt,
    "gpt-1.3b": _gpt,
    "cnn": _cnn,
    "llama-mini": _mini,
    "moe-mini": _mini,
    "bert-mini": _mini,
    "t5-mini": _mini,
    "vit-mini": _mini,
}
"""The workloads of this package."""


def _full_name(name: str, given: Mapping[str, Any]) -> str:
    # Made of what a file or folder name may hold on every system: neither ":" nor "=".
    return "-".join([name, *(f"{field}{str(value).lower()}" for field, value in sorted(given.items()))])


def _added() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _factory(name: str) -> Factory:
    if name in FAMILIES:
        return FAMILIES[name]
    point = _added().get(name)
    if point is None:
        raise UnknownNameError("workload", name, names())
    try:
        factory: Factory = point.load()
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"the workload {name} cannot be loaded from {point.value} ({error}); mend its package"
        ) from None
    return factory


def _fields(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for pair in text.split(","):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise InputError(f"a field of a workload is written NAME=VALUE, but got {pair!r}")
        if name in fields:
            raise InputError(f"a field of a workload is given once, but got {name}={fields[name]} and {name}={value}")
        fields[name] = value
    return fields
