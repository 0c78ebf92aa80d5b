"""What is read off weights, and the rates at which it falls."""
