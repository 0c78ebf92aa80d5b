"""Other seeds: how often a claim does not hold when its chapter draws everything anew."""
