"""From files and a question to an answer with the place of its support. Start in `answer`."""
