"""`python -m pimchip` is the command `pimchip`."""

from pimchip.cli.main import main

main()
