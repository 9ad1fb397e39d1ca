"""A die that behaves as a measured one: its tables come from a profile instead of from a draw."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from pimchip.chip import AdcTables, ChipSpec, Mac
from pimchip.emulator.state import Conditions
from pimchip.errors import InputError
from pimchip.profile import Profile
from pimchip.profile.tables import noise_by_sum


class ProfileDie:
    """Converters as a profile measured them, and exact cells; only operating points it measured can be opened.

    used: converters that will be asked, None for all; the profile need not have a curve of the others.
    """

    cell_draws = None

    def __init__(self, profile: Profile, spec: ChipSpec, used: Collection[int] | None = None) -> None:
        if profile.spec_hash != spec.hash:
            raise InputError(
                f"profile {profile.path} is of chip {profile.chip} ({profile.spec_hash[:8]}), not of {spec.name} ({spec.hash[:8]})"
            )
        self._profile, self._used = profile, used

    @property
    def uid(self) -> str:
        """The measured die's name, marked as a twin."""
        return f"{self._profile.uid}-twin"

    def tables(self, mac: Mac, trim: NDArray[np.int64], at: Conditions) -> AdcTables:
        """As measured, noise that depends on the code with it where that was: trim and conditions are those of the measurement."""
        tables, shape = self._profile.tables(mac, self._used), self._profile.noise_shape(mac)
        return tables if shape is None else noise_by_sum(tables, shape)
