"""Hypothesis without clocks or chance: a commit that is green stays green, on a busy machine as well.

`make explore` looks at examples that nobody has seen yet.
"""

import os

from hypothesis import HealthCheck, settings

LOAD = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeatable", derandomize=True, max_examples=60, **LOAD)
settings.register_profile("explore", print_blob=True, max_examples=1000, **LOAD)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
