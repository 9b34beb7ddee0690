"""Populations: random search, PBT, FIRE PBT and MF-PBT over any pure trainer."""
