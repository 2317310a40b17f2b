"""One tiny build that the tests of this room read."""

from pathlib import Path

import pytest

from mllm.data_recipes.build import build_mixture
from mllm.data_recipes.config import HERE

TINY = HERE / "mixtures" / "tiny.yaml"


@pytest.fixture(scope="session")
def tiny_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted build of tiny.yaml."""
    output = tmp_path_factory.mktemp("tiny") / "built"
    build_mixture(TINY, output, workers=2)
    return output
