"""Flow solvers for infinitely deep, arbitrarily wide residual networks."""
