"""`harness.sweep`: the main job, called from Python."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Unpack

from harness.api.options import Names, Options, PathLike, parsed
from harness.errors import HarnessError, InputError

if TYPE_CHECKING:
    from harness.api.result import SweepResult
    from harness.sweeps.config import SweepConfig
    from harness.workloads.own import TorchWorkload
    from strategies.facts import Split
    from strategies.optimizer import OptimizerConfig

LINE = 160
"""Characters of a line of progress where there is no terminal."""


def sweep(
    *,
    model: Callable[..., Any] | None = None,
    batch: Callable[..., Any] | None = None,
    loss: Callable[..., Any] | None = None,
    metric: Callable[..., Any] | None = None,
    global_batch_size: int | None = None,
    seq_len: int | None = None,
    predictions: float | None = None,
    blocks: str | None = None,
    tensor_parallel: Mapping[str, Split] | None = None,
    optimizer: OptimizerConfig | None = None,
    workload: PathLike | TorchWorkload | None = None,
    strategies: Names | None = None,
    world_size: int | None = None,
    time_budget: str | None = None,
    trials: int | None = None,
    name: str | None = None,
    seed: int | None = None,
    results: PathLike | None = None,
    progress: bool = True,
    **options: Unpack[Options],
) -> SweepResult:
    """Search the plans of the strategies in play, rank them, and return what was found.

    >>> harness.sweep(model=MyNet, batch=batch, loss=loss, time_budget="3m")  # doctest: +SKIP

    Args:
        model, batch, loss: what is trained, with what follows up to `optimizer`: the fields of `TorchWorkload`.
        workload: in their place, a `TorchWorkload`, or what `--workload` takes, such as "gpt-nano"; `seq_len` is its.
        strategies, world_size, time_budget, trials, name, seed, results, options: those of the command, "3m" included.
        progress: whether lines tell of each trial.

    Returns:
        Everything recorded of the sweep, earlier runs of the same `name` included; `interrupted` after Ctrl-C.

    Raises:
        InputError, StoreError, MeasurementError: as the command would say it.
        KeyboardInterrupt: Ctrl-C before any trial was recorded.
    """
    mine: dict[str, Any] = {"model": model, "batch": batch, "loss": loss, "metric": metric, "predictions": predictions}
    mine |= {"global_batch_size": global_batch_size, "blocks": blocks, "optimizer": optimizer}
    asked: dict[str, Any] = {
        "seq_len": seq_len,
        "strategies": strategies,
        "world_size": world_size,
        "time_budget": time_budget,
    }
    asked |= {"trials": trials, "name": name, "seed": seed, "results": results, **options}
    passed = _passed(workload, mine | {"tensor_parallel": tensor_parallel}, asked)
    config = parsed(asked | ({} if passed or workload is None else {"workload": os.fspath(workload)}))  # type: ignore[arg-type]
    return _run(config, passed, progress)


def _passed(workload: Any, mine: Mapping[str, Any], asked: dict[str, Any]) -> TorchWorkload | None:
    """The workload that was passed as objects; `asked` loses what is its field. None if it was named, or left out."""
    given = {name: value for name, value in mine.items() if value is not None}
    if not given and (workload is None or isinstance(workload, str | os.PathLike)):
        return None
    if given and workload is not None:
        raise InputError(
            f"give a workload, or model, batch and loss, but not both: got workload and {', '.join(given)}"
        )
    if missing := [] if not given else [part for part in ("model", "batch", "loss") if part not in given]:
        raise InputError(f"a workload needs model, batch and loss, but {' and '.join(missing)} was not given")
    from harness.workloads.own import TorchWorkload

    if refused := [n for n in ("data", "field", "tokenizer", *(["seq_len"] if workload else [])) if asked.get(n)]:
        raise InputError(f"what was passed brings its own data and takes no {refused[0]}; leave it out")
    if workload is None:
        length = {} if asked["seq_len"] is None else {"seq_len": asked["seq_len"]}
        asked["seq_len"] = None
        return TorchWorkload(**given, **length)
    if not isinstance(workload, TorchWorkload):
        raise InputError(f"workload must be a name, a file or a TorchWorkload, but got {type(workload).__name__}")
    return workload


def _run(config: SweepConfig, passed: TorchWorkload | None, progress: bool) -> SweepResult:
    began = time.monotonic()
    from rich.console import Console

    from harness.sweeps import interrupts
    from harness.sweeps.display import SweepDisplay
    from harness.sweeps.starting import launcher_for, sweep_of

    # A notebook's stdout says that it is a terminal; but it keeps all that is drawn, and shows no live display.
    live = sys.stdout.isatty() and not Console().is_jupyter
    width = None if live else LINE
    console = Console(file=sys.stdout, force_jupyter=False, force_terminal=live, quiet=not progress, width=width)
    seconds = None if config.time_budget is None else config.seconds
    with (
        interrupts.once([signal.SIGINT]),
        launcher_for(config) as launcher,
        SweepDisplay(console, seconds, config.trials) as display,
    ):
        job = sweep_of(config, display, launcher, began, passed)
        from harness.api.result import SweepResult

        try:
            ended = job.run()
        except HarnessError as error:
            if job.begun:
                error.add_note(f"what was recorded is kept; name={job.name!r} resumes it")
            raise
        if ended.page is None and ended.summary.interrupted:
            raise KeyboardInterrupt(f"before any trial was recorded; name={job.name!r} resumes it")
        return SweepResult.of(ended, config)
