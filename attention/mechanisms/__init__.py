"""One file per mechanism; every module here is found by `attention.registry`."""
