"""The chip's arithmetic, fast: the same integers as pimchip.chip.reference, on torch tensors of any device."""
