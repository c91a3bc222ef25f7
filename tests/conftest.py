"""For all tests: Hypothesis draws the same examples everywhere, and takes the time it needs."""

from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")
