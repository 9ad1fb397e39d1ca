"""Does a board do what the rest of pimchip relies on? Every method of Board, on any board, against plain arithmetic.

What a board lacks by its capabilities is told apart from what it does wrongly. Conversions are judged by what sound parts
may give (pimchip.board.margins) and by the board's own noise, as nothing says what a chip of silicon must give; all that a
board computes in its processor is exact and must be right to the bit.
"""

from pimchip.board.conformance.run import Conformance, Outcome, Result, check_board

__all__ = ["Conformance", "Outcome", "Result", "check_board"]
