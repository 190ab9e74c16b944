"""Tokens to train on: one array, kept in a file that the ranks map, and the windows that are cut from it.

`load` reads and checks without writing anything; `TokenData.store` then writes the file.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.errors import InputError
from harness.workloads import whole
from harness.workloads.corpus import read_corpus, standard_library
from harness.workloads.rows import existing

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from harness.workloads.corpus import Corpus

Tokens = npt.NDArray[np.integer[Any]]

_BATCH = 1024
"""Documents that a tokenizer holds in its own, far larger, form at a time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenData:
    """A sequence of token ids. Pickles as a reference to its file, which exists once `store` was called."""

    path: Path
    """Where the array is, or will be after `store`: a one-dimensional .npy file."""
    data_id: str
    """16 hexadecimal digits, a hash of the tokens and of the vocabulary's size."""
    vocab_size: int
    """Number of distinct token ids: 0 <= token < vocab_size."""
    n_tokens: int
    """Length of the array."""
    description: str
    """For people, such as "Python 3.11 standard library, 450 files, 8.0 MB"."""
    loaded: Tokens | None = dataclasses.field(default=None, repr=False, compare=False)
    """The tokens themselves in the process that read them; None in every other."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "loaded": None}

    @property
    def tokens(self) -> Tokens:
        """`[n_tokens]` uint8, uint16 or int32; where they are not `loaded`, `path` is mapped once a process."""
        return _mapped(self.path) if self.loaded is None else self.loaded

    def windows(self, step: int, indices: npt.ArrayLike, seq_len: int, seed: int) -> npt.NDArray[np.int64]:
        """The samples with these indices in a step, `[len(indices), seq_len + 1]`, for inputs and shifted targets.

        A window starts at a place that depends on (seed, step, its index) alone, drawn with replacement.
        """
        starts = counter_hash(seed, step, indices) % np.uint64(self.n_tokens - seq_len)
        places = starts.astype(np.int64)[:, None] + np.arange(seq_len + 1)
        return np.asarray(self.tokens[places], np.int64)

    def store(self) -> None:
        """Write the array to `path`, whole or not at all; an array that is already there is kept.

        Raises:
            StoreError: the folder cannot be written.
        """
        if self.loaded is None or _holds(self.path, self.loaded):
            return
        loaded = self.loaded
        whole.write(self.path, lambda file: np.save(file, loaded, allow_pickle=False))


def counter_hash(seed: int, step: int, indices: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """A uniform 64-bit number for each index, `[len(indices)]`, whatever other indices are asked for with it.

    SplitMix64's mixing function, once for each of the three counters (Steele, Lea and Flood 2014, "Fast splittable
    pseudorandom number generators", https://doi.org/10.1145/2714064.2660195).
    """
    state = np.zeros(1, np.uint64)
    for counter in (seed, step):
        state = _mix(state ^ np.uint64(counter % 2**64))
    return _mix(state ^ np.asarray(indices, np.uint64))


def load(
    source: Path | str | None, *, cache: Path, seq_len: int, tokenizer: Path | str | None = None, field: str = "text"
) -> TokenData:
    """Read and check the data of a workload. Nothing is written: call `store` on the result before ranks start.

    Args:
        source: a .txt, .jsonl or .parquet file, a folder of them, or a token array (.npy: integers, one dimension);
            None for the Python standard library's own files. Documents are joined by a newline.
        cache: folder in which `store` will keep the array.
        seq_len: tokens of one sample; the data must hold at least one more.
        tokenizer: a JSON file of the package `tokenizers`; None takes UTF-8 bytes as tokens.
        field: name of the .jsonl field or .parquet column that holds the text.

    Raises:
        InputError: the source or the tokenizer is missing, unreadable, of another kind, or too short.
    """
    codec = None if tokenizer is None else load_tokenizer(existing(tokenizer, "tokenizer file"))
    path = None if source is None else existing(source, "data")
    if path is not None and path.is_file() and path.suffix.lower() == ".npy":
        tokens, vocab_size = _read_array(path, codec)
        label, files, size_bytes = path.name, 1, tokens.nbytes
    else:
        corpus = standard_library() if path is None else read_corpus(path, field)
        tokens, vocab_size = _encode(corpus, codec)
        label, files, size_bytes = corpus.label, corpus.files, corpus.size_bytes
    if tokens.size <= seq_len:
        raise InputError(
            f"{path or label} is shorter than one sequence: seq_len={seq_len} needs {seq_len + 1} tokens, "
            f"but it has {tokens.size}; give more text or a shorter sequence length"
        )
    data_id = _data_id(tokens, vocab_size)
    return TokenData(
        path=cache.absolute() / f"{data_id}.npy",
        data_id=data_id,
        vocab_size=vocab_size,
        n_tokens=tokens.size,
        description=f"{label}, {files} file{'s' if files > 1 else ''}, {size_bytes / 1e6:.1f} MB",
        loaded=tokens,
    )


def _encode(corpus: Corpus, codec: Tokenizer | None) -> tuple[Tokens, int]:
    if codec is None:
        return np.frombuffer(b"\n".join(corpus.documents), np.uint8), 256
    ends = [b"\n"] * (len(corpus.documents) - 1) + [b""]
    vocab_size = vocab_size_of(codec)
    parts: list[Tokens] = []
    try:
        for at in range(0, len(ends), _BATCH):
            batch = zip(corpus.documents[at : at + _BATCH], ends[at : at + _BATCH], strict=True)
            texts = [(document + end).decode() for document, end in batch]
            encodings = codec.encode_batch_fast(texts, add_special_tokens=False)
            parts += [np.array(encoding.ids, _compact(vocab_size)) for encoding in encodings]
    except Exception as error:  # the package raises Exception itself
        raise InputError(
            f"the tokenizer cannot encode {corpus.label} ({error}); give one that knows its words"
        ) from None
    return np.concatenate(parts), vocab_size


def _read_array(path: Path, codec: Tokenizer | None) -> tuple[Tokens, int]:
    try:
        array = _open_array(path)
    except (ValueError, OSError) as error:
        raise InputError(
            f"{path} is not an array of plain numbers ({error}); write it with numpy.save(file, tokens)"
        ) from None
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(
            f"a token array must be one-dimensional integers, but {path} has (shape={array.shape}, dtype={array.dtype})"
        )
    if array.size == 0:
        raise InputError(f"{path} is empty: it has no tokens to train on")
    low, high = int(array.min()), int(array.max())
    vocab_size = high + 1 if codec is None else vocab_size_of(codec)
    if low < 0 or high >= min(vocab_size, 2**31):
        limit = min(vocab_size, 2**31)
        raise InputError(f"0 <= token < {limit} must hold, but {path} has tokens from {low} to {high}")
    return np.ascontiguousarray(array, _compact(vocab_size)), vocab_size


def load_tokenizer(path: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise InputError(
            "a tokenizer file needs the package tokenizers: pip install 'distributed-harness[tokenizers]'"
        ) from None
    try:
        codec = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises Exception itself
        raise InputError(f"{path} is not a tokenizer file of the package tokenizers ({error})") from None
    # A saved tokenizer may cut or pad every text to the length some model wanted.
    codec.no_truncation()
    codec.no_padding()
    return codec


def vocab_size_of(codec: Tokenizer) -> int:
    # Not the number of entries: ids may have gaps, and a model needs a row for the largest one.
    return max(codec.get_vocab().values(), default=-1) + 1


def _compact(vocab_size: int) -> type[np.integer[Any]]:
    return np.uint8 if vocab_size <= 2**8 else np.uint16 if vocab_size <= 2**16 else np.int32


def _data_id(tokens: Tokens, vocab_size: int) -> str:
    digest = hashlib.sha256(f"{vocab_size}\n".encode())
    digest.update(tokens.astype(tokens.dtype.newbyteorder("<"), copy=False).data)
    return digest.hexdigest()[:16]


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _holds(path: Path, tokens: Tokens) -> bool:
    try:
        stored = _open_array(path)
    except (ValueError, OSError):
        return False
    return stored.shape == tokens.shape and stored.dtype == tokens.dtype


def _open_array(path: Path) -> Tokens:
    try:
        # Maps plain numbers and refuses pickled objects, so reading a file can run nothing that is in it.
        array = np.lib.format.open_memmap(path, mode="r")
    except (SyntaxError, tokenize.TokenError) as error:  # how numpy reports some damaged headers
        raise ValueError(f"damaged header: {error}") from None
    # A plain view: indexing the memmap class itself costs more than reading the page.
    return array.view(np.ndarray)


_mapped = functools.lru_cache(_open_array)
