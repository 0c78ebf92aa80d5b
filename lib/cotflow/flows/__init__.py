"""The ways to follow a gradient: step methods, steps of fixed and of controlled length, what is
recorded, runs that are taken up again.
"""
