"""Random examples: the same for everybody in `make test`, new ones in `python -m tests.search`."""

from hypothesis import settings

settings.register_profile("tests", derandomize=True, database=None, deadline=None)
settings.register_profile("search", derandomize=False, database=None, deadline=None, print_blob=False)
settings.load_profile("tests")
