"""Numbers as they come: the names of :mod:`cotflow.network.numbers`."""

from cotflow.network.numbers import Number as Number
from cotflow.network.numbers import plain as plain
from cotflow.network.numbers import real as real
from cotflow.network.numbers import shown as shown
from cotflow.network.numbers import whole as whole
