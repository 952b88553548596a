"""Recordings that the formats describe."""

import pytest
from spoken_files import make_spoken


@pytest.fixture
def spoken(tmp_path):
    return make_spoken(tmp_path / "audio")
