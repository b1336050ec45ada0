"""How fast it is: ratios measured in one run, side by side, never compared with a figure of another machine."""
