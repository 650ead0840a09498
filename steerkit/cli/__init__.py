"""The command line: a door, and the only room that writes to the terminal."""
