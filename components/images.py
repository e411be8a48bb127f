"""The container images that pipelines run in: the one place where their names and tags are.

`images/` holds a Dockerfile for each. Two variables replace the names when pipelines are compiled, uploaded or
submitted: CALLFORGE_REGISTRY and CALLFORGE_IMAGE_TAG, a commit as `images/build.sh` prints it. Kubeflow caches by the
name of an image and never looks at its content: under an equal tag, results of other code would be reused.
"""

import os

VERSION = "0.1.0"
REGISTRY = os.environ.get("CALLFORGE_REGISTRY") or "ghcr.io/callforge"
TAG = os.environ.get("CALLFORGE_IMAGE_TAG") or VERSION

LIGHT = f"{REGISTRY}/callforge-light:{TAG}"  # preflight, refinement, promotion: no torch
TRAIN = f"{REGISTRY}/callforge-train:{TAG}"  # the other steps: torch, transformers, peft, vLLM
