"""The exact gradient of the layered network, by one sweep forward and one backward: in plain
torch, which is the reference, and by a kernel compiled for the sizes at hand.
"""
