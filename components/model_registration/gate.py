"""Whether a model may be promoted: a pure function of two evaluations. Reads nothing, moves nothing.

Everything is decided by intervals of paired differences on the same questions (evaluations/intervals.py), so each rule
is met, failed, or undecided because there are too few questions. A model passes only when every rule is met. BFCL is
always judged, own records where both models were asked the same ones.

Against the champion: better in a headline (calls, irrelevance, own calls, own no-call), and in no mean a loss of MARGIN
or more. Without a champion, against the model's own base: better in calls, and by more than it lost where no call fits,
on BFCL or on own records, with no loss of MARGIN or more on the other. A margin on irrelevance itself would refuse
every model that learned to call: a base that never does has every question there right.

Of two equal models one is let through at most 5 times in 100: that chance is divided among what may be better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from components.evaluations.comparison import Comparison, compare, obstacles
from components.evaluations.intervals import CONFIDENCE, Difference
from components.evaluations.means import (
    BALANCE,
    CALLS,
    HEADLINES,
    OWN,
    OWN_BALANCE,
    OWN_CALLS,
    OWN_NO_CALL,
    Mean,
)
from components.evaluations.schema import Evaluation
from components.evaluations.words import bounds, points

MARGIN = 0.05  # a loss of accuracy in one mean that a better model may not have
FALSE_PASS = 0.05  # chance that one of two equal models is let through
ENOUGH = 300  # own records without a call: with fewer, better models too often have no loss of MARGIN ruled out
_GUARDED = ("non_live", "live", "irrelevance", "multi_turn", "agentic")
_MORE = "the questions are too few to tell, ask more (bfcl_eval.sample_per_category)"
_MORE_OWN = "the own records are too few to tell, ask more (data_refine.held_out_share, bfcl_eval.own_records)"
_ALLOWED = f"a loss of {100 * MARGIN:g} points"
_TRADED = "what calling brings less what it costs where no call fits (the mean of both)"
_NAMES = {
    OWN_CALLS: "own calls",
    OWN_NO_CALL: "own no-call",
    "balance": _TRADED,
    "own_balance": f"own records: {_TRADED}",
}

Verdict = Literal["met", "failed", "undecided", "not judged"]


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
        """Whether every rule was met; one that is not judged stands in nobody's way."""
        return all(rule.verdict in ("met", "not judged") for rule in self.rules)

    def reasons(self, *verdicts: Verdict) -> list[str]:
        """The reasons of the rules that ended so."""
        return [rule.reason for rule in self.rules if rule.verdict in verdicts]


def against_champion(candidate: Evaluation, champion: Evaluation) -> Decision:
    """May `candidate` take the champion's place?"""
    if found := obstacles(champion.scores, candidate.scores):
        return refused(_differently("the champion", found, "settings"))
    own, rules = _own_records(candidate, champion, "the champion")
    return Decision((*judge_against_champion(compare(champion, candidate), own).rules, *rules))


def against_base(candidate: Evaluation, base: Evaluation) -> Decision:
    """May `candidate`, the first of its name, be promoted, being better than the base that it was trained from?"""
    if found := obstacles(base.scores, candidate.scores):
        return refused(_differently("its base", found, "settings"))
    own, rules = _own_records(candidate, base, "its base")
    return Decision((*judge_against_base(compare(base, candidate), own).rules, *rules))


def refused(reason: str) -> Decision:
    """A decision without a comparison."""
    return Decision((Rule("failed", reason),))


def judge_against_champion(bfcl: Comparison, own: Comparison | None = None) -> Decision:
    """The rules against the champion, on the candidate's differences from it.

    Args:
        own: on own records, where both models were asked the same ones.
    """
    if missing := _missing(bfcl):
        return missing
    guards = {name: difference for name, difference in bfcl.mean_differences().items() if name in _GUARDED}
    headlines = [(name, bfcl, mean) for name, mean in HEADLINES.items()]
    few: list[Rule] = []
    for name, mean in OWN.items():
        if own is None or name not in own.changes:
            continue
        if name == OWN_NO_CALL and _too_few(own):
            few.append(_unless_lost(_NAMES[name], _difference(own, mean)))
        else:
            guards[name] = _difference(own, mean)
            headlines.append((name, own, mean))
    rules = [_no_worse(name, difference) for name, difference in guards.items()]
    return Decision((_better("the champion", headlines, "or it is as good"), *rules, *few))


