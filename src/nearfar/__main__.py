"""`python -m nearfar` is the command `nearfar`; so is `torchrun … -m nearfar`."""

from nearfar.cli import main

main()
