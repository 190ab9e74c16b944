"""Which commit of the user's project made it slower: revisions built apart, measured against the good one in turns."""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import InputError, MeasurementError
from harness.nightly.environment import git
from harness.nightly.series import confirm, trimmed_mean

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


class UnbuildableError(Exception):
    """A revision that cannot be built or measured."""


@dataclass(frozen=True)
class Step:
    """What was found of one revision."""

    revision: str
    verdict: str
    """"good", "bad" or "skipped"."""
    why: str


@dataclass
class Bisect:
    """Finds the first bad commit.

    Args:
        project: a git working tree, which is left as it is.
        build: the user's own command that builds a revision, run in it; "" for none.
        measure: the user's own command, whose last printed number is the metric; less is better. Or what is called with
            a built revision's folder and returns it; it raises UnbuildableError.
        runs: of each side in a comparison, in turns.
        floor: smallest relative slowdown that counts as bad.
        say: told of progress.
    """

    project: Path
    build: str
    measure: str | Callable[[Path], float]
    runs: int = 6
    floor: float = 0.02
    say: Callable[[str], None] = lambda text: None
    steps: list[Step] = field(default_factory=list)

    def find(self, good: str, bad: str) -> str | list[str]:
        """The first bad commit; the candidates, if skipped revisions leave more than one.

        Raises:
            InputError: a revision does not exist, the good one is no ancestor of the bad one, or a command is none.
            MeasurementError: good or bad cannot be built, or do not differ.
        """
        _check_commands(self.build, self.measure if isinstance(self.measure, str) else None)
        git(self.project, "rev-parse", "--git-dir")
        first, last = (self._commit(revision) for revision in (good, bad))
        between = git(self.project, "rev-list", "--first-parent", "--reverse", f"{first}..{last}").splitlines()
        if not between:
            raise InputError(f"there is no commit after {good} up to {bad}; --good must be an ancestor of --bad")
        try:
            with self._checked_out(first) as reference:
                if not self._judged(reference, last):
                    raise MeasurementError(
                        f"{bad} is not measurably slower than {good} by {self.floor:.0%} or more: there is nothing to "
                        "find"
                    )
                return self._search(reference, between)
        except UnbuildableError as error:
            raise MeasurementError(f"the good revision {good} cannot be built: {error}") from None

    def _commit(self, revision: str) -> str:
        try:
            return git(self.project, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
        except InputError:
            raise InputError(f"{revision!r} is no commit, branch or tag of {self.project}") from None

    def _search(self, reference: Path, between: list[str]) -> str | list[str]:
        """Between a good revision before `between` and the bad one at its end."""
        low, high = -1, len(between) - 1
        skipped: set[int] = set()
        while high - low > 1:
            open_ = [at for at in range(low + 1, high) if at not in skipped]
            if not open_:
                return between[low + 1 : high + 1]
            at = min(open_, key=lambda at: abs(at - (low + high) // 2))
            found = self._judged(reference, between[at], may_skip=True)
            if found is None:
                skipped.add(at)
            elif found:
                high = at
            else:
                low = at
        return between[high]

    def _judged(self, reference: Path, revision: str, *, may_skip: bool = False) -> bool | None:
        """Whether a revision is slower than the good one; None if it cannot be built."""
        self.say(f"{revision[:12]}: building and measuring")
        try:
            with self._checked_out(revision) as tree:
                before, after = self._in_turns(reference, tree)
        except UnbuildableError as error:
            self.steps.append(Step(revision, "skipped", str(error)))
            self.say(f"{revision[:12]}: skipped, {error}")
            if may_skip:
                return None
            raise MeasurementError(f"{revision[:12]} cannot be measured: {error}") from None
        found = confirm(before, after)
        bad = found.p < 0.01 and found.effect > self.floor
        middle = math.expm1(trimmed_mean(after) - trimmed_mean(before))
        why = f"{middle:+.1%} against the good revision (p = {found.p:.1g})"
        self.steps.append(Step(revision, "bad" if bad else "good", why))
        self.say(f"{revision[:12]}: {'bad' if bad else 'good'}, {why}")
        return bad

    def _in_turns(self, one: Path, other: Path) -> tuple[list[float], list[float]]:
        before: list[float] = []
        after: list[float] = []
        for number in range(self.runs):
            for tree, values in ((one, before), (other, after))[:: 1 if number % 2 else -1]:
                values.append(self._measured(tree))
        return before, after

    def _measured(self, tree: Path) -> float:
        if not isinstance(self.measure, str):
            return math.log(self.measure(tree))
        done = self._run(self.measure, tree)
        numbers = NUMBER.findall(done.stdout)
        if not numbers or float(numbers[-1]) <= 0:
            raise UnbuildableError(f"{self.measure!r} printed no positive number")
        return math.log(float(numbers[-1]))

    @contextmanager
    def _checked_out(self, revision: str) -> Iterator[Path]:
        """A working tree of its own, built, removed afterwards."""
        with tempfile.TemporaryDirectory(prefix="harness-bisect-") as folder:
            tree = Path(folder) / "tree"
            git(self.project, "worktree", "add", "--detach", str(tree), revision)
            try:
                if self.build:
                    self._run(self.build, tree)
                yield tree
            finally:
                git(self.project, "worktree", "remove", "--force", str(tree))

    def _run(self, command: str, tree: Path) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(tree), os.environ.get("PYTHONPATH")))),
        }
        words: Sequence[str] = shlex.split(command)
        try:
            done = subprocess.run(
                words, cwd=tree, env=environment, capture_output=True, text=True, errors="replace", check=False
            )
        except OSError as error:
            raise UnbuildableError(f"{command!r} cannot be run: {error.strerror}") from None
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise UnbuildableError(f"{command!r} ended with status {done.returncode}{': ' + last[0] if last else ''}")
        return done


def _check_commands(build: str, measure: str | None) -> None:
    for name, command in (("build", build), ("measure", measure)):
        if command is None:
            continue
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise InputError(f"--{name} is a command, but got {command!r}: {error}") from None
        if name == "measure" and not words:
            raise InputError("--measure is a command that prints a number, but got an empty one")
