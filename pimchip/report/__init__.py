"""Self-contained HTML pages with plots. Knows how to draw and to write, not where numbers come from."""

from pimchip.report.page import Figure, Section, write_page
from pimchip.report.plots import accuracy_bars, curve_family, histograms, lines

__all__ = ["Figure", "Section", "accuracy_bars", "curve_family", "histograms", "lines", "write_page"]
