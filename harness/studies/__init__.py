"""Studies of credit methods without training (replay, intervention), and of recorded runs (published claims)."""
