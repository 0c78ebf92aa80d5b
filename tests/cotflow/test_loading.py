"""Slow libraries are loaded by the calls that need them, not by the modules."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys
import torch
from cotflow import TANH, mean_field_net
from cotflow.limits.neural_ode import integrate
from cotflow.limits.risk_field import risk_gradient
from cotflow.transport import entropic, geodesics, sliced
from cotflow.transport.exact import conditional_distance

def loaded():
    return [name for name in ("ot", "torchdiffeq") if name in sys.modules]

mu, nu = torch.zeros(2, 3, 2), torch.zeros(2, 4, 2)
conditional_distance(mu, mu)
risk_gradient(mean_field_net(TANH), torch.zeros(2, 4, 4), mu, mu, width=4)
before = loaded()
conditional_distance(mu, nu)
simplex = loaded()
integrate(lambda s, h: h, torch.ones(1), torch.tensor([0.0, 1.0]))
print(json.dumps([before, simplex, loaded()]))
"""


def test_transport_and_ode_solvers_are_loaded_on_use():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], ["ot"], ["ot", "torchdiffeq"]]
