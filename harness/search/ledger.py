"""The ledger: a study in the harness's words. What is known of each point, and asking and telling in points."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.errors import InputError
from harness.plan import ONE_UNIT, Plan
from harness.search.choosers import Chooser, Domain
from harness.search.evaluation import Evaluation, Recorded, Ticket
from harness.search.spaces import GLOBAL_BATCH_SIZE, Point, Spaces
from harness.store.records import SCHEMA_VERSION, Outcome
from strategies.knob import Range, Setting

_SPACE = "space"
_GIVEN_UP = "given_up"
_SCHEMA = "schema_version"
BEFORE = ONE_UNIT - 1
"""Version of what was written before versions were."""

_KILLED = Evaluation(
    trial_id="", outcome=Outcome.INTERRUPTED, values=None, reason="the sweep was killed while this trial ran"
)


class Ledger:
    """What a study knows of each point of its space.

    A trial's user attributes hold its plan and how it ended, so the study alone is enough to go on from.

    Args:
        study: from `open_study`.
        spaces: the space of this sweep, the same in every run.

    Raises:
        InputError: the study was begun with another space.
    """

    def __init__(self, study: optuna.Study, spaces: Spaces) -> None:
        self.study = study
        self.spaces = spaces
        self.known: dict[Point, Evaluation] = {}
        """Points that were tried or refused, and how they ended."""
        self.waiting: dict[Point, None] = {}
        """Enqueued points, in order."""
        self.launched = 0
        """Trials that were launched and settled, over all runs."""
        _check_same_space(study, spaces)
        for trial in study.get_trials(deepcopy=False):
            self._read(trial)

    def _read(self, trial: FrozenTrial) -> None:
        point, evaluation = point_of(trial), _evaluation_of(trial)
        if point is None:
            return
        if trial.state is TrialState.WAITING:
            self.waiting[point] = None
        elif evaluation is not None and "repeats" not in trial.user_attrs:
            # What was refused for want of a package may be possible by now.
            possible_now = "refused" in trial.user_attrs and self.spaces.why_not(point) is None
            if not possible_now:
                self._learn(point, evaluation)

    def _learn(self, point: Point, evaluation: Evaluation) -> None:
        self.launched += evaluation.launched
        if evaluation.settled:
            self.known[point] = evaluation

    # -- asking

    def enqueue(self, point: Point) -> None:
        """Have `ask` return this point before the sampler is asked again."""
        if point not in self.waiting:
            params = {name: value for name, (_, value) in self.spaces.trace(point).items()}
            self.study.enqueue_trial(params, user_attrs=_point_attrs(point))
            self.waiting[point] = None

    def ask(self) -> tuple[optuna.Trial, Point]:
        """The next enqueued point, or else the sampler's, with the trial that stands for it in the study."""
        settled = self.spaces.turn(len(self.study.get_trials(deepcopy=False)))
        if settled and not self.waiting:
            self.study.enqueue_trial(settled)
        trial = self.study.ask()
        suggest = _suggesting(trial)
        point = point_of(trial)
        if point is None:
            point = self.spaces.draw(suggest)
            for name, value in _point_attrs(point).items():
                trial.set_user_attr(name, value)
        else:
            self.waiting.pop(point, None)
            for name, (domain, _) in self.spaces.trace(point).items():
                suggest(name, domain)
        return trial, point

    # -- telling

    def tell(self, trial: optuna.Trial, point: Point, evaluation: Evaluation) -> None:
        """How a trial ended. One that was cut short is enqueued again."""
        self._tell(trial, evaluation)
        self._learn(point, evaluation)
        if not evaluation.settled:
            self.enqueue(point)

    def tell_refused(self, trial: optuna.Trial, point: Point, evaluation: Evaluation) -> None:
        """A trial whose plan was never launched because `why_not` has a reason."""
        trial.set_user_attr("refused", True)
        self.tell(trial, point, evaluation)

    def tell_again(self, trial: optuna.Trial, point: Point) -> Evaluation:
        """Tell a trial how its point ended the first time."""
        trial.set_user_attr("repeats", self.known[point].trial_id)
        self._tell(trial, self.known[point])
        return self.known[point]

    def _tell(self, trial: optuna.Trial | FrozenTrial, evaluation: Evaluation) -> None:
        for name, value in _evaluation_attrs(evaluation).items():
            # A trial of an earlier run can be told by its number, but only the storage can set its attributes.
            self.study._storage.set_trial_user_attr(trial._trial_id, name, value)
        self.study.tell(trial.number, values=evaluation.values, state=_state(evaluation))

    # -- after a kill

    def reconcile(self, recorded: Iterable[Recorded]) -> None:
        """Make the study agree with the store, so that nothing recorded is lost and nothing is tried twice.

        A trial that a kill left running is told what was recorded of it; if nothing was, it fails and its point is
        enqueued again. Recorded trials that the study has never heard of are added.
        """
        unknown = {record.evaluation.trial_id: record for record in recorded if record.evaluation.settled}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.is_finished():
                unknown.pop(trial.user_attrs.get("trial_id", ""), None)
        by_ticket = {(record.ticket, record.plan): record for record in unknown.values()}
        left = []
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            point = point_of(trial)
            record = point and by_ticket.get((Ticket(trial.number, point.global_batch_size), point.plan))
            if point and record:
                self._tell(trial, record.evaluation)
                self._learn(point, unknown.pop(record.evaluation.trial_id).evaluation)
            else:
                self._tell(trial, _KILLED)
                left.append(point)
        for record in unknown.values():
            self._add(record)
        for point in left:
            if point is not None and point not in self.known:
                self.enqueue(point)

    def _add(self, record: Recorded) -> None:
        point = Point(record.ticket.global_batch_size, record.plan)
        choices = self.spaces.trace(point)
        self.study.add_trial(
            create_trial(
                state=_state(record.evaluation),
                values=record.evaluation.values,
                params={name: value for name, (_, value) in choices.items()},
                distributions={name: distribution(domain) for name, (domain, _) in choices.items()},
                user_attrs=_point_attrs(point) | _evaluation_attrs(record.evaluation),
            )
        )
        self._learn(point, record.evaluation)

    # -- results

    def best(self) -> tuple[Plan, ...]:
        """The best plan, or the Pareto front."""
        points = (point_of(trial) for trial in self.study.best_trials)
        return tuple(dict.fromkeys(point.plan for point in points if point is not None))


