"""What flows: the weights, the network that reads them, the laws they start from, the experiments
that [M] published.
"""
