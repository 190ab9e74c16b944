"""Documents for language models: texts, prompts with completions, or conversations; padded, packed, or in one row."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from harness.errors import InputError
from harness.workloads import chat, contents, rows
from harness.workloads.data import counter_hash, load_tokenizer
from harness.workloads.hf_data import Examples, Places, Tensors, Words, arrays, masked
from harness.workloads.ragged import Ragged
from harness.workloads.rows import Row
from strategies.cross_entropy import IGNORED

NEVER = 2**31 - 1
"""Where an example begins to be learned in which nothing is."""


class Kind(StrEnum):
    """What a row of the data holds."""

    TEXT = "text"
    """All of it is learned."""
    PAIR = "pair"
    """The second of two texts is learned, the first is given."""
    MESSAGES = "messages"
    """What the assistant says is learned, the rest of the conversation is given."""


class Layout(StrEnum):
    """How documents become samples of one length."""

    WINDOWS = "windows"
    """Cut anywhere from all texts, one after another."""
    PADDED = "padded"
    """One document a sample, cut at its end or filled up."""
    PACKED = "packed"
    """Several documents a sample, that do not see each other; nothing is filled up."""


@dataclass(frozen=True, kw_only=True)
class Documents(Examples):
    """Of a file, tokenised into a store that ranks map."""

    task: str
    """"causal-lm" or "masked-lm"."""
    kind: Kind
    layout: Layout
    store: Ragged
    """Its columns are "ids", and of what is not all learned "learned" (0 or 1 of each token) and "first" (which token
    that is predicted from others is learned first)."""
    source: Path
    """What is read."""
    fields: tuple[str, ...]
    """One or two of it."""
    tokenizer: Path
    """A file of the package `tokenizers`."""
    template: chat.Template | None
    """Of conversations."""
    end: int | None
    """The token after a document."""
    words: Words

    @property
    def data_id(self) -> str:  # type: ignore[override]
        return f"{self.store.folder.name}-{self.layout}-{self.words.length}"

    @property
    def description(self) -> str:  # type: ignore[override]
        return self.source.name

    @property
    def predictions(self) -> float | None:  # type: ignore[override]
        whole = self.layout is Layout.WINDOWS and self.task == "causal-lm"
        return float(self.words.length) if whole else None

    @property
    def inputs(self) -> tuple[str, ...]:
        return ("position_ids",) if self.layout is Layout.PACKED else ()

    @property
    def notes(self) -> tuple[str, ...]:
        if self.layout is Layout.WINDOWS:
            return ()
        left, what = self._all - len(_usable(self)), "rows" if self.layout is Layout.PACKED else "documents"
        within = f"within {self.words.length} tokens"
        return (f"{left:,} of {self._all:,} {what} have nothing to learn {within} and are left out",) if left else ()

    def prepare(self) -> None:
        codec = load_tokenizer(self.tokenizer)
        self.store.store(
            lambda: rows.read(self.source, self.fields),
            lambda some: self._encoded(some, codec),
            total=rows.size_bytes(self.source),
        )
        contents.keep(self.store.folder.parent)
        tokens, length = self.store.flat("ids").size, self.words.length
        least = {Layout.WINDOWS: length + (self.task == "causal-lm"), Layout.PACKED: length}.get(self.layout, 0)
        if tokens < least:
            raise InputError(
                f"{self.source} is shorter than one sample: {least} tokens are needed, but it has {tokens}; give more "
                "text or a shorter sequence length"
            )
        if self.layout is not Layout.WINDOWS and not len(_usable(self)):
            raise InputError(
                f"{self.source} has nothing to learn within {length} tokens: what is given is longer everywhere; give "
                "a longer sequence length"
            )

    # -- what is stored

    def _encoded(self, some: Sequence[Row], codec: Any) -> Iterator[dict[str, Sequence[int]]]:
        if self.kind is Kind.MESSAGES:
            yield from (self._conversation(row, codec) for row in some)
        elif self.kind is Kind.PAIR:
            given, learned = ([self._text(row, field) for row in some] for field in self.fields)
            begun = codec.encode_batch_fast(given)
            for a, b in zip(begun, codec.encode_batch_fast(learned, add_special_tokens=False), strict=True):
                first = a.ids[:-1] if a.ids and a.ids[-1] == self.end else a.ids
                rest = self._ended(b.ids)
                yield _learned([*first, *rest], [0] * len(first) + [1] * len(rest))
        elif self.layout is Layout.WINDOWS:
            texts = [self._text(row, self.fields[0]) + ("" if row.goes_on else "\n") for row in some]
            yield from ({"ids": text.ids} for text in codec.encode_batch_fast(texts, add_special_tokens=False))
        else:
            texts = [self._text(row, self.fields[0]) for row in some]
            for text in codec.encode_batch_fast(texts):
                yield {"ids": self._ended(text.ids)}

    def _conversation(self, row: Row, codec: Any) -> dict[str, Sequence[int]]:
        assert self.template is not None
        messages = chat.checked(row.values[self.fields[0]], self.fields[0], row.where)
        text, spans = self.template.rendered(messages, row.where)
        found = codec.encode(text, add_special_tokens=False)
        return _learned(found.ids, chat.labels_of(found.offsets, spans))

    def _text(self, row: Row, field: str) -> str:
        return rows.text_of(row.values[field], f"field {field!r} in {row.where}")

    def _ended(self, ids: list[int]) -> list[int]:
        return ids if self.end is None or (ids and ids[-1] == self.end) else [*ids, self.end]

    # -- what is drawn

    def shaped(self) -> Tensors:
        shape = (1, self.words.length)
        names = ("input_ids", "labels", *(["attention_mask"] if self.task == "masked-lm" else []), *self.inputs)
        return {name: torch.zeros(shape, dtype=torch.int64) for name in names}

    def samples(self, step: int, indices: npt.ArrayLike, seed: int) -> Tensors:
        length = self.words.length
        if self.layout is Layout.WINDOWS:
            longer = length + (self.task == "causal-lm")
            flat = self.store.flat("ids")
            starts = counter_hash(seed, step, indices) % np.uint64(flat.size - longer + 1)
            tokens = flat[starts.astype(np.int64)[:, None] + np.arange(longer)].astype(np.int64)
            if self.task == "masked-lm":
                return masked(tokens, self.words, seed, step, indices)
            return arrays(input_ids=tokens[:, :-1], labels=tokens[:, 1:])
        chosen = self._chosen(step, indices, seed)
        if self.layout is Layout.PACKED:
            ids, positions = self.store.packed_rows("ids", length, chosen)
            learned = self._packed_learned(chosen)[:, 1:] & (positions[:, 1:] > 0)
            labels = np.full_like(ids, IGNORED)
            labels[:, :-1] = np.where(learned, ids[:, 1:], IGNORED)
            return arrays(input_ids=ids, position_ids=positions, labels=labels)
        ids = self.store.padded("ids", chosen, length + 1, self.words.pad)
        if "learned" in self.store.columns:
            learned = self.store.padded("learned", chosen, length + 1, 0) > 0
        else:
            learned = np.arange(length + 1) < self.store.lengths("ids", chosen)[:, None]
        return arrays(input_ids=ids[:, :-1], labels=np.where(learned, ids, IGNORED)[:, 1:])

    def real_tokens(self, step: int, indices: npt.ArrayLike, seed: int) -> int | None:
        if self.layout is not Layout.PADDED:
            return None
        lengths = self.store.lengths("ids", self._chosen(step, indices, seed))
        return int(np.minimum(lengths, self.words.length).sum())

    def _chosen(self, step: int, indices: npt.ArrayLike, seed: int) -> Places:
        usable = _usable(self)
        chosen: Places = usable[(counter_hash(seed, step, indices) % np.uint64(len(usable))).astype(np.int64)]
        return chosen

    def _packed_learned(self, chosen: Places) -> npt.NDArray[np.bool_]:
        if "learned" not in self.store.columns:
            return np.ones((len(chosen), self.words.length), np.bool_)
        places = chosen[:, None] * self.words.length + np.arange(self.words.length)
        return np.asarray(self.store.flat("learned")[places] > 0)

    @property
    def _all(self) -> int:
        return self.store.flat("ids").size // self.words.length if self.layout is Layout.PACKED else len(self.store)


def _learned(ids: Sequence[int], learned: Sequence[int]) -> dict[str, Sequence[int]]:
    first = next((at for at, one in enumerate(learned) if at and one), NEVER)
    return {"ids": ids, "learned": [int(one) for one in learned], "first": [first]}


@functools.lru_cache(maxsize=4)
def _usable(documents: Documents) -> Places:
    """The documents, or the packed rows, in which something is learned."""
    store, length = documents.store, documents.words.length
    if documents.layout is Layout.PADDED:
        known = store.flat("first") <= length if "first" in store.columns else store.lengths("ids") > 1
        return np.flatnonzero(known)
    whole = np.arange(documents._all)
    if "learned" not in store.columns:
        return whole
    at_once = max(1, 2**24 // length)  # so that no more of a long store is in memory at a time
    parts = (store.flat("learned")[at * length : (at + at_once) * length] for at in whole[::at_once].tolist())
    found = [part[: len(part) // length * length].reshape(-1, length)[:, 1:].any(1) for part in parts]
    return np.flatnonzero(np.concatenate(found)) if found else whole
