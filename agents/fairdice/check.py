"""What a data set must have before a welfare can be learned from it, said with the objective and the remedy.

Reference: the failures that the replication (Adema et al., TMLR 2026) and trials of this project met.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from marl.agents.fairdice.welfare import Welfare
from marl.errors import MarlError

_REMEDY = "use welfare=patched_log, drop the objective, or add data that reward it"


def refuse_unrewarded(welfare: Welfare, most_K: Tensor, names: Sequence[str]) -> None:
    """Raise MarlError where an objective's largest reward is not above 0 and the utility cannot bear that.

    Args:
        welfare: u.
        most_K: the largest reward of each objective in the data, as the learner sees it.
        names: of the objectives.
    """
    if not welfare.needs_reward:
        return
    for k, most in enumerate(most_K.tolist()):
        if most <= 0:
            raise MarlError(
                f"objective {k} ({names[k]}) is never rewarded in the data: its largest reward is "
                f"{most:g}, so its weight would grow without bound; {_REMEDY}"
            )
