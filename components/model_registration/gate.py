"""Whether a model may be promoted: a pure function of two evaluations. Reads nothing, moves nothing.

Everything is decided by 95 % intervals of paired differences on the same questions (evaluations/intervals.py), so each
rule is met, failed, or undecided because there are too few questions. A model passes only when every rule is met.

Against the champion: better in calls or in irrelevance, and in no group a loss of MARGIN or more. Of two equal models
one is let through at most 5 times in 100: there are two chances of 2.5 in 100.

Without a champion, against the model's own base: better in calls, and by more than it lost in irrelevance. A margin on
irrelevance would refuse every model that learned to call: a base that never does has every question there right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from components.evaluations.comparison import Comparison, compare, obstacles
from components.evaluations.groups import BALANCE, CALLS, HEADLINES, IRRELEVANCE
from components.evaluations.intervals import Difference
from components.evaluations.schema import Evaluation

MARGIN = 0.05  # a loss of accuracy in one group that a better model may not have
_GROUPS = ("non_live", "live", "irrelevance", "multi_turn", "agentic")
_MORE = "the questions are too few to tell, ask more (bfcl_eval.sample_per_category)"

Verdict = Literal["met", "failed", "undecided"]


@dataclass(frozen=True)
class Rule:
    """How one rule ended, and why, for people."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Decision:
    """All rules that were checked."""

    rules: tuple[Rule, ...]

    @property
    def passed(self) -> bool:
        """Whether every rule was met."""
        return all(rule.verdict == "met" for rule in self.rules)

    def reasons(self, *verdicts: Verdict) -> list[str]:
        """The reasons of the rules that ended so."""
        return [rule.reason for rule in self.rules if rule.verdict in verdicts]


def against_champion(candidate: Evaluation, champion: Evaluation) -> Decision:
    """May `candidate` take the champion's place?"""
    return _measured_alike(candidate, champion, "the champion") or judge_against_champion(compare(champion, candidate))


def against_base(candidate: Evaluation, base: Evaluation) -> Decision:
    """May `candidate`, the first of its name, be promoted, being better than the base that it was trained from?"""
    return _measured_alike(candidate, base, "its base") or judge_against_base(compare(base, candidate))


def refused(reason: str) -> Decision:
    """A decision without a comparison."""
    return Decision((Rule("failed", reason),))


def judge_against_champion(comparison: Comparison) -> Decision:
    """The rules against the champion, on the candidate's differences from it."""
    headlines = {name: comparison.difference(mean) for name, mean in HEADLINES.items()}
    if missing := [name for name, found in headlines.items() if found is None]:
        return Decision((Rule("undecided", f"no question of {' and '.join(missing)} was asked; ask both kinds"),))
    known = {name: found for name, found in headlines.items() if found is not None}
    text = "; ".join(f"{name} {_shown(found)}" for name, found in known.items())
    if better := [name for name, found in known.items() if found.low > 0]:
        rules = [Rule("met", f"better than the champion in {' and '.join(better)}: {text}")]
    elif all(found.high < 0 for found in known.values()):
        rules = [Rule("failed", f"worse than the champion: {text}")]
    else:
        rules = [Rule("undecided", f"not shown to be better than the champion: {text}; {_MORE}, or it is as good")]
    differences = comparison.group_differences()
    rules += [_no_worse(group, differences[group]) for group in _GROUPS if group in differences]
    return Decision(tuple(rules))


def judge_against_base(comparison: Comparison) -> Decision:
    """The rules against the base, on the trained model's differences from it."""
    calls, irrelevance = comparison.difference(CALLS), comparison.difference(IRRELEVANCE)
    balance = comparison.difference(BALANCE)
    if calls is None or irrelevance is None or balance is None:
        missing = "calls" if calls is None else "irrelevance"
        return Decision((Rule("undecided", f"no question of {missing} was asked; ask both kinds"),))
    traded = f"calls and irrelevance together, each with half the weight, {_shown(balance)}"
    return Decision(
        (
            _better("calls", calls, f"calls {_shown(calls)}"),
            _better("what calling brings, less what it costs in irrelevance", balance, traded),
        )
    )


def _better(what: str, difference: Difference, text: str) -> Rule:
    if difference.low > 0:
        return Rule("met", f"better than its base: {text}")
    if difference.high <= 0:
        return Rule("failed", f"{what}: worse than its base: {text}")
    return Rule("undecided", f"{what}: not shown to be better than its base: {text}; {_MORE}, or train longer")


def _no_worse(group: str, difference: Difference) -> Rule:
    allowed = f"{100 * MARGIN:g} points"
    if difference.low > -MARGIN:
        return Rule("met", f"{group}: a loss of {allowed} is ruled out: {_shown(difference)}")
    if difference.high < -MARGIN:
        return Rule("failed", f"{group}: it lost more than {allowed}: {_shown(difference)}")
    return Rule("undecided", f"{group}: a loss of {allowed} is not ruled out: {_shown(difference)}; {_MORE}")


def _measured_alike(candidate: Evaluation, other: Evaluation, name: str) -> Decision | None:
    found = obstacles(other.scores, candidate.scores)
    if not found:
        return None
    return refused(
        f"it was measured differently from {name} ({'; '.join(found)}); evaluate both with the same settings"
    )


def _shown(difference: Difference) -> str:
    points = f"{100 * difference.mean:+.1f} points"
    return (
        f"{points} (95 % interval {100 * difference.low:+.1f} to {100 * difference.high:+.1f}, "
        f"{difference.questions:,} questions)"
    )
