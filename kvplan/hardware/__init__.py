"""Servers: the records that describe one, and the rates that follow from them."""

from kvplan.hardware.spec import Disk, Gpu, Host, Link, Machine, Network

__all__ = ["Disk", "Gpu", "Host", "Link", "Machine", "Network"]
