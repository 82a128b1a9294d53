"""Win rates of the scripted teams of `marl.envs.battle.scripted`: yardsticks for learners."""
