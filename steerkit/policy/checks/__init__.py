"""What a policy that loads can still get wrong: names, conflicts, schemas, rules that never act."""
