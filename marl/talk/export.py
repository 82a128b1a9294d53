"""A team that adds messages to values as `marl export` writes it: one step, every message delivered.

Local values and messages are outputs of their own: a caller with a link and a protocol adds, to the local
values of an agent, what it keeps of the others' messages (times 1 / (N - 1) where they are averaged).
"""

from __future__ import annotations

from marl.sparse.export.build import Builder
from marl.sparse.export.policy import CHOSEN, SCORES, Policy
from marl.talk.network import RecurrentSpeaker, TalkingQ
from marl.types import EnvSpec


def policy(spec: EnvSpec, net: TalkingQ, *, dead_talk: bool) -> Policy:
    """Observation, last action, state and message before to values, state, message and local values.

    Args:
        spec: the world.
        net: of the team.
        dead_talk: agents that cannot act are heard, too.
    """
    b, N, H, said = Builder(), spec.n_agents, net.core.hidden, "next_message_BNA"
    obs = b.input("obs_BNO", N, spec.obs_size)
    heard = () if dead_talk else (b.input("alive_BN", N, dtype="bool"),)
    last = b.input("last_action_BN", N, dtype="int64", next=CHOSEN, fill=-1) if net.last_action else None
    h = b.input("hidden_BNH", N, H, next="next_hidden_BNH")
    recurrent = isinstance(net.speaker, RecurrentSpeaker)
    before = b.input("message_BNA", N, spec.n_actions, next=said) if recurrent else ""
    x = b.agent_inputs(obs, last, actions=net.n_actions, ids=net.agent_ids)
    x = b.linear("encoder", net.encoder, x, activation="relu")
    (h,) = b.cell("core", net.core, (x, h), ("next_hidden_BNH",))
    local = b.linear("head", net.head, h, makes="local_BNA")
    if isinstance(net.speaker, RecurrentSpeaker):
        e = b.linear("speaker", net.speaker.encoder, h, activation="elu")
        b.cell("speaker_core", net.speaker.core, (e, before), (said,))
    else:
        e = b.linear("speaker", net.speaker.first, h, activation="elu")
        b.linear("speaker_out", net.speaker.second, e, makes=said)
    (q,) = b.step("hear", (local, said, *heard), (SCORES,), divisor=net.divisor)
    return b.policy(q, h, said, local)
