"""A search on nodes that come and go, side by side: lent slots, fixed slots, and stock Ray Tune with Ray Train."""
