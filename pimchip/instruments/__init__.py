"""The bench around a chip: supplies, source-meters, multimeters, generators and thermometers over VISA."""
