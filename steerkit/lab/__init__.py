"""The workshop: SAEs are trained, features found, policies proved and calls explained."""
