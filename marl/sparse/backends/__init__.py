"""Ways to execute a grouped layer; `marl.sparse.linear.grouped_linear` picks one."""
