"""Hypothesis for this folder: no deadline (the machine may be busy), fewer examples of the larger strategies."""

from hypothesis import settings

settings.register_profile("function_calls", deadline=None, max_examples=60)
settings.load_profile("function_calls")
