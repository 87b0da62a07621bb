"""``python -m multiframe_ckpt`` is the command ``multiframe-ckpt``."""

from .cli import main

if __name__ == "__main__":
    main()
