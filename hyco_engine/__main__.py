"""`python -m hyco_engine`: the command line."""

from hyco_engine.cli import main

main()
