"""Both forms of the world, the C++ one only where it can be built."""

import pytest
import torch

from marl.envs.navigation import Config
from marl.errors import MarlError
from marl.native import NoCompiler


@pytest.fixture(params=["torch", "native"])
def build(request):
    """Build a world in the form of the test's turn."""

    def make(num_envs, **options):
        try:
            config = Config(form=request.param, **options)
            return config.build(num_envs=num_envs, device=torch.device("cpu"), threads=1)
        except MarlError as error:
            if isinstance(error.__cause__, NoCompiler):
                pytest.skip(str(error))
            raise

    return make
