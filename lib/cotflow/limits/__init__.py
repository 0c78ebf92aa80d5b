"""Fields and networks as functions of the depth variable, neural ODEs, networks run at another
depth or backwards.
"""
