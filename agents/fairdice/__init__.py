"""FairDICE: fair offline learning with several objectives. `tabular` solves it exactly on tables."""
