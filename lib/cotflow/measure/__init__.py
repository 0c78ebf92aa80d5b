"""What is read off weights, and the exponents and limits of what was read."""
