"""Fair teams from a fixed data set: the agents are the objectives."""
