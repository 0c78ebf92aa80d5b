"""Fields and networks as functions of the depth variable, neural ODEs, the training of the
limit, networks run at another depth or backwards.
"""
