"""The tape's native form against its torch form, byte for byte."""

import pytest
import torch

from marl.native import steps
from marl.records import Layout
from marl.tape import Tape
from marl.types import Act, Discrete, EnvSpec, FieldSpec, TimeStep

CPU = torch.device("cpu")
B, N, LIMIT = 3, 2, 4

pytestmark = pytest.mark.skipif(not steps.usable(torch.zeros(1)), reason="needs a C++ compiler")


def _spec(actions, reward):
    return EnvSpec(
        name="test", agents=("a", "b"), agent_types=("x", "x"), obs_size=3, state_size=5,
        action_spaces=(Discrete(n=actions),) * N, reward=reward, costs=("fuel",), episode_limit=LIMIT,
        objectives=("u", "v") if reward == "vector" else (),
    )  # fmt: skip


def _step(spec, g):
    """What an env says, and the act before; some tensors lie transposed in memory."""

    def real(*shape):
        return torch.randn(*reversed(shape), generator=g).permute(*reversed(range(len(shape))))

    A, ended = spec.n_actions, torch.rand(B, generator=g) < 0.3
    avail = torch.rand(2, B, N, A, generator=g) < 0.5
    rewards = {"team": {"reward_B": real(B)}, "agent": {"agent_reward_BN": real(B, N)}}
    rewards["vector"] = {"reward_BK": real(B, 2)}
    ts = TimeStep(
        obs_BNO=real(B, N, 3), state_BS=real(B, 5), avail_BNA=avail[0], terminated_B=ended,
        truncated_B=torch.zeros(B, dtype=torch.bool), present_BN=torch.ones(B, N, dtype=torch.bool),
        alive_BN=torch.rand(B, N, generator=g) < 0.7, t_B=torch.zeros(B, dtype=torch.int64),
        cost_BC=real(B, 1), **rewards[spec.reward],
        final_obs_BNO=real(B, N, 3), final_state_BS=real(B, 5), final_avail_BNA=avail[1],
    )  # fmt: skip
    extras = {"log_prob": real(B, N), "code": torch.randint(100, (B, 2), generator=g)}
    return Act(actions_BN=torch.randint(A, (B, N), generator=g), carry={}, extras=extras), ts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("actions", "reward"), [(5, "team"), (300, "agent"), (40_000, "vector")])
def test_native_and_torch_forms_write_the_same_bytes(actions, reward, dtype):
    """Actions of one, two and four bytes; float16 records are converted, an episode ends now and then."""
    spec = _spec(actions, reward)
    extras = {"log_prob": FieldSpec(shape=(N,), dtype=torch.float32)}
    extras["code"] = FieldSpec(shape=(2,), dtype=torch.int64)
    layout = Layout.of(spec, extras, obs_dtype=dtype)
    for keep in (True, False):
        finished = ([], [])
        tapes = [Tape(layout, B, 40, CPU, on_finish=f.append if keep else None) for f in finished]
        assert tapes[0]._recorder is not None
        tapes[1]._recorder = None
        g = torch.Generator().manual_seed(0)
        first = _step(spec, g)[1]
        for tape in tapes:
            tape.start(first)
        for _ in range(12):
            act, ts = _step(spec, g)
            for tape in tapes:
                tape.put(act, ts, bool(ts.done_B.any()))
            states = [tape.state_dict() for tape in tapes]
            assert states[0].keys() == states[1].keys()
            for name, value in states[0].items():
                assert torch.equal(value, states[1][name]), name
            for ours, reference in zip(*finished, strict=True):
                assert torch.equal(ours, reference)
        assert tapes[0].rows_BWR.any()
        assert bool(finished[0]) == keep


def test_a_field_of_another_shape_is_refused():
    spec = _spec(5, "team")
    tape = Tape(Layout.of(spec, {}), B, 10, CPU)
    ts = _step(spec, torch.Generator().manual_seed(0))[1]
    ts.obs_BNO = ts.obs_BNO[..., :2]
    with pytest.raises(RuntimeError, match="must match"):
        tape.start(ts)
