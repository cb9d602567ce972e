"""WHAT is run: grids as YAML, their expansion into runs, identity, the store of run directories, reconcile."""
