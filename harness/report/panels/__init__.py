"""The panels of a sweep's page, top to bottom. A new panel is one file here and one line in PANELS."""

from __future__ import annotations

from typing import Any

from harness.report.panels import (
    communication,
    failures,
    feasibility,
    final_launches,
    knobs,
    losses,
    memory_at_peak,
    pareto,
    prediction,
    progress,
    ranking,
    repeat,
    step_times,
    strategies,
    timeline,
    traces,
    verdict,
    where_it_ran,
)
from harness.report.panels.panel import Panel

PANELS: tuple[Panel[Any, Any], ...] = (
    Panel(key="verdict", title="Verdict", data=verdict.data, draw=verdict.draw),
    Panel(key="ranking", title="Every plan", data=ranking.data, draw=ranking.draw),
    Panel(key="finals", title="Fresh launches of the best", data=final_launches.data, draw=final_launches.draw),
    Panel(key="pareto", title="Throughput against memory", data=pareto.data, draw=pareto.draw),
    Panel(key="strategies", title="Best of each strategy", data=strategies.data, draw=strategies.draw),
    Panel(key="knobs", title="What each knob does", data=knobs.data, draw=knobs.draw),
    Panel(key="feasibility", title="What runs and what does not", data=feasibility.data, draw=feasibility.draw),
    Panel(key="losses", title="Loss curves", data=losses.data, draw=losses.draw),
    Panel(key="step-times", title="Step times", data=step_times.data, draw=step_times.draw),
    Panel(key="traces", title="Steps of each rank", data=traces.data, draw=traces.draw),
    Panel(key="memory", title="Memory by category", data=memory_at_peak.data, draw=memory_at_peak.draw),
    Panel(key="communication", title="Communication", data=communication.data, draw=communication.draw),
    Panel(key="prediction", title="Prediction against measurement", data=prediction.data, draw=prediction.draw),
    Panel(key="progress", title="Search", data=progress.data, draw=progress.draw),
    Panel(key="timeline", title="Where the time went", data=timeline.data, draw=timeline.draw),
    Panel(key="failures", title="Failures", data=failures.data, draw=failures.draw),
    Panel(key="environment", title="Environment", data=where_it_ran.data, draw=where_it_ran.draw),
    Panel(key="repeat", title="Repeat it", data=repeat.data, draw=repeat.draw),
)
