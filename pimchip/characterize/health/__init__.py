"""What is broken in a die: cells, rows and converters by name, with the sizes that are found and a false-alarm rate."""

from pimchip.characterize.health.run import ALPHA, examine, measurable

__all__ = ["ALPHA", "examine", "measurable"]
