"""FairDICE's studies."""
