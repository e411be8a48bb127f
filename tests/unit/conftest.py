"""Hypothesis without clocks: on a busy machine an example may take any time."""

from hypothesis import HealthCheck, settings

settings.register_profile("callforge", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("callforge")