def _state(evaluation: Evaluation) -> TrialState:
    """A plan that failed is PRUNED, not FAIL, because samplers learn where not to look from pruned trials alone."""
    if evaluation.cut_short:
        return TrialState.FAIL
    return TrialState.PRUNED if evaluation.values is None else TrialState.COMPLETE


def _point_attrs(point: Point) -> dict[str, Any]:
    return {
        "plan": point.plan.to_json(),
        _SCHEMA: SCHEMA_VERSION,
        "plan_id": point.plan.plan_id,
        GLOBAL_BATCH_SIZE: point.global_batch_size,
    }


def point_of(trial: FrozenTrial | optuna.Trial) -> Point | None:
    """The point that a trial stands for; None if it has not been settled."""
    attrs = trial.user_attrs
    if "plan" not in attrs or GLOBAL_BATCH_SIZE not in attrs:
        return None
    return Point(attrs[GLOBAL_BATCH_SIZE], Plan.from_json(attrs["plan"], attrs.get(_SCHEMA, BEFORE)))


def _evaluation_attrs(evaluation: Evaluation) -> dict[str, Any]:
    found = {"trial_id": evaluation.trial_id, "outcome": str(evaluation.outcome), "reason": evaluation.reason}
    return found | ({_GIVEN_UP: True} if evaluation.given_up else {})


def _evaluation_of(trial: FrozenTrial) -> Evaluation | None:
    if not trial.state.is_finished() or "outcome" not in trial.user_attrs:
        return None
    return Evaluation(
        trial_id=trial.user_attrs["trial_id"],
        outcome=Outcome(trial.user_attrs["outcome"]),
        values=tuple(trial.values) if trial.state is TrialState.COMPLETE else None,
        reason=trial.user_attrs.get("reason"),
        given_up=trial.user_attrs.get(_GIVEN_UP, False),
    )


def _suggesting(trial: optuna.Trial) -> Chooser:
    def choose(name: str, domain: Domain) -> Setting:
        if not isinstance(domain, Range):
            return cast(Setting, trial.suggest_categorical(name, domain))
        if domain.integer:
            return trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.log)
        return trial.suggest_float(name, domain.low, domain.high, log=domain.log)

    return choose


def distribution(domain: Domain) -> BaseDistribution:
    """A domain in Optuna's words."""
    if not isinstance(domain, Range):
        return CategoricalDistribution(cast(Sequence[Any], domain))
    if domain.integer:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def _check_same_space(study: optuna.Study, spaces: Spaces) -> None:
    now = spaces.describe()
    begun = study.user_attrs.get(_SPACE)
    if begun is None:
        study.set_user_attr(_SPACE, now)
        return
    difference = next(_differences(begun, now, spaces.defaults()), None)
    if difference is None:
        return
    what, old, new = difference
    raise InputError(
        f"sweep {study.study_name!r} was begun with {what} = {old}, but now {what} = {new}; "
        "resume it with the same options, or give this sweep another --name"
    )


def _differences(
    old: dict[str, Any], new: dict[str, Any], defaults: Mapping[str, str]
) -> Iterator[tuple[str, Any, Any]]:
    """(what, old, new) of all that differs; a knob that one of them does not know had its default there."""
    if old.keys() != new.keys():
        yield GLOBAL_BATCH_SIZE, ", ".join(old), ", ".join(new)
        return
    for size in old:
        for name in dict.fromkeys((*old[size], *new[size])):
            was, now = (_without_unit(space[size].get(name, defaults.get(name))) for space in (old, new))
            if was != now and not (name not in new[size] and _single(was)):
                yield name, old[size].get(name), new[size].get(name)


def _single(written: Any) -> bool:
    """Whether a domain has one value: a knob that was not searched, of a package that is not there any more."""
    return isinstance(written, str) and ", " not in written and not written.startswith(("a number", "an integer"))


def _without_unit(written: Any) -> Any:
    """A domain as `Space.describe` writes it; what a unit is called makes no other space."""
    return re.sub(r"(from \S+ to \S+) \w+", r"\1", written) if isinstance(written, str) else written
