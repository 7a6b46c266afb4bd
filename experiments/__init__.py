"""What is done with finished runs: it meets the stages only by command lines, their defaults, run.json."""
