"""The container images of this release: the one place where their names and tags stand.

`images/` holds a Dockerfile for each. `CALLFORGE_REGISTRY` replaces the registry when pipelines are compiled
for a private one.
"""

import os

VERSION = "0.1.0"
REGISTRY = os.environ.get("CALLFORGE_REGISTRY", "ghcr.io/callforge")

LIGHT = f"{REGISTRY}/callforge-light:{VERSION}"  # preflight, refinement, promotion: no torch
TRAIN = f"{REGISTRY}/callforge-train:{VERSION}"  # the other steps: torch, transformers, peft, vLLM
