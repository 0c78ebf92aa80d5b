"""Gradient flows: step methods, step control, schedules, runs that are taken up again."""
