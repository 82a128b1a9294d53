"""What the golden vectors need: a battle with every unit put where the test says."""

import pytest
import torch

from marl.envs.battle import Config
from marl.errors import MarlError
from marl.native import NoCompiler
from marl.rng import Rng


@pytest.fixture
def place():
    """Build a map, put the units into env 1 of two (env 0 keeps its own battle) and look."""

    def build(map_name, form, units, last_actions):
        try:
            env = Config(map=map_name, form=form).build(num_envs=2, device=torch.device("cpu"), threads=1)
        except MarlError as error:
            if isinstance(error.__cause__, NoCompiler):
                pytest.skip(str(error))
            raise
        env.reset(Rng(0))
        state = env.state_dict()
        types = torch.tensor([env.unit_names.index(name) for name, *_ in units])
        assert torch.equal(state["type_BU"][1], types), "the map's units come in another order"
        state["pos_BU2"][1] = torch.tensor([[x, y] for _, x, y, _ in units])
        for name in ("hp", "shield", "cooldown", "energy"):
            state[f"{name}_BU"][1] = torch.tensor([float(u[3].get(name, 0)) for u in units])
        state["last_actions_BN"][1] = torch.tensor(last_actions)
        env.load_state_dict(state)
        return env, env.observe()

    return build


@pytest.fixture
def check_golden(place):
    """Compare every entry of observation, available actions and state with the hand-written rows."""

    def check(golden, sizes, form):
        obs_size, state_size, n_actions = sizes
        env, ts = place(golden["map"], form, golden["units"], golden["last_actions"])
        n_agents = env.spec.n_agents

        obs = torch.tensor(golden["obs"], dtype=torch.float32)
        assert obs.shape == (n_agents, obs_size)  # the hand-written rows are whole
        torch.testing.assert_close(ts.obs_BNO[1], obs, rtol=0, atol=1e-6)

        avail = torch.tensor(golden["avail"], dtype=torch.bool)
        assert avail.shape == (n_agents, n_actions)
        assert ts.avail_BNA[1].tolist() == avail.tolist()

        state = torch.tensor([float(number) for row in golden["state"] for number in row])
        assert state.shape == (state_size,)
        torch.testing.assert_close(ts.state_BS[1], state, rtol=0, atol=1e-6)

        alive = [values["hp"] > 0 for _, _, _, values in golden["units"][:n_agents]]
        assert ts.alive_BN[1].tolist() == alive

    return check
