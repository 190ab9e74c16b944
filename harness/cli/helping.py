"""How `--help` is laid out: commands in the order in which people need them, options in groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand, TyperGroup

COMMANDS = ("sweep", "run", "report", "compare", "nightly", "predict", "replay", "watch", "knobs", "store", "doctor")
"""The main job first."""
TRAIN, SEARCH, LONG, MEASURE, RESULTS = (
    "What to train",
    "What to search",
    "How long",
    "How to measure",
    "Where results go",
)
GROUPS = (TRAIN, SEARCH, LONG, MEASURE, RESULTS)
"""Headings of options, in order; options of no group come last."""


class Commands(TyperGroup):
    """The commands, in their order."""

    def list_commands(self, ctx: Any) -> list[str]:
        known = super().list_commands(ctx)
        return sorted(known, key=lambda name: COMMANDS.index(name) if name in COMMANDS else len(COMMANDS))


class Grouped(TyperCommand):
    """A command whose options stand under the headings that they name as `rich_help_panel`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        params = self.get_params(ctx)
        others = [param for param in params if _group(param) not in GROUPS]
        arguments = [param for param in others if param.param_type_name == "argument"]
        options = [param for param in others if param.param_type_name != "argument"]
        self._section("Arguments", arguments, ctx, formatter)
        for group in GROUPS:
            self._section(group, [param for param in params if _group(param) == group], ctx, formatter)
        self._section("Options", options, ctx, formatter)

    @staticmethod
    def _section(heading: str, params: Iterable[Any], ctx: Any, formatter: Any) -> None:
        rows = [record for param in params if (record := param.get_help_record(ctx)) is not None]
        if rows:
            with formatter.section(heading):
                formatter.write_dl(rows)


def _group(param: Any) -> str | None:
    return getattr(param, "rich_help_panel", None)
