"""The package over HTTP, as OpenAI's API has it: alone, or in front of another server. Start in `app`.

This floor knows the web; the work is done below.
"""
