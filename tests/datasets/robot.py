"""The world of data sets that are made up: a robot of two motors and two objectives."""

from marl.types import Box, Discrete, EnvSpec

MOTORS = Box(low=(-1.0, -1.0), high=(1.0, 1.0))


def robot_spec(space: Box | Discrete = MOTORS) -> EnvSpec:
    """Observations of 3 numbers, episodes of at most 6 steps."""
    return EnvSpec(
        name="robot",
        agents=("robot",),
        agent_types=("robot",),
        obs_size=3,
        state_size=3,
        action_spaces=(space,),
        reward="vector",
        objectives=("speed", "energy"),
        episode_limit=6,
    )
