"""Measure this server and fit the machine profile that the other commands read."""
