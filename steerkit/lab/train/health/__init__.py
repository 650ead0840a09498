"""How faithful a set of SAEs is."""
