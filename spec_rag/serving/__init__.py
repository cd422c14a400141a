"""HTTP server with OpenAI's API, alone or as a gateway to another server. Entry point: `app`."""
