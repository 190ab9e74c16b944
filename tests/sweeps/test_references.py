"""What plans are compared with, with ranks that never ran: each launch's losses are told by its workload and plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError, MeasurementError, TooLargeError
from harness.launchers.job import Job
from harness.machine import hardware
from harness.search.evaluation import Ticket
from harness.store.records import Outcome
from harness.store.store import Store
from harness.sweeps.config import SweepConfig
from harness.sweeps.experiment import Experiment
from harness.sweeps.launches import Launches
from harness.sweeps.references import References, Twin, kind
from harness.trial.runner import Runner
from harness.workloads.gpt import Gpt
from harness.workloads.workload import Workload
from strategies import Setting
from tests.tiny import facts, gpt, knobs, plan
from tests.trial.fake_ranks import Clock, FakeLauncher, FakeRanks, done, error, event, phase, step

WHOLE = gpt()
DDP = plan({"dp": 2, "micro_batch_size": 2})
OTHER_BUCKETS = plan({"dp": 2, "micro_batch_size": 1, "bucket_mb": 2.0})
RIGHT = 4.0
Losses = Callable[[Job], float | str]
"""The loss of every step of a launch, or the outcome that its rank 0 ends with."""


class Bench:
    """References, and the launches of a sweep, over ranks that play what `losses` says."""

    def __init__(
        self, folder: Path, losses: Losses = lambda job: RIGHT, workload: Workload = WHOLE, **options: Any
    ) -> None:
        self.losses, self.jobs, self.said = losses, list[Job](), list[str]()
        config = SweepConfig(results=folder, racing=False, **{"reference": "twin", **options})
        self.experiment = Experiment(
            config=config,
            hardware=hardware.detect(),
            world_size=2,
            workloads={workload.global_batch_size: workload},
            strategies=(),
            fixed={},
        )
        self.references = References(experiment=self.experiment, say=self.said.append)
        self.runner = self.references.runner = Runner(
            launcher=FakeLauncher(Clock(), self._play), store=Store(folder), hardware_id="hw", sweep="s", cores=2
        )
        self.launches = Launches(experiment=self.experiment, references=self.references)
        self.launches.runner = self.runner

    def _play(self, ranks: FakeRanks) -> None:
        job = ranks.job
        self.jobs.append(job)
        told, warm = self.losses(job), job.measurement.warmup_steps
        for rank in sorted(ranks.alive):
            if isinstance(told, str):
                ranks.write(rank, phase("build", 1.0), error(2.0, told))
                ranks.end(rank, 1)
                continue
            steps = [step(n, 2.1 + n / 10, loss=told) for n in range(warm + job.measurement.min_steps)]
            left = [done(5.0), phase("teardown", 6.0), event("end", 6.5)]
            begun = [phase("build", 1.0), phase("warmup", 2.0), *steps[:warm], phase("measure", 2.5)]
            ranks.write(rank, *begun, *steps[warm:], *left)
            ranks.end(rank)

    def prepared(self) -> Bench:
        self.references.prepare(next(iter(self.experiment.workloads.values())))
        self.jobs.clear()
        return self

    def row(self, number: int = 0, **settings: Setting) -> dict[str, Any]:
        """The row of a plan that the search asks for."""
        tried = plan({"dp": 2, "micro_batch_size": 2, **settings})
        self.launches.evaluate(tried, Ticket(number, WHOLE.global_batch_size))
        rows: list[dict[str, Any]] = self.runner.store.trials().to_dict("records")
        return rows[-1]

    def depths(self) -> list[tuple[int, int]]:
        """(blocks, ranks) of each launch."""
        return [(len(job.workload.facts().blocks), job.plan.world_size) for job in self.jobs]


def full(job: Job) -> bool:
    return len(job.workload.facts().blocks) == WHOLE.blocks


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({"micro_batch_size": 1}, True),
        ({"bucket_mb": 2.0}, True),
        ({"micro_batch_size": 4}, False),  # no second micro-batch
        ({"precision": "bf16_autocast"}, False),
        ({"static_graph": True}, False),
        ({"activation_checkpoint": "full"}, False),
        ({"data_parallel": "zero2"}, False),
        ({"dp": 4, "micro_batch_size": 1}, False),
    ],
)
def test_a_kind_of_plan_is_what_it_computes_and_not_how_much_at_once(other: Mapping[str, Setting], same: bool) -> None:
    known, tried = {knob.name: knob for knob in knobs()}, plan({"dp": 2, "micro_batch_size": 2, **other})
    assert (kind(tried, 8, known) == kind(DDP, 8, known)) is same


def test_of_whole_numbers_counts_whether_there_is_any(tmp_path: Path) -> None:
    known = {knob.name: knob for knob in knobs()}
    none, one, two = (
        kind(plan({"dp": 2, "data_parallel": "zero3", "prefetch": number}), 8, known) for number in (0, 1, 2)
    )
    assert one == two != none


def test_a_kind_of_plan_is_launched_once_on_its_twin(tmp_path: Path) -> None:
    made = Bench(tmp_path).prepared()
    first = made.row(0)
    assert made.depths() == [(2, 2), (4, 2)]
    made.row(1, micro_batch_size=1, bucket_mb=2.0)
    assert made.depths()[2:] == [(4, 2)]
    made.row(2, precision="bf16_autocast")
    assert made.depths()[3:] == [(2, 2), (4, 2)]
    assert (first["numerics"], first["reference"], first["twin_blocks"]) == ("pass", "twin", 2)
    assert first["twin_max_rel_error"] == first["numerics_max_rel_error"] == 0.0


def test_a_twin_has_as_many_blocks_as_its_plan_needs(tmp_path: Path) -> None:
    made = Bench(tmp_path, workload=gpt(blocks=8))
    made.references.chosen[gpt(blocks=8).workload_id] = "twin"
    settings = {"pp": 2, "micro_batch_size": 2, "pp_schedule": "interleaved"}
    found = made.references.twin(plan(settings), gpt(blocks=8))
    assert found == Twin(4, Outcome.OK, None, 0.0, 1e-4)


def test_a_plan_whose_twin_goes_wrong_is_not_launched_and_cannot_win(tmp_path: Path) -> None:
    def losses(job: Job) -> float:
        return RIGHT + 0.1 * (job.plan["data_parallel"] == "ddp")

    made = Bench(tmp_path, losses).prepared()
    rows = [made.row(0), made.row(1, bucket_mb=2.0)]
    assert made.depths() == [(2, 2)]
    assert [(row["outcome"], row["numerics"]) for row in rows] == [("numerics", "fail")] * 2
    assert rows[1]["outcome_reason"].startswith("on its twin of 2 blocks: loss of step 0 is 4.1 where one process in")
    assert made.row(2, data_parallel="zero2")["outcome"] == "ok"


def test_a_twin_that_dies_says_so_and_is_asked_again(tmp_path: Path) -> None:
    def losses(job: Job) -> float | str:
        return "crash" if job.plan["data_parallel"] == "ddp" else RIGHT

    made = Bench(tmp_path, losses).prepared()
    row = made.row(0)
    assert (row["outcome"], row["numerics"]) == ("crash", "skipped")
    assert row["outcome_reason"].startswith("on its twin of 2 blocks: rank")
    made.losses = lambda job: RIGHT
    assert made.row(1, bucket_mb=2.0)["outcome"] == "ok"


def test_a_plan_that_is_wrong_at_full_size_alone_disagrees(tmp_path: Path) -> None:
    def losses(job: Job) -> float:
        return RIGHT + 0.1 * (full(job) and job.plan["data_parallel"] == "ddp")

    row = Bench(tmp_path, losses).prepared().row(0)
    assert (row["outcome"], row["reference"], row["twin_max_rel_error"]) == ("numerics", "twin", 0.0)
    assert "where the plan zero3 dp2 in fp32, which is right on its twin" in row["outcome_reason"]


def test_a_first_plan_that_is_wrong_at_full_size_is_outvoted(tmp_path: Path) -> None:
    def losses(job: Job) -> float:
        return RIGHT + 0.1 * (full(job) and job.plan["data_parallel"] == "zero3")

    made = Bench(tmp_path, losses).prepared()
    assert made.row(0)["outcome"] == "ok"
    assert made.row(1, data_parallel="zero3")["outcome"] == "numerics"
    kept = made.runner.store.reference(WHOLE.workload_id, agreed=True)
    assert kept is not None
    assert ('"tp":2' in kept["plan"][0], '"pp":2' in kept["witness"][0]) == (True, True)
    assert made.runner.store.reference(WHOLE.workload_id) is None


def test_where_no_two_plans_agree_nothing_is_measured(tmp_path: Path) -> None:
    losses = iter(range(100))
    made = Bench(tmp_path, lambda job: RIGHT + (next(losses) if full(job) else 0.0))
    with pytest.raises(MeasurementError, match="no two of these plans have the same losses on the whole tiny"):
        made.prepared()


def test_a_plan_that_is_wrong_on_its_twin_is_no_measure(tmp_path: Path) -> None:
    made = Bench(tmp_path, lambda job: RIGHT + 0.1 * (job.plan["data_parallel"] == "zero3"))
    made.prepared()
    assert any("zero3 dp2 in fp32 is no measure for others: on its twin" in text for text in made.said)
    assert made.row(0)["outcome"] == "ok"


@pytest.mark.parametrize("end", ["crash", "oom_host"])
def test_without_a_twins_reference_agreement_is_all_there_is(end: str, tmp_path: Path) -> None:
    def losses(job: Job) -> float | str:
        return end if job.plan.world_size == 1 else RIGHT

    made = Bench(tmp_path, losses).prepared()
    assert any(
        text.startswith("no twin: the fp32 reference of tiny-blocks2 on one process ended") for text in made.said
    )
    row = made.row(0)
    assert (row["numerics"], row["reference"], made.depths()) == ("pass", "agreement", [(4, 2)])


def test_a_plan_that_runs_on_no_twin_is_judged_by_agreement_and_others_are_not(tmp_path: Path) -> None:
    made = Bench(tmp_path).prepared()
    row = made.row(0, data_parallel="none", dp=1, pp=2, pp_schedule="interleaved")  # needs all of its four blocks
    assert (row["outcome"], row["reference"], made.depths()) == ("ok", "agreement", [(4, 2)])
    assert made.row(1)["reference"] == "twin"


def test_a_model_that_cannot_be_made_shallower_is_judged_by_agreement_alone(tmp_path: Path) -> None:
    class Deep(Gpt):
        def shallow(self, blocks: int) -> None:  # type: ignore[override]
            return None

    made = Bench(tmp_path, workload=gpt(Deep)).prepared()
    assert made.references.chosen == {gpt(Deep).workload_id: "agreement"}
    assert "no twin: tiny-deep cannot be made with fewer blocks; " in " ".join(made.said)


def test_a_lone_plan_that_no_twin_has_checked_is_no_measure(tmp_path: Path) -> None:
    shallow = replace(WHOLE, blocks=2, name="two")  # its twin would be itself

    def losses(job: Job) -> float | str:
        return RIGHT if job.plan["data_parallel"] == "zero3" and job.plan["precision"] == "fp32" else "crash"

    made = Bench(tmp_path, losses, workload=shallow).prepared()
    assert shallow.workload_id not in made.runner.references
    assert "at full size losses are not compared" in made.said[-1]


def test_one_process_is_the_reference_where_it_fits(tmp_path: Path) -> None:
    made = Bench(tmp_path, reference="auto").prepared()
    assert made.references.chosen == {WHOLE.workload_id: "process"}
    row = made.row(0)
    assert (row["reference"], made.depths()) == ("process", [(4, 2)])
    assert row["twin_max_rel_error"] != row["twin_max_rel_error"]  # none


def test_a_model_that_is_predicted_not_to_fit_one_process_gets_a_twin(tmp_path: Path) -> None:
    alone = Bench(tmp_path).experiment.reference_plan(WHOLE)
    held = int(References._held(alone, WHOLE, facts(WHOLE, 1)))
    made = Bench(tmp_path, reference="auto", memory_limit=f"{held - 1}B").prepared()
    assert made.references.chosen == {WHOLE.workload_id: "twin"}
    assert "is predicted to need" in made.said[0]
    assert Bench(tmp_path, reference="auto", memory_limit=f"{held}B").references._too_large(WHOLE, 16) is None


def test_a_reference_that_dies_of_memory_gives_way_to_a_twin_unless_it_was_asked_for(tmp_path: Path) -> None:
    def losses(job: Job) -> float | str:
        return "oom_host" if full(job) and job.plan.world_size == 1 else RIGHT

    made = Bench(tmp_path, losses, reference="auto").prepared()
    assert made.references.chosen == {WHOLE.workload_id: "twin"}
    assert "--reference twin" in made.launches.repeats[made.row(0)["trial_id"]]
    with pytest.raises(TooLargeError):
        Bench(tmp_path, losses, reference="process").prepared()


def test_a_resumed_sweep_knows_its_twins_and_what_it_compared_with(tmp_path: Path) -> None:
    wrong = Bench(tmp_path, lambda job: RIGHT + 0.1 * (job.plan["data_parallel"] == "ddp")).prepared()
    wrong.row(0)
    wrong.row(1, data_parallel="zero2")
    again = Bench(tmp_path, reference="auto")
    again.references.resume(wrong.references.chosen)
    for row in again.runner.store.trials().astype(object).where(lambda frame: frame.notna(), None).to_dict("records"):
        again.launches.recall({str(name): value for name, value in row.items()})
    again.references.prepare(WHOLE)
    assert again.jobs == []
    assert again.row(2, bucket_mb=2.0)["outcome"] == "numerics"
    assert again.row(3, data_parallel="zero2", bucket_mb=2.0)["outcome"] == "ok"
    assert again.depths() == [(4, 2)]
    with pytest.raises(InputError, match="begun with --reference twin, but process was asked for"):
        Bench(tmp_path, reference="process").references.resume(wrong.references.chosen)
