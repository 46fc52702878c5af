"""What a deployment costs: money from prices, wear of its disks, energy. Prices, drives and watts are data files."""
