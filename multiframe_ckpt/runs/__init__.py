"""The parts of keeping a run: its folder, what to keep of it, saves in the background, and being told to leave."""
