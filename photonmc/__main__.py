"""`python -m photonmc` is the command line."""

from photonmc.cli import main

if __name__ == "__main__":
    main()
