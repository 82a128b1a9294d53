"""What teams that learn a policy with PPO share; methods differ in what their critic sees."""

from marl.policy.config import PolicyConfig
from marl.policy.losses import entropy, policy_loss, value_loss
from marl.policy.normalise import ValueNorm
from marl.policy.team import PolicyTeam

__all__ = ["PolicyConfig", "PolicyTeam", "ValueNorm", "entropy", "policy_loss", "value_loss"]
