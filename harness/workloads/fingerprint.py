"""What tells a user's functions and classes from others: a hash of what they compute, wherever they were written.

Code is told by its instructions and constants, not by its text: a comment, a line further down or another argument in
the same statement is the same workload. Another version of Python has other instructions, and so other hashes.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

OURS = ("harness", "strategies")
"""Not the user's, even where their code lies beside them; which of them are imported differs between commands."""
PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))
_CLASS_NOTES = {
    *("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__firstlineno__", "__static_attributes__"),
    *("__annotations__", "__annotate_func__", "__annotations_cache__", "__abstractmethods__", "_abc_impl"),
    *("__dataclass_fields__", "__dataclass_params__"),
}
"""Attributes of classes that compute nothing, or say what other attributes say."""


def is_users(module: str | None) -> bool:
    """Whether a module is the user's own: the notebook or script itself, and what lies in its folder or the working
    one. What is installed is told by its name."""
    if module in (None, "__main__"):
        return True
    loaded = sys.modules.get(str(module))
    file = getattr(loaded, "__file__", None)
    if str(module).partition(".")[0] in OURS or (loaded is not None and not file):
        return False
    if loaded is None:
        return True
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    folders = [Path.cwd(), *([Path(main).resolve().parent] if main else [])]
    path = Path(str(file)).resolve()
    return any(folder in path.parents for folder in folders) and not {"site-packages", "bin"} & set(path.parts)


class Fingerprint:
    """A hash to which values are added one after another, with everything of the user's that they refer to."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        """Names of the files that the user's code was compiled from."""
        self._hash = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []

    def hexdigest(self) -> str:
        """Of everything added so far, 16 digits."""
        return self._hash.hexdigest()[:16]

    def add(self, value: Any) -> None:
        """Add a value of any type."""
        if isinstance(value, PLAIN):
            self._tell(type(value).__name__, repr(value))
        elif isinstance(value, tuple):
            self._many("tuple", value)
        elif id(value) in self._seen:
            self._tell("again", self._seen[id(value)])
        else:
            self._seen[id(value)] = len(self._seen)
            self._kept.append(value)  # or another object could get its id
            self._new(value)

    def _new(self, value: Any) -> None:
        if isinstance(value, type | types.FunctionType | functools._lru_cache_wrapper):
            self._definition(value)
        elif isinstance(value, types.ModuleType):
            self._module(value)
        elif isinstance(value, types.CodeType):
            self._code(value, {})
        elif isinstance(value, torch.Tensor):
            self._tell(str(value.dtype), tuple(value.shape), value.requires_grad)
            self._hash.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self._tell(value.dtype.str, value.shape)
            self._hash.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, list):
            self._many("list", value)
        elif isinstance(value, set | frozenset):
            self._tell(type(value).__name__, sorted(map(digest, value)))
        elif isinstance(value, Mapping):
            self._many(type(value).__name__, [part for pair in value.items() for part in pair])
        elif isinstance(value, staticmethod | classmethod | types.MethodType):
            self._many("method", (type(value), value.__func__, getattr(value, "__self__", None)))
        elif isinstance(value, property):
            self._many("property", (value.fget, value.fset, value.fdel))
        else:
            self._instance(value)

    def _tell(self, *words: object) -> None:
        self._hash.update(f"{words!r}\n".encode())

    def _many(self, kind: str, values: Any) -> None:
        self._tell(kind, len(values))
        for value in values:
            self.add(value)

    def _definition(self, value: Any) -> None:
        if not is_users(value.__module__):
            self._tell("named", value.__module__, value.__qualname__)
        elif isinstance(value, type):
            self._many("class", value.__bases__)
            for name, attribute in sorted(vars(value).items()):
                if name not in _CLASS_NOTES:
                    self._tell(name)
                    self.add(attribute)
        elif isinstance(value, types.FunctionType):
            self._code(value.__code__, value.__globals__)
            closed = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
            self._many("closure", [value.__defaults__, value.__kwdefaults__, *closed])
        else:
            self._tell("cached")
            self.add(value.__wrapped__)

    def _module(self, module: types.ModuleType) -> None:
        self._tell("module", module.__name__)
        if is_users(module.__name__) and module.__name__ != "__main__":
            for name, value in sorted(vars(module).items()):
                if not name.startswith("__"):
                    self._tell(name)
                    self.add(value)

    def _code(self, code: types.CodeType, defined: Mapping[str, Any]) -> None:
        """Instructions with their arguments; names that are looked up bring what they stand for."""
        self.files.add(code.co_filename)
        found = [i for i in dis.get_instructions(code) if i.opname != "EXTENDED_ARG"]
        for instruction, after in zip(found, [*found[1:], None], strict=True):
            if after is not None and after.argval == "__firstlineno__":
                continue  # where a class stands, not what it is
            self._tell(instruction.opname)
            if isinstance(instruction.argval, types.CodeType):
                self._code(instruction.argval, defined)
            else:
                self.add(instruction.argval)
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME") and instruction.argval in defined:
                self.add(defined[instruction.argval])
        self._tell(code.co_argcount, code.co_kwonlyargcount, code.co_flags)

    def _instance(self, value: Any) -> None:
        """By what pickle would keep of it."""
        self.add(type(value))
        try:
            parts = value.__reduce_ex__(4)
        except TypeError:  # it cannot be sent to a rank either, which is said there, or it is part of the interpreter
            return
        if isinstance(parts, str):
            self._tell(parts)
        else:
            self._many("made", [list(p) if hasattr(p, "__next__") else p for p in parts])


def digest(value: Any) -> str:
    """The fingerprint of one value."""
    taken = Fingerprint()
    taken.add(value)
    return taken.hexdigest()
