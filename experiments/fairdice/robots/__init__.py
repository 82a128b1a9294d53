"""FairDICE on MuJoCo's robots with D4MORL-like rewards and data of our own."""
