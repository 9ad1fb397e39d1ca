"""The SCPI bench twin: emulated instruments on TCP, wired to an emulated chip whose current follows its work.

Five families, one a role: Rigol DP832, Keithley 2450, Keysight 34461A, 33512B and 34970A. What they read is the truth of
pimchip.emulator.instruments.chip through the errors of one seeded specimen; the truth itself cannot be asked for over
the wire.
"""
