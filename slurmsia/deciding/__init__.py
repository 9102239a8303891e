"""What `round.decide` is made of: who takes part, what each may have, where it sits, and the words for it. Pure."""
