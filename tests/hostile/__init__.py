"""Inputs of the campaign, area by area; an input is made from a random generator alone."""
