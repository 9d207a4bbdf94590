"""`python -m sparseopd` is the `sparseopd` command."""

from sparseopd.cli import main

main()
