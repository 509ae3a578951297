"""TinvNN: one canonical pose for every copy of a point set, so that any network on top is invariant."""