def judge_against_base(bfcl: Comparison, own: Comparison | None = None) -> Decision:
    """The rules against the base, on the trained model's differences from it; `own` as above."""
    if missing := _missing(bfcl):
        return missing
    calls, balances = [("calls", bfcl, CALLS)], [("balance", bfcl, BALANCE)]
    rules: list[Rule] = []
    if own is not None and OWN_CALLS in own.changes:
        calls.insert(0, (OWN_CALLS, own, OWN[OWN_CALLS]))
        if OWN_NO_CALL in own.changes:
            balances.insert(0, ("own_balance", own, OWN_BALANCE))
        for name, comparison, mean in (*calls, *balances):
            difference = _difference(comparison, mean)
            few = name == "own_balance" and _too_few(own)
            rules.append(_unless_lost(_called(name), difference) if few else _no_worse(name, difference))
    train = "or train longer"
    return Decision((_better("its base", calls, train), _better("its base", balances, train), *rules))


def _own_records(candidate: Evaluation, other: Evaluation, name: str) -> tuple[Comparison | None, list[Rule]]:
    """The comparison on own records; else a rule that says why there is none, if either was asked some."""
    if other.own is None:
        told = [Rule("not judged", f"own records: {name} was not asked any")] if candidate.own else []
        return None, told
    if candidate.own is None:
        text = f"own records: only {name} was asked some; ask the candidate the same ones (bfcl_eval.records)"
        return None, [Rule("undecided", text)]
    if found := obstacles(other.own.scores, candidate.own.scores):
        return None, [Rule("undecided", f"own records: {_differently(name, found, 'records (bfcl_eval.records)')}")]
    return compare(other.own, candidate.own), []


def _missing(bfcl: Comparison) -> Decision | None:
    missing = [name for name, mean in HEADLINES.items() if bfcl.difference(mean) is None]
    if not missing:
        return None
    return Decision((Rule("undecided", f"no question of {' and '.join(missing)} was asked; ask both kinds"),))


def _difference(comparison: Comparison, mean: Mean, confidence: float = CONFIDENCE) -> Difference:
    found = comparison.difference(mean, confidence)
    assert found is not None, "only what was asked is compared"
    return found


def _better(than: str, kinds: Sequence[tuple[str, Comparison, Mean]], otherwise: str) -> Rule:
    """Better in one of `kinds` at least: names, and the means of comparisons."""
    confidence = 1 - 2 * FALSE_PASS / max(2, len(kinds))  # each may lie above 0 by chance, so their chances add up
    found = {_called(name): _difference(comparison, mean, confidence) for name, comparison, mean in kinds}
    text = "; ".join(f"{name} {_shown(difference, confidence)}" for name, difference in found.items())
    if better := [name for name, difference in found.items() if difference.low > 0]:
        return Rule("met", f"better than {than} in {' and '.join(better)}: {text}")
    if all(difference.high < 0 for difference in found.values()):
        return Rule("failed", f"worse than {than}: {text}")
    return Rule("undecided", f"not shown to be better than {than}: {text}; {_MORE}, {otherwise}")


def _no_worse(name: str, difference: Difference) -> Rule:
    what, more = _called(name), _MORE_OWN if name.startswith("own") else _MORE
    if difference.low > -MARGIN:
        return Rule("met", f"{what}: {_ALLOWED} is ruled out: {_shown(difference)}")
    if difference.high < -MARGIN:
        return Rule("failed", f"{what}: it lost more than {100 * MARGIN:g} points: {_shown(difference)}")
    return Rule("undecided", f"{what}: {_ALLOWED} is not ruled out: {_shown(difference)}; {more}")


def _unless_lost(what: str, difference: Difference) -> Rule:
    """Of few questions only what was surely lost counts: what they cannot rule out would stop every model."""
    if difference.high < -MARGIN:
        return Rule("failed", f"{what}: it lost more than {100 * MARGIN:g} points: {_shown(difference)}")
    return Rule(
        "not judged",
        f"{what}: of fewer than {ENOUGH} own records that ask for no call {_ALLOWED} is not to be ruled out; BFCL's "
        f"irrelevance stands for them: {_shown(difference)}",
    )


def _too_few(own: Comparison) -> bool:
    return own.changes[OWN_NO_CALL].n < ENOUGH


def _called(name: str) -> str:
    return _NAMES.get(name, name)


def _differently(name: str, found: list[str], same: str) -> str:
    return f"it was measured differently from {name} ({'; '.join(found)}); evaluate both with the same {same}"


def _shown(difference: Difference, confidence: float = CONFIDENCE) -> str:
    return (
        f"{points(difference)} ({100 * confidence:.3g} % interval {bounds(difference)}, "
        f"{difference.questions:,} questions)"
    )
