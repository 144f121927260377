"""The counts of the fault tests."""

import pytest


@pytest.fixture
def counted(record_property):
    """Keep a line for the end of the run: counted("50 kills ...")."""
    return lambda line: record_property("counted", str(line))
