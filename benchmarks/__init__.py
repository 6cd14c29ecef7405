"""Each module prints its figures and the command that repeats them."""
