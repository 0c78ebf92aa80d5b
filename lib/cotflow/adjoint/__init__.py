"""The exact gradient of the layered network, by a plain and by a compiled adjoint."""
