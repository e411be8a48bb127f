"""Whether a version may take the champion's place: a pure function of the tags of the two. Moves nothing.

A registered version carries its BFCL results as tags (components/model_registration/lineage.py): accuracies of the
categories and of their groups, and what they were measured with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_REGRESSION = 0.02  # accuracy that one category may lose
OVERALL = "overall_single_turn"
MEASURED_WITH = ("bfcl.evaluator", "bfcl.questions_sha256", "bfcl.sampling")
_SUMS = ("mean_", "overall", "official_")


@dataclass(frozen=True)
class Decision:
    """One reason a rule: those that failed, and those that were met."""

    failed: list[str] = field(default_factory=list)
    met: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no rule failed."""
        return not self.failed


def decide(candidate: Mapping[str, str], champion: Mapping[str, str] | None) -> Decision:
    """Compare two versions by their tags; without a champion only that the candidate was evaluated is asked.

    Rules: evaluated at all; on the same questions by the same evaluator; the mean over the groups no lower; no
    category more than MAX_REGRESSION worse.
    """
    own = accuracies(candidate)
    if OVERALL not in own:
        return Decision(failed=["it has no BFCL results; evaluate it before it is registered"])
    decision = Decision(met=[f"evaluated on BFCL: {OVERALL} {own[OVERALL]:.1%}"])
    if champion is None:
        decision.met.append("there is no champion to compare with")
        return decision
    theirs = accuracies(champion)
    differing = [name for name in MEASURED_WITH if candidate.get(name) != champion.get(name)]
    if differing or own.keys() != theirs.keys():
        what = " and ".join(differing) or "the categories"
        decision.failed.append(f"it was not measured as the champion was ({what} differ); evaluate both alike")
        return decision
    text = f"{OVERALL} {own[OVERALL]:.1%}, the champion {theirs[OVERALL]:.1%}"
    (decision.met if own[OVERALL] >= theirs[OVERALL] else decision.failed).append(text)
    worse = {
        name: theirs[name] - share
        for name, share in own.items()
        if not name.startswith(_SUMS) and theirs[name] - share > MAX_REGRESSION
    }
    decision.failed.extend(
        f"{name}: {loss:.1%} worse than the champion, {MAX_REGRESSION:.0%} is allowed" for name, loss in worse.items()
    )
    if not worse:
        decision.met.append(f"no category is more than {MAX_REGRESSION:.0%} worse than the champion's")
    return decision


def accuracies(tags: Mapping[str, str]) -> dict[str, float]:
    """The tags `bfcl.<name>` that are shares of 1, by name."""
    found = {}
    for name, value in tags.items():
        if name.startswith("bfcl.") and value.replace(".", "", 1).isdigit():
            found[name.removeprefix("bfcl.")] = float(value)
    return found
