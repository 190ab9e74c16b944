"""Where the examples of a model of transformers come from: what was asked for, and what is there without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.workloads import chat, contents, hf_model, library, pictures, ragged, rows
from harness.workloads.data import load
from harness.workloads.documents import Documents, Kind, Layout
from harness.workloads.hf_data import FIELDS, Drawn, Examples, Shown, Texts, Windows, Words, codec_of
from harness.workloads.request import Request
from harness.workloads.rows import existing

LENGTH = 128
"""Default tokens of a sample."""

BUCKETS = (
    "padding=buckets is refused: its steps have unequal widths, and so no one step time, FLOPs and peak memory to "
    "compare plans by, nor the one shape that pipelines send; take a length near that of the texts (--seq-len), or "
    "packing=true for causal-lm"
)
"""A trial's window is summarised by the median of steps that do the same work. Simulated with lengths of a lognormal
distribution (sigma 0.7, median 150, cut at 512), each step of a bucket's width in multiples of 64, that median is 10 %
below the mean, and differs by 14 % (standard deviation) from window to window of 16 steps: more than plans do."""


def length(config: str, task: str, asked: int | None) -> int:
    """Tokens of a sample; 1 for pictures.

    Raises:
        InputError: the model has fewer positions, or takes pictures.
    """
    if task == "image-classification":
        if asked is not None:
            raise InputError(f"pictures have no tokens, but a length of {asked} was asked for; leave it out")
        return 1
    most = getattr(hf_model.configuration(config), "max_position_embeddings", None)
    if asked is not None and isinstance(most, int) and 0 < most < asked:
        raise InputError(f"a sample of {asked} tokens is longer than the model's {most} positions; ask for fewer")
    return asked or min(LENGTH, most if isinstance(most, int) and most > 0 else LENGTH)


def _words(known: Any, length: int, codec: Any) -> Words:
    pad = known.pad_token_id if isinstance(known.pad_token_id, int) and known.pad_token_id >= 0 else 0
    start = getattr(known, "decoder_start_token_id", None)
    mask = next(
        (codec.token_to_id(m) for m in ("[MASK]", "<mask>") if codec and codec.token_to_id(m) is not None), None
    )
    return Words(
        vocab_size=known.vocab_size,
        pad=pad,
        start=pad if start is None else start,
        mask=known.vocab_size - 1 if mask is None else mask,
        length=length,
        classes=known.num_labels,
    )


def of_model(config: str, task: str, length: int, request: Request, *, folder: Path) -> Examples:
    """The examples for a model that has a tokenizer beside it, or is given one; without data they are drawn. Nothing is
    written.

    Args:
        config: the model's configuration as JSON.
        task: a key of `TASKS`.
        length: tokens of a sample.
        request: the options.
        folder: of the model.

    Raises:
        InputError: data or tokenizer are missing, cannot be used, or are not the model's.
    """
    known = hf_model.configuration(config)
    if request.fields.get("padding") == "buckets":
        raise InputError(BUCKETS)
    text = task in ("causal-lm", "masked-lm") and request.data is not None and request.data.suffix.lower() != ".npy"
    if not text and any(request.parsed_some(packing=bool, padding=str).values()):
        raise InputError(
            "packing and padding say how language models read the text of --data, and there is none; leave them out"
        )
    if task == "image-classification":
        return _shown(known, request)
    beside = folder / "tokenizer.json"
    path = request.tokenizer or (beside if beside.is_file() else None)
    if request.data is None:
        request.refuse("tokenizer")
        return Drawn(task=task, words=_words(known, length, None))
    if path is None and (task in FIELDS or request.data.suffix.lower() != ".npy"):
        raise InputError(f"{folder} has no tokenizer.json for the text of --data; give one by --tokenizer")
    codec = None if path is None else codec_of(existing(path, "tokenizer file"), known.vocab_size)
    words = _words(known, length, codec)
    if text and path is not None:
        return _documents(task, words, path, known, request, folder)
    return _of_text(task, words, path, known, request)


def of_bytes(config: str, task: str, length: int, request: Request) -> Examples:
    """The examples for a small model that reads UTF-8; without data they are the standard library's own sources.

    Args and Raises: as `of_model`.
    """
    known = hf_model.configuration(config)
    if task == "image-classification":
        return _shown(known, request)
    request.refuse("tokenizer")
    return _of_text(task, _words(known, length, None), None, known, request)


def _shown(known: Any, request: Request) -> Shown:
    request.refuse("tokenizer")
    size = known.image_size if isinstance(known.image_size, int) else max(known.image_size)
    found = pictures.load(request.data, cache=request.cache, size=size)
    if found.classes > known.num_labels:
        raise InputError(
            f"{found.description} has {found.classes} classes, but the model's configuration has "
            f"{known.num_labels}; give it an id2label of as many"
        )
    return Shown(pictures=found, size=size, channels=known.num_channels)


def _of_text(task: str, words: Words, tokenizer: Path | None, known: Any, request: Request) -> Examples:
    if task in FIELDS:
        return _texts(task, words, tokenizer, known, request)
    data = load(request.data, cache=request.cache, seq_len=words.length, tokenizer=tokenizer, field=request.field)
    if data.vocab_size > words.vocab_size:
        raise InputError(
            f"{request.data} has tokens up to {data.vocab_size - 1}, but the model's configuration says "
            f"vocab_size={words.vocab_size}"
        )
    return Windows(task=task, data=data, words=words)


def _texts(task: str, words: Words, tokenizer: Path | None, known: Any, request: Request) -> Texts:
    fields = FIELDS[task] if request.field == "text" else tuple(name.strip() for name in request.field.split(","))
    if len(fields) != 2:
        raise InputError(
            f"{task} needs two fields, such as --field {','.join(FIELDS[task])}, but got {request.field!r}"
        )
    source = None if request.data is None else existing(request.data, "data").resolve()
    if source is not None:
        next(rows.read(source, fields))  # the first row must have them before anything is begun
    content = library.fingerprint() if source is None else contents.fingerprint(source, request.cache)
    classes = {str(name): int(number) for number, name in (known.id2label or {}).items()}
    codec = "bytes" if tokenizer is None else contents.fingerprint(tokenizer)
    numbers = json.dumps(sorted(classes.items()) if task != "seq2seq" else [])  # by which names of classes are stored
    parts = (content, codec, task, *fields, numbers)
    store = ragged.Ragged(
        folder=ragged.address(request.cache, *parts), columns=Texts.COLUMNS, label=str(source or "the library")
    )
    return Texts(
        task=task,
        store=store,
        source=source,
        fields=fields,
        tokenizer=None if tokenizer is None else tokenizer.resolve(),
        data_id=f"{store.folder.name}-{words.length}",
        words=words,
        classes=classes,
    )


def _documents(task: str, words: Words, tokenizer: Path, known: Any, request: Request, folder: Path) -> Documents:
    """What a language model reads of rows of text, pairs or conversations."""
    fields = tuple(name.strip() for name in request.field.split(","))
    source = existing(str(request.data), "data").resolve()
    if len(fields) > 2 or not all(fields):
        raise InputError(f"{task} needs one field of text or messages, or two of text, but got {request.field!r}")
    first = next(rows.read(source, fields)).values  # the first row must have them before anything is begun
    kind = Kind.PAIR if len(fields) == 2 else Kind.MESSAGES if isinstance(first[fields[0]], list) else Kind.TEXT
    if task == "masked-lm" and kind is not Kind.TEXT:
        raise InputError(f"masked-lm reads one field of text, but {request.field!r} holds {kind}; train a causal-lm")
    layout = _layout(task, kind, known, request)
    template = chat.load(folder) if kind is Kind.MESSAGES else None
    ends = known.eos_token_id if isinstance(known.eos_token_id, list | tuple) else [known.eos_token_id]
    end = next(iter(ends), None)
    columns = ("ids",) if kind is Kind.TEXT else ("ids", "learned", "first")
    joined = str(kind is Kind.TEXT and layout is Layout.WINDOWS)
    parts = (
        contents.fingerprint(source, request.cache),
        contents.fingerprint(tokenizer),
        kind,
        *fields,
        joined,
        str(end),
    )
    store = ragged.Ragged(
        folder=ragged.address(request.cache, "documents", *parts, template.digest if template else ""),
        columns=columns,
        label=str(source),
    )
    return Documents(
        task=task,
        kind=kind,
        layout=layout,
        store=store,
        source=source,
        fields=fields,
        tokenizer=tokenizer.resolve(),
        template=template,
        end=end,
        words=words,
    )


def _layout(task: str, kind: Kind, known: Any, request: Request) -> Layout:
    given = request.parsed_some(packing=bool, padding=str)
    padding = given.get("padding")
    if padding not in (None, "fixed"):
        raise InputError(f"padding must be fixed, but got {padding!r}")
    if padding and task != "causal-lm":
        raise InputError(f"padding=fixed is for causal-lm, and {task} reads windows; leave padding out")
    if not given.get("packing"):
        return Layout.PADDED if padding or kind is not Kind.TEXT else Layout.WINDOWS
    if padding:
        raise InputError("packing=true leaves nothing to pad; leave padding out")
    if task != "causal-lm" or known.model_type not in hf_model.PACKING:
        what = f"models of type {known.model_type}" if task == "causal-lm" else f"models of {task}"
        raise InputError(
            f"{what} are not known to keep packed documents apart; leave packing out, or take one of type "
            f"{', '.join(sorted(hf_model.PACKING))}"
        )
    return Layout.PACKED
