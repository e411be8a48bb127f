"""A model as a person names it: in S3."""

from __future__ import annotations

import json

from components.services.storage import write_object
from pipelines.named_models import find_model


def test_of_a_published_stage_the_attempt_is_found_that_its_pointer_names(root: str) -> None:
    """Every time anew: the cache of models takes what an address held as unchanging."""
    stage = f"{root}/run/egpo_rl"
    for attempt in ("0" * 16, "1" * 16):
        write_object(f"{stage}/{attempt}/model/config.json", b"{}")
        pointer = {"folder": attempt, "manifest_sha256": 4 * attempt}
        write_object(f"{stage}/current.json", json.dumps(pointer).encode())
        assert find_model(f"{stage}/") == f"{stage}/{attempt}/model"
    assert find_model(f"{stage}/{'0' * 16}/model") == f"{stage}/{'0' * 16}/model"
