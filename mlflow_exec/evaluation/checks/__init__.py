"""The checks, one file each; `registry.CHECKS` names them."""
