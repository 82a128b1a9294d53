"""The ground's reproduction: the Q-learning family on battle, exact resume, and the newcomer's minutes."""
