"""Whole stories made of the packages below: what several commands share, and the demo."""
