"""OneFlow's folders and files."""
