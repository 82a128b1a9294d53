"""TMC against all-to-all, VBC, SchedNet, TarMAC and silence: messages, wins, and wins under losses."""
