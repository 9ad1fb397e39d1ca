"""A die that behaves like silicon, and the virtual board around it."""
