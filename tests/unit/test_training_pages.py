"""The pages of the training stages: what their sentence says, which curves they draw, and the failures that open."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from components.egpo_rl import report as egpo
from components.settings import EgpoRlSettings, SftWarmupSettings
from components.sft_warmup import report as warmup

TOOL = {"name": "weather", "description": "<i>Weather</i>", "parameters": {"type": "object", "properties": {}}}


def sample(step: int, reason: str, completion: str) -> dict[str, Any]:
    return {
        "step": step,
        "of": "training",
        "id": "1",
        "question": "And in Berlin?",
        "messages": [
            {"role": "user", "content": "Is it warm in Rome?"},
            {"role": "assistant", "content": "", "tool_calls": [{"name": "weather", "arguments": {"city": "Rome"}}]},
            {"role": "tool", "content": "30"},
            {"role": "user", "content": "And in Berlin?"},
        ],
        "tools": [TOOL],
        "completion": completion,
        "gold": [{"name": "weather", "arguments": {"city": "Berlin"}}],
        "reward": float(not reason),
        "reason": reason,
    }


def write_egpo(
    folder: Path, steps: list[dict[str, float]], samples: list[dict[str, Any]], held_out: dict[str, float]
) -> tuple[dict[str, float], str]:
    for name, rows in (("metrics.jsonl", steps), ("samples.jsonl", samples)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    final = egpo.write_training_report(folder, EgpoRlSettings(), held_out)
    return final, (folder / "report.html").read_text("utf-8")


def test_egpo_says_what_happened_and_draws_what_was_logged(tmp_path):
    steps = [{"step": step, "reward": step / 10, "entropy_thought": 0.5, "failure/cut": 0.25} for step in (1, 2, 3)]
    steps[1]["failure/wrong_value"] = 0.5
    held_out = {
        "held_out_reward_before": 0.25,
        "held_out_reward": 0.5,
        "held_out_reward_call_before": 0.0,
        "held_out_reward_call": 0.375,
        "held_out_rise": 0.25,
        "held_out_rise_error": 0.125,
    }
    final, html = write_egpo(tmp_path, steps, [], held_out)
    assert final == {**held_out, "reward": (0.1 + 0.2 + 0.3) / 3}
    assert (
        "In 3 steps of EGPO, the reward on held-out prompts went from 0.250 to 0.500 (calls 0.000 to 0.375), a rise of "
        "+0.250 with a standard error of 0.125; the training reward ended at 0.200, the mean of the last 3 steps."
    ) in html
    assert re.findall(r'aria-label="(.*?)"', html) == [
        "Reward, mean of the rollouts: all 0.3",
        "Why rollouts failed, share of rollouts: cut 0.25, wrong_value 0",
        "Entropy, nats per token: thought 0.5",
    ]


def test_egpo_failures_open_with_prompt_schema_thought_answer_and_gold(tmp_path):
    samples = [
        sample(1, "wrong_value", "<think>Rome <script>again</script></think>\n[weather(city='Rome')]"),
        sample(2, "", "<think>a</think>\n[weather(city='Berlin')]"),
        sample(3, "truncated", "<think>and on and"),
    ]
    _, html = write_egpo(tmp_path, [{"step": 1, "reward": 0.5}], samples, {})
    failures = html.partition("<h2>Failures</h2>")[2].partition("</section>")[0]
    assert failures.count('<details class="group">') == 2 and "<script" not in html
    rome = failures.partition("wrong_value")[2]
    assert re.findall(r'<p class="label">(.*?)</p>\n<pre>(.*?)</pre>', rome, re.DOTALL) == [
        (
            "prompt",
            "user: Is it warm in Rome?\n\nassistant: \n{&#34;name&#34;: &#34;weather&#34;, &#34;arguments&#34;: "
            "{&#34;city&#34;: &#34;Rome&#34;}}\n\ntool: 30\n\nuser: And in Berlin?",
        ),
        ("thought", "Rome &lt;script&gt;again&lt;/script&gt;"),
        ("answer", "[weather(city=&#39;Rome&#39;)]"),
        (
            "gold",
            "[{&#34;name&#34;: &#34;weather&#34;, &#34;arguments&#34;: {&#34;city&#34;: &#34;Berlin&#34;}}]",
        ),
    ]
    assert "offered function: weather" in rome and "&lt;i&gt;Weather&lt;/i&gt;" in rome
    assert "&lt;think&gt;and on and" in failures, "a turn without a whole thought is shown whole"


def test_egpo_without_steps_says_so(tmp_path):
    final, html = write_egpo(tmp_path, [], [], {})
    assert final == {} and "No step was made" in html and "<svg" not in html


def test_warm_up_says_what_happened(tmp_path):
    curves = [
        {"step": step, "loss": loss, "loss_think": loss, "loss_result": loss / 2, "learning_rate": 1e-4,
         "grad_norm": 1.0, "tokens_per_second": 1000.0}
        for step, loss in ((1, 2.5), (2, 0.5))
    ]  # fmt: skip
    metrics = {"records": 1200, "epochs": 0.25, "loss": 0.5, "held_out_loss_before": 2.0, "held_out_loss": 1.0}
    path = tmp_path / "report.html"
    warmup.write_training_report(path, SftWarmupSettings(), {"turn_too_long": 7}, metrics, curves)
    html = path.read_text("utf-8")
    assert (
        "In 2 steps (0.25 passes over 1,200 records), the loss on held-out records went from 2.000 to 1.000, and the "
        "training loss went from 2.500 to 0.500."
    ) in html
    assert (
        re.findall(r'aria-label="(.*?)"', html)[0] == "Loss, cross-entropy per token: all 0.5, thought 0.5, answer 0.25"
    )
    assert html.count("<svg") == 4 and "turn_too_long" in html


def test_warm_up_without_steps_says_so(tmp_path):
    warmup.write_training_report(tmp_path / "report.html", SftWarmupSettings(), {}, {"records": 1}, [])
    html = (tmp_path / "report.html").read_text("utf-8")
    assert "No step was made" in html and "<svg" not in html
