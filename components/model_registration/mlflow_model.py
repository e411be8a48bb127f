"""What makes a model directory a model to MLflow: its MLmodel file, and what `mlflow.pyfunc.load_model` loads by it.

Two flavors over the same weights: `transformers`, which needs nothing of ours and gives a text-generation pipeline, and
`python_function`, which takes OpenAI's messages and tools and answers with tool calls. The latter is loaded where
callforge is installed: only our prompt and parser make the calls that the model was trained to make.
"""

from __future__ import annotations

import json
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.files import atomic_write, read_json

if TYPE_CHECKING:
    from components.language_models.answer import Answer

MLMODEL, REQUIREMENTS = "MLmodel", "requirements.txt"
TOKENIZER = Path("components") / "tokenizer"  # where the flavor looks for it; the weights stay where they are
LIBRARIES = ("torch", "transformers", "accelerate")
LONGEST_ANSWER = 1024  # tokens, unless a request says otherwise


def write_mlflow_files(folder: Path, dtype: str) -> None:
    """Write components/tokenizer/, requirements.txt and, last, MLmodel into a model directory. Equal models give equal
    files.

    Args:
        dtype: of the weights in it.
    """
    import yaml
    from mlflow.version import VERSION as MLFLOW
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    tokenizer.save_pretrained(folder / TOKENIZER)
    transformers_flavor = {
        "task": "text-generation",
        "instance_type": "TextGenerationPipeline",
        "framework": "pt",
        "torch_dtype": f"torch.{dtype}",
        "pipeline_model_type": read_json(folder / "config.json")["architectures"][0],
        "model_binary": ".",
        "source_model_name": "callforge",
        "components": ["tokenizer"],
        "tokenizer_type": type(tokenizer).__name__,
        "transformers_version": version("transformers"),
    }
    function_flavor = {"loader_module": __name__, "python_version": platform.python_version()}
    flavors = {"python_function": function_flavor, "transformers": transformers_flavor}
    with atomic_write(folder / REQUIREMENTS) as file:
        file.write(f"mlflow=={MLFLOW}\n")
        # Without what a build adds, such as +cpu: no index has it, and the model is to be loaded elsewhere.
        file.writelines(f"{name}=={version(name).partition('+')[0]}\n" for name in LIBRARIES)
    with atomic_write(folder / MLMODEL) as file:
        yaml.safe_dump({"flavors": flavors, "mlflow_version": MLFLOW}, file)


def _load_pyfunc(path: str) -> FunctionCaller:
    """Called by MLflow, by this name."""
    return FunctionCaller(Path(path))


class FunctionCaller:
    """A registered model that takes conversations with tools, as MLflow's `python_function`."""

    def __init__(self, folder: Path) -> None:
        import torch

        from components.language_models.base_models import resolve_model
        from components.language_models.model_directory import load_model
        from components.language_models.samplers.transformers import TransformersSampler

        loaded = load_model(resolve_model(folder), "bfloat16" if torch.cuda.is_available() else "float32")
        self.tokenizer = loaded.tokenizer
        self.sampler = TransformersSampler(loaded.model, loaded.tokenizer)
        self.context = getattr(loaded.model.config, "max_position_embeddings", None) or 2**31

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """One assistant message, as OpenAI writes it, for each request.

        Args:
            model_input: a request `{"messages": [...], "tools": [...]}`, a list of them, or a data frame with such
                columns; `max_tokens` (1024), `temperature` (0) and `seed` (0) may be beside them.
            params: none are known.

        Raises:
            RecordError: messages or tools of no known form, or that take too much work to read.
            InputError: a prompt is longer than the model's context allows.
        """
        if hasattr(model_input, "to_dict"):
            model_input = model_input.to_dict("records")
        requests = [model_input] if isinstance(model_input, dict) else model_input
        return [openai_message(self._answer(_given(request))) for request in requests]

    def _answer(self, request: dict[str, Any]) -> Answer:
        from components.function_calls.formats.parts import read_messages, read_tools
        from components.function_calls.work import limited_work
        from components.language_models.answer import answer

        most = int(request.get("max_tokens", LONGEST_ANSWER))
        with limited_work():
            messages, tools = read_messages(request["messages"]), read_tools(request.get("tools"))
        return answer(
            self.sampler,
            self.tokenizer,
            messages,
            tools,
            max_prompt_tokens=self.context - most,
            max_new_tokens=most,
            temperature=float(request.get("temperature", 0.0)),
            seed=int(request.get("seed", 0)),
        )


def _given(request: dict[str, Any]) -> dict[str, Any]:
    """The fields that a request has: for one that it lacks JSON may hold null, and a data frame NaN."""
    return {
        name: value
        for name, value in request.items()
        if value is not None and not (isinstance(value, float) and math.isnan(value))
    }


def openai_message(found: Answer) -> dict[str, Any]:
    """An answer as OpenAI's assistant message; `reasoning` is the thought."""
    calls = [
        {
            "id": f"call_{index}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for index, call in enumerate(found.turn.calls or ())
    ]
    message: dict[str, Any] = {"role": "assistant", "content": None if calls else found.turn.answer}
    if found.turn.thought is not None:
        message["reasoning"] = found.turn.thought.strip()
    return message | ({"tool_calls": calls} if calls else {})
