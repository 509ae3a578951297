"""What proves the systems: the protocols of the papers on fixed data sets, beside their published figures.

`make study NAME=gbwbn` (or `python -m studies gbwbn [PROTOCOL ...]`) runs one system's protocols and writes
`studies/RESULTS/<slug>.md`. Nothing here is part of the installed package; a study uses the public API and
`linmap.experiment`, as `linmap compare` does.
"""
