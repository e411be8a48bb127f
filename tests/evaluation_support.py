"""Evaluations made of marks."""

from __future__ import annotations

from typing import Any

from components.evaluations.means import OWN, SIZES
from components.evaluations.schema import EvaluatedModel, Evaluation, Evaluator, Outcome, Sampling, make_scores


def evaluation(marks: dict[str, str], **conditions: Any) -> Evaluation:
    """`evaluation({"multiple": "110"}, seed=1)`: a mark for each question of each category, 1 for right.

    Marks of several samples of a question are joined by `/`, questions then parted by blanks: "1/0 1/1".
    `own` is another evaluation, of the same model on own records.
    """
    own = conditions.pop("own", None)
    outcomes = [
        Outcome(
            id=f"{category}_{place}",
            category=category,
            sample=sample,
            right=mark == "1",
            reason="" if mark == "1" else f"reason_{mark}",
            form="",
            finished=mark != "c",
            prompt_tokens=100,
            completion_tokens=10,
        )
        for category, text in marks.items()
        for place, samples in enumerate(text.split() if "/" in text else text)
        for sample, mark in enumerate(samples.split("/"))
    ]
    sampling = Sampling(
        temperature=0.0, max_new_tokens=10, max_prompt_tokens=100, dtype="float32", **conditions.pop("sampling", {})
    )
    values: dict[str, Any] = {
        "model": EvaluatedModel(name="m", reference="/m", weights_sha256="ab" * 32),
        "evaluator": Evaluator(name="bfcl-eval", version="1", data="BFCL_v4"),
        "prompt_version": "1",
        "seed": 0,
        "sample_per_category": 0,
    }
    sizes = SIZES | {category: len(text) for category, text in marks.items() if category in OWN}
    return Evaluation(make_scores(outcomes, sizes, sampling=sampling, **(values | conditions)), outcomes, own)
