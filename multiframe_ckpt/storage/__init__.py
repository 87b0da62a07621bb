"""How bytes reach a disk and come back: all-or-nothing writes, mapped reads, digests."""
