"""The command line: the one package that writes to the terminal."""
