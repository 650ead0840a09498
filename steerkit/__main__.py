"""`python -m steerkit`: the command."""

import steerkit.cli.main

steerkit.cli.main.run()
