"""Files to documents: `reading` selects the reader of a format, `folders` lists and opens the files of a folder."""
