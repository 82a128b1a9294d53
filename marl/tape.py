"""Running episodes: what is written after every vector step, before it is learned from or remembered.

| symbol | name here | meaning |
|---|---|---|
| B, R | num_envs, layout.size | envs; bytes of a record (marl/records.py) |
| W | width | entries that the tape holds for each env |

The tape is the one place that turns a TimeStep's same-step auto-reset into entries: where an episode
ended, one entry with its final observation, then one with the first observation of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from marl.errors import MarlError
from marl.native import steps
from marl.records import EXTRA, START, TERMINATED, TRUNCATED, Layout, pack_bits
from marl.types import Act, TimeStep

# Reward and cost fields of a record, and where TimeStep has them.
_REWARDS = {
    "reward": "reward_B",
    "agent_reward": "agent_reward_BN",
    "reward_vector": "reward_BK",
    "cost": "cost_BC",
}


class Tape:
    """Running sequences of entries, one row of records per env.

    Args:
        layout: of the records.
        num_envs: B.
        width: entries W per env. With `on_finish` one whole episode must fit: the limit + 1.
        device: where the env's tensors live.
        on_finish: called with the records (L + 1, R) of each episode that ended, in the order of envs;
            the row then begins anew. Without it episodes follow each other on the tape.
    """

    def __init__(
        self,
        layout: Layout,
        num_envs: int,
        width: int,
        device: torch.device,
        on_finish: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.layout, self.width, self._on_finish = layout, width, on_finish
        self.rows_BWR = torch.zeros(num_envs, width, layout.size, dtype=torch.uint8, device=device)
        self.at_B = torch.zeros(num_envs, dtype=torch.int64, device=device)  # the newest entry of each env
        self._highest = 0  # no entry of at_B is above
        self._flat_R = self.rows_BWR.view(-1, layout.size)
        self._base_B = torch.arange(num_envs, device=device) * width
        self._record_BR = torch.zeros(num_envs, layout.size, dtype=torch.uint8, device=device)
        self._new = layout.views(self._record_BR)
        self._rewards = [(field, name) for field, name in _REWARDS.items() if field in self._new]
        self._no_flags_B = torch.zeros(num_envs, dtype=torch.uint8, device=device)
        N, A = layout.spec.n_agents, layout.spec.n_actions
        bytes_ = layout.fields["bits"].bytes
        self._bits_BK = torch.zeros(num_envs, 8 * bytes_, dtype=torch.bool, device=device)
        self._avail_BNA = self._bits_BK[:, : N * A].view(num_envs, N, A)
        self._alive_BN = self._bits_BK[:, N * A : N * A + N]
        self._avail_kind = self._avail_BNA.shape, torch.bool
        self._recorder: steps.Recorder | None = None
        if steps.usable(self._flat_R):
            place = layout.fields["bits"].offset, self._base_B, self._flat_R
            self._recorder = steps.Recorder(self._record_BR, self._bits_BK, *place)

    def start(self, ts: TimeStep) -> None:
        """Forget everything; the first entry of every env is that of `reset`."""
        self.at_B.zero_()
        self._highest = 0
        self._record_BR.zero_()
        self._new["action"].fill_(-1 if self.layout.spec.discrete else 0)
        self._new["flags"].fill_(START)
        self._write({}, ts.obs_BNO, ts.state_BS, ts.avail_BNA, ts.alive_BN)

    def put(self, act: Act, ts: TimeStep, ended: bool = True) -> None:
        """Add the entries that the action led to.

        Args:
            act: what was done at the newest entries.
            ts: what `env.step` answered.
            ended: False where the caller knows that no episode ended.

        Raises:
            MarlError: an episode is longer than the width.
        """
        fields = {"action": act.actions_BN, **{field: getattr(ts, name) for field, name in self._rewards}}
        fields |= {EXTRA + name: value for name, value in act.extras.items()}
        self.at_B += 1
        self._highest += 1
        if ended:
            for name, value in fields.items():
                self._new[name].copy_(value)
            self._end(ts)
            fields = {}
        else:
            fields["flags"] = self._no_flags_B
        self._write(fields, ts.obs_BNO, ts.state_BS, ts.avail_BNA, ts.alive_BN)

    def _end(self, ts: TimeStep) -> None:
        """Write final observations where episodes ended, and make the new record one that starts there.

        Envs that go on get a final observation too, which `put` overwrites at once. Alive of the final
        entry repeats the entry before: TimeStep has none, and nobody acts there.
        """
        new, done_B = self._new, ts.done_B
        new["flags"].copy_(ts.terminated_B * TERMINATED + ts.truncated_B * TRUNCATED)
        assert ts.final_obs_BNO is not None
        assert ts.final_state_BS is not None
        assert ts.final_avail_BNA is not None
        self._write({}, ts.final_obs_BNO, ts.final_state_BS, ts.final_avail_BNA, None)
        if self._on_finish is not None:
            self._hand_over(done_B, self._on_finish)
        else:
            self.at_B += done_B
            self._highest += 1
        new["action"].masked_fill_(_like(done_B, new["action"]), -1 if self.layout.spec.discrete else 0)
        for name, _ in self._rewards:
            new[name].masked_fill_(_like(done_B, new[name]), 0.0)
        new["flags"].copy_(done_B)  # START is bit 0

    def _hand_over(self, done_B: Tensor, on_finish: Callable[[Tensor], None]) -> None:
        envs = done_B.nonzero().flatten().tolist()
        for env, length in zip(envs, self.at_B[done_B].tolist(), strict=True):
            on_finish(self.rows_BWR[env, : length + 1])
        self.at_B.masked_fill_(done_B, 0)

    def _write(
        self,
        fields: dict[str, Tensor],
        obs_BNO: Tensor,
        state_BS: Tensor,
        avail_BNA: Tensor,
        alive_BN: Tensor | None,
    ) -> None:
        """Put the record, completed by all these fields, at `at_B`."""
        if self._highest >= self.width:
            self._highest = int(self.at_B.max())
            if self._highest >= self.width:
                raise MarlError(
                    f"env={self.layout.spec.name} ran past its episode_limit of "
                    f"{self.layout.spec.episode_limit} steps: its spec or its truncation is wrong"
                )
        fields = {**fields, "obs": obs_BNO, "state": state_BS}
        if self._recorder is not None and (avail_BNA.shape, avail_BNA.dtype) == self._avail_kind:
            self._write_natively(self._recorder, fields, avail_BNA, alive_BN)
            return
        for name, value in fields.items():
            self._new[name].copy_(value)
        self._avail_BNA.copy_(avail_BNA)
        if alive_BN is not None:
            self._alive_BN.copy_(alive_BN)
        self._new["bits"].copy_(pack_bits(self._bits_BK))
        # As words of eight bytes: torch copies element by element.
        to, record = self._flat_R.view(torch.int64), self._record_BR.view(torch.int64)
        to.index_copy_(0, self._base_B + self.at_B, record)

    def _write_natively(
        self, recorder: steps.Recorder, fields: dict[str, Tensor], avail_BNA: Tensor, alive_BN: Tensor | None
    ) -> None:
        """The same in one call; fields of another dtype than the memory's are copied by torch before."""
        plan = []
        for name, value in fields.items():
            to, stored = self._new[name], self.layout.fields[name]
            if value.shape == to.shape and (kind := recorder.kind(value.dtype, to.dtype)):
                plan.append((stored.offset, kind, value))
            else:
                to.copy_(value)
        recorder.write(plan, avail_BNA, alive_BN, self.at_B)

    def rewind(self) -> None:
        """Make the newest entry of every env its first; what was before is forgotten."""
        self.rows_BWR[:, 0] = self._flat_R.index_select(0, self._base_B + self.at_B)
        self.at_B.zero_()
        self._highest = 0

    def take(self) -> tuple[Tensor, Tensor]:
        """Records (B, T + 1, R) of all envs for `to_batch`, and the index of each env's newest entry.

        T is the most entries that any env has; the others repeat their newest one.
        """
        T = int(self.at_B.max()) + 1
        step_U = torch.arange(T + 1, device=self.at_B.device)
        at_BU = torch.minimum(step_U, self.at_B[:, None]) + self._base_B[:, None]
        return self._flat_R.index_select(0, at_BU.flatten()).view(*at_BU.shape, -1), self.at_B.clone()

    def state_dict(self) -> dict[str, Tensor]:
        """The entries of all envs, the record being written and its unpacked bits."""
        used = int(self.at_B.max()) + 1
        stale_BU = torch.arange(used, device=self.at_B.device) > self.at_B[:, None]
        return {
            "rows": self.rows_BWR[:, :used].masked_fill(stale_BU[..., None], 0),
            "at": self.at_B.clone(),
            "record": self._record_BR.clone(),
            "bits": self._bits_BK.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        rows_BUR = state["rows"]
        expected = (self.rows_BWR.shape[0], self.layout.size)
        if (rows_BUR.shape[0], rows_BUR.shape[2]) != expected or rows_BUR.shape[1] > self.width:
            raise MarlError(
                f"running episodes of {rows_BUR.shape[0]} envs, {rows_BUR.shape[2]} bytes an entry, do not "
                f"fit {expected[0]} envs, {expected[1]} bytes: resume with the same env, agent, num_envs"
            )
        self.rows_BWR[:, : rows_BUR.shape[1]].copy_(rows_BUR)
        self.at_B.copy_(state["at"])
        self._highest = int(self.at_B.max())
        self._record_BR.copy_(state["record"])
        self._bits_BK.copy_(state["bits"])


def _like(mask_B: Tensor, value: Tensor) -> Tensor:
    """The mask with as many trailing dimensions of size 1 as the value has."""
    return mask_B.view(-1, *[1] * (value.dim() - 1))
