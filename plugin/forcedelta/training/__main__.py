"""``python -m forcedelta.training``: the commands of `forcedelta.cli.training`."""

from forcedelta.cli.training import main

if __name__ == "__main__":
    main()
