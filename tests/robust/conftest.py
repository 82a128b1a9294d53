"""The small worlds and batches of the agents' tests."""

from tests.agents.conftest import make_batch, make_spec, make_step  # noqa: F401 - fixtures
