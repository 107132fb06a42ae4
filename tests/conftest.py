"""Settings of all tests."""

from hypothesis import settings

# a test never judges by the clock: on a busy machine an example takes as long as it takes
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
