"""An edit to token labels. ``tokenize``: text to token ids; ``stage``: edits to labels; ``show``: read them
in a terminal."""
