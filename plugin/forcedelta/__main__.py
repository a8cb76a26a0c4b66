"""``python -m forcedelta``: the console command."""

from .cli import main

main()
