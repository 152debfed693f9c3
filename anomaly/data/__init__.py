"""From files to samples and pixels: decoding, folder layouts, splits."""
