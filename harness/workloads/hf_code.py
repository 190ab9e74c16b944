"""Code that a model's folder brings beside its config.json: run only where somebody asked for it on the command line.

Transformers imports it, from the folder and from nowhere else; parent and ranks the same files.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.workloads.own import Guard

_registered: dict[str, str] = {}
"""Architecture -> hash of the code that this process knows it by."""


@dataclass(frozen=True)
class Code:
    """What makes an architecture known that transformers does not know."""

    folder: Path
    """Absolute."""
    model_type: str
    """What the configuration calls it."""
    classes: tuple[tuple[str, str], ...]
    """Transformers' automatic class -> "file.Class" of the folder."""
    digest: str
    """A hash of the folder's Python files."""

    def register(self) -> None:
        """Import it, and have transformers know it.

        Raises:
            InputError: it raises, or the process knows the architecture by other code.
            RuntimeError: it has changed since it was first read.
        """
        known = _registered.get(self.model_type)
        if known == self.digest:
            return
        if known is not None:
            raise InputError(f"this process knows {self.model_type!r} by other code already; start a new one")
        if digest_of(self.folder) != self.digest:
            raise RuntimeError(f"code in {self.folder} has changed since the start")
        copied = f".{self.folder.name}."  # transformers runs copies, in a package of the folder's name
        guarded = Guard(str(self.folder), lambda name: copied in name.replace("/", ".") or str(self.folder) in name)
        guarded("its code", self._import)
        _registered[self.model_type] = self.digest

    def _import(self) -> None:
        import transformers
        from transformers.dynamic_module_utils import get_class_from_dynamic_module

        found: dict[str, Any] = {
            auto: get_class_from_dynamic_module(name, str(self.folder), local_files_only=True)
            for auto, name in self.classes
        }
        config = found.pop("AutoConfig")
        transformers.AutoConfig.register(self.model_type, config)
        for auto, model in found.items():
            getattr(transformers, auto).register(config, model)


def of(written: dict[str, Any], file: Path, known: set[str], *, trusted: bool) -> Code | None:
    """The code that a configuration needs, registered; None if it needs none.

    Args:
        written: the configuration.
        file: where it stands.
        known: automatic classes that are of use here, beside AutoConfig.
        trusted: whether it may be run.

    Raises:
        InputError: it may not, or cannot.
    """
    classes = written.get("auto_map")
    if classes is None:
        return None
    if not isinstance(classes, dict) or not all(isinstance(name, str) for name in classes.values()):
        raise InputError(f"auto_map in {file} must name classes of its folder, but got {classes!r}")
    first = next(iter(classes.values()), "no class")
    if not trusted:
        raise InputError(
            f"{file} wants code from its own folder to be run ({first}), which is not done unasked; read it, and give "
            "--trust-remote-code, or describe that model in a file of your own, --workload my_model.py:workload"
        )
    if elsewhere := [name for name in classes.values() if "--" in name]:
        raise InputError(f"{file} wants code of another repository to be run ({elsewhere[0]}), which is never done")
    needed = {auto: name for auto, name in classes.items() if auto in known or auto == "AutoConfig"}
    if "AutoConfig" not in needed or len(needed) < 2:
        raise InputError(f"auto_map in {file} must name AutoConfig and a model, but names {', '.join(classes)}")
    folder = file.parent.resolve()
    code = Code(folder, str(written["model_type"]), tuple(sorted(needed.items())), digest_of(folder))
    code.register()
    return code


def digest_of(folder: Path) -> str:
    """16 hexadecimal digits, a hash of the Python files in a folder and below it."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
