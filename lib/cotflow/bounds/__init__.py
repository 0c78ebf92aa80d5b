"""What follows from the norms of a state: constants of both papers and of the companion."""
