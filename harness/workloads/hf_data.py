"""Batches for models of transformers: of text, of labelled text, of pairs of texts, of pictures, or drawn."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from harness.errors import InputError
from harness.workloads import contents, library, rows
from harness.workloads.data import TokenData, counter_hash, load_tokenizer, vocab_size_of
from harness.workloads.pictures import Pictures
from harness.workloads.ragged import Ragged
from harness.workloads.rows import Row
from strategies.cross_entropy import IGNORED

Tensors = dict[str, torch.Tensor]
Places = npt.NDArray[np.int64]
MASKED, REPLACED, KEPT = 0.15, 0.8, 0.1
"""Share of the tokens that are predicted; of these, of those that are masked, and of those that stay what they are
(Devlin et al. 2019, arXiv:1810.04805, section 3.1)."""
LONGEST = 2**32
"""Numbers that are kept apart for each sample; none has as many tokens."""
FIELDS = {
    "sequence-classification": ("text", "label"),
    "token-classification": ("tokens", "labels"),
    "seq2seq": ("source", "target"),
}
"""Task -> the fields that its data has, unless they are named."""


class Examples(ABC):
    """Where the samples of a task come from. Instances are picklable."""

    data_id: str
    """A hash of everything that they depend on, but for the seed."""
    description: str
    """For people."""
    predictions: float | None = None
    """Of each sample, if all have as many."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the model is called with beside the inputs of its task."""
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of them, once they are prepared."""
        return ()

    @abstractmethod
    def samples(self, step: int, indices: npt.ArrayLike, seed: int) -> Tensors:
        """Those with these indices in a step: the model's inputs and "labels"."""

    def real_tokens(self, step: int, indices: npt.ArrayLike, seed: int) -> int | None:
        """How many tokens of these samples are no padding, those of encoder and decoder; None if all are."""
        return None

    def prepare(self) -> None:  # noqa: B027 - what is drawn needs no preparation
        """Write what ranks map."""

    def shaped(self) -> Tensors:
        """One sample, of which only the shapes count: what is not prepared cannot be asked for another."""
        return self.samples(0, [0], 0)


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a model knows of tokens."""

    vocab_size: int
    """0 <= token < vocab_size."""
    pad: int
    """Fills what is shorter than `length`."""
    start: int
    """What a decoder begins with."""
    mask: int
    """In place of a token that is to be predicted."""
    length: int
    """Tokens of a sample."""
    classes: int
    """0 <= label < classes."""


@dataclass(frozen=True, kw_only=True)
class Drawn(Examples):
    """Tokens and labels drawn by (seed, step, index): there is nothing to learn, but all there is to compute."""

    task: str
    """A key of `TASKS`, one of text."""
    words: Words

    @property
    def data_id(self) -> str:  # type: ignore[override]
        return f"drawn-{self.words.length}-{self.words.vocab_size}-{self.words.classes}"

    @property
    def description(self) -> str:  # type: ignore[override]
        return "tokens drawn at random"

    @property
    def predictions(self) -> float | None:  # type: ignore[override]
        return {"sequence-classification": 1.0, "masked-lm": None}.get(self.task, float(self.words.length))

    def samples(self, step: int, indices: npt.ArrayLike, seed: int) -> Tensors:
        words = self.words
        drawn = _hashes(seed, step, indices, 2 * words.length + 1)
        tokens = (drawn % np.uint64(words.vocab_size)).astype(np.int64)
        first, rest = tokens[:, : words.length], tokens[:, words.length :]
        if self.task == "causal-lm":
            return arrays(input_ids=first, labels=tokens[:, 1 : words.length + 1])
        if self.task == "masked-lm":
            return masked(first, words, seed, step, indices)
        whole = {"input_ids": first, "attention_mask": np.ones_like(first)}
        if self.task == "seq2seq":
            labels = rest[:, : words.length]
            return arrays(**whole, decoder_input_ids=_shifted(labels, words), labels=labels)
        labels = (drawn % np.uint64(words.classes)).astype(np.int64)
        one = self.task == "sequence-classification"
        return arrays(**whole, labels=labels[:, 0] if one else labels[:, : words.length])


@dataclass(frozen=True, kw_only=True)
class Windows(Examples):
    """Windows of one long row of tokens."""

    task: str
    """"causal-lm" or "masked-lm"."""
    data: TokenData
    words: Words

    @property
    def data_id(self) -> str:  # type: ignore[override]
        return f"{self.data.data_id}-{self.words.length}"

    @property
    def description(self) -> str:  # type: ignore[override]
        return self.data.description

    @property
    def predictions(self) -> float | None:  # type: ignore[override]
        return float(self.words.length) if self.task == "causal-lm" else None

    def prepare(self) -> None:
        self.data.store()

    def samples(self, step: int, indices: npt.ArrayLike, seed: int) -> Tensors:
        if self.task == "masked-lm":
            tokens = self.data.windows(step, indices, self.words.length - 1, seed)
            return masked(tokens, self.words, seed, step, indices)
        tokens = self.data.windows(step, indices, self.words.length, seed)
        return arrays(input_ids=tokens[:, :-1], labels=tokens[:, 1:])


@dataclass(frozen=True)
class Encoded:
    """Tokens of a text."""

    ids: list[int]


class Bytes:
    """UTF-8 in place of a tokenizer: 0 fills up, 1 begins, 2 ends, and a byte is 3 more than itself."""

    def encode_batch(self, texts: Sequence[str]) -> list[Encoded]:
        """The tokens of each text."""
        return [Encoded([1, *(byte + 3 for byte in text.encode()), 2]) for text in texts]


@dataclass(frozen=True, kw_only=True)
class Texts(Examples):
    """Texts of various lengths with a class, with a class a token, or with another text, padded to one length."""

    task: str
    """A key of `FIELDS`."""
    store: Ragged
    source: Path | None
    """What is read; None: functions of the standard library."""
    fields: tuple[str, ...]
    """Two fields of the source."""
    tokenizer: Path | None
    """None takes UTF-8 bytes as tokens."""
    data_id: str
    """Of the content of source and tokenizer, the fields and the length."""
    words: Words
    classes: Mapping[str, int]
    """Names of classes -> their numbers."""

    COLUMNS: ClassVar[tuple[str, str]] = ("first", "second")

    @property
    def description(self) -> str:  # type: ignore[override]
        return "functions of Python's standard library" if self.source is None else self.source.name

    @property
    def predictions(self) -> float | None:  # type: ignore[override]
        return 1.0 if self.task == "sequence-classification" else None

    @property
    def notes(self) -> tuple[str, ...]:
        return library.notes() if self.source is None else ()

    def prepare(self) -> None:
        codec = Bytes() if self.tokenizer is None else load_tokenizer(self.tokenizer)
        total = None if self.source is None else rows.size_bytes(self.source)
        self.store.store(self._rows, lambda some: self._encoded(some, codec), total=total)
        contents.keep(self.store.folder.parent)

    def shaped(self) -> Tensors:
        return Drawn(task=self.task, words=self.words).shaped()

    def _rows(self) -> Iterator[Row]:
        if self.source is not None:
            return rows.read(self.source, self.fields)
        return library.described() if self.task == "seq2seq" else library.labelled()

    def _encoded(self, some: Sequence[Row], codec: Any) -> Iterator[dict[str, Sequence[int]]]:
        one, other = self.fields
        if self.task == "token-classification":
            yield from (self._tagged(row, codec) for row in some)
            return
        first = codec.encode_batch([rows.text_of(row.values[one], f"field {one!r} in {row.where}") for row in some])
        if self.task == "seq2seq":
            texts = [rows.text_of(row.values[other], f"field {other!r} in {row.where}") for row in some]
            yield from (
                {"first": a.ids, "second": b.ids} for a, b in zip(first, codec.encode_batch(texts), strict=True)
            )
            return
        for row, text in zip(some, first, strict=True):
            yield {"first": text.ids, "second": [self._class(row.values[other], f"field {other!r} in {row.where}")]}

    def _tagged(self, row: Row, codec: Any) -> dict[str, Sequence[int]]:
        """The class of a word is predicted at its first token."""
        one, other = self.fields
        names, tags = row.values[one], row.values[other]
        if not isinstance(names, list) or not isinstance(tags, list) or len(names) != len(tags):
            raise InputError(f"fields {one!r} and {other!r} must be lists of one length, but are not in {row.where}")
        found = codec.encode(
            [rows.text_of(name, f"field {one!r} in {row.where}") for name in names], is_pretokenized=True
        )
        labels, last = [], None
        for word in found.word_ids:
            new = word is not None and word != last
            labels.append(self._class(tags[word], f"field {other!r} in {row.where}") if new else IGNORED)
            last = word
        return {"first": found.ids, "second": labels}

    def _class(self, value: Any, where: str) -> int:
        number = value
        if isinstance(value, str):  # .csv has no numbers
            number = self.classes.get(value, int(value) if re.fullmatch("[0-9]{1,9}", value) else -1)
        if isinstance(number, bool) or not isinstance(number, int):
            raise InputError(f"{where} must hold a class, a whole number or a name, but holds {type(value).__name__}")
        if not 0 <= number < self.words.classes:
            known = f"0 to {self.words.classes - 1}, or one of {', '.join(list(self.classes)[:8])}"
            raise InputError(f"{where} is {value!r}, but the classes of the model's configuration are {known}")
        return number

    def samples(self, step: int, indices: npt.ArrayLike, seed: int) -> Tensors:
        chosen, words = self.store.chosen(step, indices, seed), self.words
        ids = self.store.padded("first", chosen, words.length, words.pad)
        there = np.arange(words.length) < self.store.lengths("first", chosen)[:, None]
        given = {"input_ids": ids, "attention_mask": there.astype(np.int64)}
        if self.task == "sequence-classification":
            return arrays(**given, labels=self.store.padded("second", chosen, 1, 0)[:, 0])
        labels = self.store.padded("second", chosen, words.length, IGNORED)
        if self.task == "seq2seq":
            return arrays(**given, decoder_input_ids=_shifted(labels, words), labels=labels)
        return arrays(**given, labels=labels)

    def real_tokens(self, step: int, indices: npt.ArrayLike, seed: int) -> int | None:
        chosen = self.store.chosen(step, indices, seed)
        columns = self.COLUMNS if self.task == "seq2seq" else self.COLUMNS[:1]
        return sum(int(np.minimum(self.store.lengths(c, chosen), self.words.length).sum()) for c in columns)


@dataclass(frozen=True, kw_only=True)
class Shown(Examples):
    """Pictures and their classes."""

    pictures: Pictures
    size: int
    """Height and width that the model takes."""
    channels: int
    """Colours that it takes."""
    predictions: float | None = 1.0

    @property
    def data_id(self) -> str:  # type: ignore[override]
        return f"{self.pictures.data_id}-{self.size}-{self.channels}"

    @property
    def description(self) -> str:  # type: ignore[override]
        return self.pictures.description

    def prepare(self) -> None:
        self.pictures.store()

    def shaped(self) -> Tensors:
        return {"pixel_values": torch.zeros(1, self.channels, self.size, self.size), "labels": torch.zeros(1).long()}

    def samples(self, step: int, indices: npt.ArrayLike, seed: int) -> Tensors:
        chosen = self.pictures.chosen(step, indices, seed)
        pixels = self.pictures.samples(chosen, self.size, self.channels) * 2 - 1  # as the models' own processors scale
        return arrays(pixel_values=pixels.astype(np.float32), labels=self.pictures.labels_of(chosen))


def masked(tokens: Places, words: Words, seed: int, step: int, indices: npt.ArrayLike) -> Tensors:
    """Tokens of which some are to be predicted, and of these most are masked or replaced.

    Args:
        tokens: `[samples, length]`.
        words: of the model.
        seed: with `step` and `indices`, all that the choice depends on.
        step: of the training.
        indices: of the samples.
    """
    chance, kind, other = (_hashes(seed + 1 + i, step, indices, tokens.shape[1]) for i in range(3))
    asked, share = chance / 2.0**64 < MASKED, kind / 2.0**64
    hidden, drawn = asked & (share < REPLACED), asked & (share >= REPLACED + KEPT)
    given = np.where(hidden, words.mask, np.where(drawn, other % np.uint64(words.vocab_size), tokens.astype(np.uint64)))
    labels = np.where(asked, tokens, IGNORED)
    return arrays(input_ids=given.astype(np.int64), attention_mask=np.ones_like(tokens), labels=labels)


def codec_of(tokenizer: Path, vocab_size: int) -> Any:
    """A tokenizer, after a look at whether the model has a row for each of its tokens.

    Raises:
        InputError: it is none, or has more tokens.
    """
    codec = load_tokenizer(tokenizer)
    if vocab_size_of(codec) > vocab_size:
        raise InputError(
            f"{tokenizer} is the tokenizer of another vocabulary: it has {vocab_size_of(codec)} tokens, but the "
            f"model's configuration says vocab_size={vocab_size}"
        )
    return codec


def _hashes(seed: int, step: int, indices: npt.ArrayLike, count: int) -> npt.NDArray[np.uint64]:
    """So many uniform numbers for each sample, `[len(indices), count]`."""
    first = np.asarray(indices, np.uint64)[:, None] * np.uint64(LONGEST)
    return counter_hash(seed, step, first + np.arange(count, dtype=np.uint64))


def _shifted(labels: Places, words: Words) -> Places:
    """What a decoder is given where it is to predict these."""
    before = np.where(labels[:, :-1] == IGNORED, words.pad, labels[:, :-1])
    return np.concatenate([np.full((len(labels), 1), words.start), before], axis=1)


def arrays(**named: npt.NDArray[Any]) -> Tensors:
    """As tensors."""
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in named.items()}
